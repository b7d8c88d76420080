"""Pairs for training and judging a fixer: a splat seen from a held-out pose, the photograph taken there, references."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numba
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from difix3d_ns.curation.capture import Capture, load_capture
from difix3d_ns.curation.reconstruct import Schedule, Splat, reconstruct
from difix3d_ns.geometry.reference import Reference
from difix3d_ns.pseudoviews.references import choose_references

Kind = Literal["full", "halves", "snapshots"]
WORTHLESS = 14.0  # dB: below this a render shows nothing a fixer could learn from
_SNAPSHOTS = (0.25, 0.5, 0.75)
_FORMAT = 1


@dataclass(frozen=True)
class PairOptions:
    """What to make of each scene."""

    long_side: int = 288
    """Pixels on the longer side of every image."""
    steps: int = 700
    """Steps of the reconstruction from all training views; halves get 70 %."""
    max_gaussians: int = 15000
    """Densification stops there."""
    references: int = 4
    """References per sample."""
    kinds: tuple[Kind, ...] = ("full", "halves", "snapshots")
    """full: all training views; halves: every other one; snapshots: under-trained, at 25, 50 and 75 %."""
    prefix: str = ""
    """Put before the scenes' names; ``val_`` makes them validation."""
    white_background: bool = False
    """The photographs show an object before white: mask it."""
    threads: int = 1
    """Threads of one process; several processes on different scenes use several cores better."""
    seed: int = 0
    """Of the reconstruction: order of the views, backgrounds, splits."""


def make_pairs(scene: str, output: Path, options: PairOptions, progress: Progress | None = None) -> dict[str, dict]:
    """Reconstruct one scene several ways and write samples ``output/<scene>/<reconstruction>/<index>.npz``.

    Each reconstruction has a ``summary.json`` beside its samples, written last: one that has it is not made again.

    Args:
        scene: ``procedural:SEED`` or a nerfstudio dataset with train and test file names.
        output: root folder.
        options: what to make.
        progress: where to show it.

    Returns:
        The summaries by reconstruction: samples, dropped, psnr, gaussians, seconds.

    Raises:
        FileNotFoundError, ValueError: see ``load_capture``.
    """
    name = options.prefix + (
        f"procedural_{int(scene[11:]):05d}" if scene[11:].isdigit() else Path(scene).resolve().name
    )
    plans = {"full": 1.0, "half_a": 0.7, "half_b": 0.7}
    plans = {k: v for k, v in plans.items() if ("full" if k == "full" else "halves") in options.kinds}
    if options.kinds == ("snapshots",):
        plans = {"full": 1.0}
    root = output / name
    todo = [k for k in plans if not (root / k / "summary.json").is_file()]
    if todo:
        capture = load_capture(scene, options.long_side, options.white_background)
        for kind in todo:
            _make_reconstruction(capture, kind, plans[kind], root, options, progress)
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(root.glob("*/summary.json"))}


def _make_reconstruction(
    capture: Capture, kind: str, share: float, root: Path, options: PairOptions, progress: Progress | None
) -> None:
    parts = {"full": capture.train, "half_a": capture.train[::2], "half_b": capture.train[1::2]}
    views = parts[kind]
    if len(views) < 3:
        parts |= {"half_a": capture.train[: len(capture.train) - 1], "half_b": capture.train[1:]}
        views = parts[kind]
    held_out = sorted(set(capture.test) | (set(capture.train) - set(views)))
    schedule = Schedule(steps=int(options.steps * share), max_gaussians=options.max_gaussians)
    task = progress.add_task(f"{root.name}/{kind}", total=schedule.steps) if progress else None
    start = time.perf_counter()
    splats = reconstruct(
        capture,
        views,
        schedule,
        seed=options.seed,
        snapshots=_SNAPSHOTS if kind == "full" and "snapshots" in options.kinds else (),
        on_step=lambda: progress.advance(task) if progress and task is not None else None,
    )
    seconds = time.perf_counter() - start
    for fraction, splat in sorted(splats.items()):  # the finished one last: its summary marks all as done
        finished = fraction == 1.0
        label = kind if finished else f"{kind}_{round(fraction * 100)}"
        # Under-trained renders resemble each other: a third of the views of each snapshot is enough.
        poses = held_out if finished else held_out[round(4 * fraction) - 1 :: 3]
        folder = root / label
        folder.mkdir(parents=True, exist_ok=True)
        candidates = [_reference(capture, splat, i) for i in views]
        scores = [
            write_sample(folder / f"{i:04d}.npz", capture, splat, candidates, i, options.references) for i in poses
        ]
        kept = [s for s in scores if s >= WORTHLESS]
        summary = {
            "format": _FORMAT,
            "scene": root.name,
            "samples": len(kept),
            "dropped": len(scores) - len(kept),
            "psnr": float(np.mean(kept)) if kept else None,
            "train_psnr": float(
                np.mean([_psnr(splat.render(capture.cameras[i])[0], capture.images[i]) for i in views])
            ),
            "gaussians": len(splat.means),
            "train_views": len(views),
            "steps": round(schedule.steps * fraction),
            "seconds": round(seconds * fraction, 1),
        }
        _write_atomically(folder / "summary.json", json.dumps(summary, indent=1).encode())
    if progress and task is not None:
        progress.remove_task(task)


