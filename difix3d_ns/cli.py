"""The ``difix3d`` command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from difix3d_ns.errors import UserError


def demo(output: Path = Path("demo"), seed: int = 0, steps: int | None = None) -> None:
    """Make a procedural scene, train it with and without pseudo-views, and compare.

    Args:
        output: folder for scene, trainings, results.json and comparison.png.
        seed: of the scene.
        steps: training steps (unset: the defaults of the device).
    """
    from difix3d_ns.demo import run_demo

    run_demo(output, seed, steps)


def demo_scene(output: Path, seed: int = 0) -> None:
    """Write a small procedural scene with known truth, ready for ns-train.

    Args:
        output: folder to write.
        seed: of the scene.
    """
    from difix3d_ns.curation.procedural import demo_scene as write

    write(output, seed=seed)
    print(f"Train on it: ns-train difix3d-splatfacto --data {output}")


def photographs(output: Path, seed: int = 0, count: int = 24) -> None:
    """Write unposed photographs of a procedural scene, to try ns-process-data on.

    Args:
        output: folder to write.
        seed: of the scene.
        count: how many.
    """
    from difix3d_ns.curation.procedural import photographs as write

    write(output, seed=seed, count=count)
    print(f"Pose them: ns-process-data images --data {output} --output-dir SCENE --no-gpu --matching-method exhaustive")


def fix(
    inputs: Annotated[list[Path], tyro.conf.Positional],
    output: Path,
    reference: tuple[Path, ...] = (),
    weights: str = "embedded",
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    force: bool = False,
    nearest: int = 1,
    compile: bool = False,
) -> None:
    """Repair pictures outside of any training.

    Started again, an interrupted folder goes on where it stopped. Without cameras references cannot be aligned, which
    is where the embedded fixer's gain comes from: it leaves the pictures as they are here. Weights trained on
    unaligned references, such as nvidia/difix_ref, repair them.

    Args:
        inputs: pictures or folders of pictures.
        output: a picture for one picture, else a folder; names are kept.
        reference: photographs of the same scene, shown with every picture; of a folder the nearest by name.
        weights: embedded, a folder of weights, or a hub id such as nvidia/difix_ref (which downloads 5 GB).
        device: cpu or cuda (unset: cuda if there is one).
        dtype: float32, bfloat16 or float16 (unset: the fastest the device handles well).
        force: overwrite pictures that are there.
        nearest: how many photographs of a folder of references are shown.
        compile: compile the networks for each size of pictures first: worth it for many pictures on cuda.
    """
    import torch

    from difix3d_ns.fixing import fix_pictures

    precision = getattr(torch, dtype) if dtype else None
    fix_pictures(inputs, output, reference, weights, device, precision, force, nearest, compile)


def convert(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    base: str,
    output: Path,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Turn a training checkpoint of the official Difix code into a folder of weights that is safe to load.

    Nothing in the checkpoint is run. The folder holds JSON and safetensors and is what --weights takes.

    Args:
        checkpoint: model_N.pkl.
        base: what was trained from, as a folder or a hub id (which downloads): stabilityai/sd-turbo, or Difix weights.
        output: folder to write.
        dtype: precision of the weights written: float32, bfloat16 or float16 (unset: as they are).
    """
    import torch

    from difix3d_ns.fixers.published.checkpoint import convert as write

    write(checkpoint, base, output, getattr(torch, dtype) if dtype else None)
    print(f"Use it: difix3d fix PICTURES --output FOLDER --weights {output}")


def train_fixer(
    recipe: Annotated[str, tyro.conf.Positional],
    output: Path,
    pairs: Path | None = None,
    max_minutes: float | None = None,
    device: str = "cpu",
) -> None:
    """Train the embedded fixer.

    Args:
        recipe: a recipe of configs/fixer by name (embedded, smoke) or the path of a YAML file.
        output: folder for weights, metrics.json and what resuming needs.
        pairs: folder of pairs to train on (unset: they are made from the recipe's scenes).
        max_minutes: end after so long (unset: as the recipe says).
        device: cpu or cuda.
    """
    from difix3d_ns.training.train_fixer import train_fixer as train

    train(recipe, output, pairs, device, max_minutes)


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "demo-scene": demo_scene,
    "photographs": photographs,
    "fix": fix,
    "convert": convert,
    "train-fixer": train_fixer,
}


def main() -> None:
    """Entry point."""
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, description="Diffusion-fixed Gaussian splatting for nerfstudio.")
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
