"""Real trainings by the real commands, and what they score on views they never saw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.errors import UserError

DEFAULT_METHOD = "difix3d-splatfacto"


@dataclass(frozen=True)
class Run:
    """A finished training."""

    config: Path  # its config.yml
    seconds: float  # wall clock of the whole command
    peak_mb: float  # most memory it had, see ``process.run``


@dataclass(frozen=True)
class HeldOutView:
    """One evaluation view of a finished training."""

    truth: Tensor  # [H, W, 3] in [0, 1]
    render: Tensor  # [H, W, 3] in [0, 1]
    enhanced: Tensor | None  # [H, W, 3] in [0, 1]
    name: str = ""  # of the photograph's file
    seconds: float | None = None  # the enhancer took, the first time with loading it
    problem: str = ""  # why there is no enhanced picture, if it was asked for


@dataclass(frozen=True)
class Look:
    """All evaluation views of a finished training."""

    views: list[HeldOutView]
    gaussians: int
    seconds: float  # the enhancer's, over all views


def config_of(output: Path, name: str, method: str = DEFAULT_METHOD) -> Path:
    """The config.yml of what ``train`` made."""
    return output / name / method / "run" / "config.yml"


def train(
    data: Path,
    output: Path,
    name: str,
    flags: Sequence[str] = (),
    log: Path | None = None,
    method: str = DEFAULT_METHOD,
) -> Run:
    """Run ``ns-train METHOD`` on a scene, in a process of its own.

    Args:
        data: the scene.
        output: folder of nerfstudio's outputs; the training goes to ``output/NAME/METHOD/run``.
        name: experiment name.
        flags: further flags.
        log: where its output is appended; None shows it.
        method: which.

    Raises:
        UserError: it failed; the message names the log.
    """
    from difix3d_ns.evaluation import process

    arguments = [
        method,
        *("--data", str(data), "--output-dir", str(output), "--experiment-name", name, "--timestamp", "run"),
        *("--vis", "tensorboard", *flags),
    ]
    output.mkdir(parents=True, exist_ok=True)
    peak_file = output / f".{name}.peak.json"
    started = time.perf_counter()
    with log.open("a") if log is not None else nullcontext() as file:
        code, peak = process.run(arguments, peak_file, file)
    seconds = time.perf_counter() - started
    peak_file.unlink(missing_ok=True)
    if code != 0:
        raise UserError(f"training {name} on {data} failed" + (f"; see {log}" if log else ""))
    return Run(config_of(output, name, method), seconds, peak)


@torch.no_grad()
def held_out_views(config: Path, enhance: bool, weights: str | None = None) -> list[HeldOutView]:
    """Render all evaluation views of a finished training.

    Args:
        config: its config.yml.
        enhance: whether to run the enhancer as well.
        weights: of the enhancer; None: as in the training.
    """
    return look(config, enhance, weights=weights).views


@torch.no_grad()
def look(
    config: Path,
    enhance: bool,
    strength: float | None = None,
    step: int | None = None,
    weights: str | None = None,
) -> Look:
    """Render all evaluation views of a finished training, and measure what that takes.

    Environment variables change nothing here.

    Args:
        config: its config.yml.
        enhance: whether to run the enhancer as well.
        strength: of the enhancer, from 0 to 1; None: as in the training.
        step: of the checkpoint; None: the last.
        weights: of the enhancer; None: as in the training.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    def as_wanted(trainer: Any) -> Any:
        trainer.load_step = step
        enhancer = trainer.pipeline.enhancer
        enhancer.from_environment, enhancer.mode = False, "key"
        enhancer.strength = enhancer.strength if strength is None else strength
        enhancer.weights = weights or enhancer.weights
        return _where_it_is(config, trainer)

    _, pipeline, _, _ = eval_setup(config, test_mode="test", update_config_callback=as_wanted)
    views, whole = [], 0.0
    datamanager: Any = pipeline.datamanager
    names = [Path(path).name for path in datamanager.eval_dataset.image_filenames]
    for name, (camera, batch) in zip(names, datamanager.fixed_indices_eval_dataloader, strict=True):
        outputs = pipeline.model.get_outputs_for_camera(camera)
        truth = pipeline.model.composite_with_background(
            pipeline.model.get_gt_img(batch["image"]), outputs["background"]
        )
        enhanced, problem = None, ""
        started = time.perf_counter()
        if enhance:
            try:
                enhanced = outputs["enhanced"].cpu()
            except Exception as error:  # whatever a fixer does, the render can be shown all the same
                problem = str(error) or type(error).__name__
        seconds = time.perf_counter() - started
        whole += seconds
        took = seconds if enhanced is not None else None
        views.append(HeldOutView(truth.cpu(), outputs["rgb"].cpu(), enhanced, name, took, problem))
    model: Any = pipeline.model
    return Look(views, len(model.means), whole if enhance else 0.0)


def _where_it_is(path: Path, trainer: Any) -> Any:
    """Checkpoints lie beside config.yml, also if the folder was moved; a relative scene may be given from above it."""
    folder = path.resolve().parent
    trainer.relative_model_dir = folder / trainer.relative_model_dir
    manager = trainer.pipeline.datamanager
    data = manager.data or trainer.data
    if data is not None and not data.is_absolute() and not data.exists():
        manager.data = next((above / data for above in folder.parents if (above / data).exists()), data)
    return trainer