def write_sample(
    path: Path, capture: Capture, splat: Splat, candidates: Sequence[Reference], index: int, count: int
) -> float:
    """Write one sample unless its render is worthless.

    Keys: image [H, W, 3] uint16 (65535 = 1), truth [H, W, 3] uint8, depth [H, W] float16 (median, 0 = nothing), alpha
    [H, W] uint8, camera_to_world [4, 4] (OpenCV axes), intrinsics [3, 3]; ref_image [K, H, W, 3] uint8, ref_depth,
    ref_alpha, ref_camera_to_world, ref_intrinsics alike, best reference first; ref_mask [K, H, W] uint8 where objects
    are masked.

    Args:
        path: of the ``.npz`` file.
        capture: photographs and cameras.
        splat: what to render.
        candidates: its training views, from which references are chosen.
        index: the held-out view.
        count: how many references.

    Returns:
        The render's PSNR in dB; below ``WORTHLESS`` nothing was written.
    """
    camera, truth = capture.cameras[index], capture.images[index]
    image, depth, alpha = splat.render(camera)
    score = _psnr(image, truth)
    if score < WORTHLESS:
        return score
    chosen = [candidates[i] for i in choose_references(camera, depth, alpha, candidates, count)]
    arrays = {
        "image": (image * 65535).round().numpy().astype(np.uint16),
        "truth": _bytes(truth),
        "depth": depth[..., 0].numpy().astype(np.float16),
        "alpha": _bytes(alpha[..., 0]),
        "camera_to_world": camera.camera_to_world.numpy().astype(np.float32),
        "intrinsics": camera.intrinsics.numpy().astype(np.float32),
        "ref_image": np.stack([_bytes(r.image) for r in chosen]),
        "ref_depth": np.stack([_given(r.depth)[..., 0].numpy().astype(np.float16) for r in chosen]),
        "ref_alpha": np.stack([_bytes(_given(r.alpha)[..., 0]) for r in chosen]),
        "ref_camera_to_world": np.stack([_given(r.camera).camera_to_world.numpy().astype(np.float32) for r in chosen]),
        "ref_intrinsics": np.stack([_given(r.camera).intrinsics.numpy().astype(np.float32) for r in chosen]),
    }
    if capture.masks is not None:
        arrays["ref_mask"] = np.stack([_bytes(_given(r.mask)[..., 0]) for r in chosen])
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # several processes may share a root
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, path)
    return score


def _reference(capture: Capture, splat: Splat, index: int) -> Reference:
    _, depth, alpha = splat.render(capture.cameras[index])
    mask = None if capture.masks is None else capture.masks[index]
    return Reference(capture.images[index], capture.cameras[index], depth, alpha, mask)


def _given(value):
    assert value is not None  # every candidate above has all of it
    return value


def _bytes(values: Tensor) -> np.ndarray:
    return (values.clamp(0, 1) * 255).round().byte().numpy()


def _psnr(image: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10((image - truth).square().mean().clamp_min(1e-10)))


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # several processes may share a root
    temporary.write_bytes(data)
    os.replace(temporary, path)


def main(
    scenes: Annotated[tuple[str, ...], tyro.conf.Positional],
    output: Path,
    options: Annotated[PairOptions, tyro.conf.arg(name="")] = PairOptions(),
) -> None:
    """Make pairs (render, photograph, references) for training a fixer.

    Args:
        scenes: ``procedural:SEED`` or folders with ``transforms.json``.
        output: root folder; what is there already is not made again.
        options: what to make of each scene.
    """
    torch.set_num_threads(options.threads)
    numba.set_num_threads(options.threads)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        whole = progress.add_task("Scenes", total=len(scenes))
        for scene in scenes:
            for name, row in make_pairs(scene, output, options, progress).items():
                psnr = "-" if row["psnr"] is None else f"{row['psnr']:.2f}"
                progress.console.print(
                    f"{row['scene']}/{name}: {row['samples']} samples ({row['dropped']} dropped), held-out {psnr} dB, "
                    f"training {row['train_psnr']:.2f} dB, {row['gaussians']} Gaussians, {row['seconds']} s"
                )
            progress.advance(whole)


if __name__ == "__main__":
    tyro.cli(main)
