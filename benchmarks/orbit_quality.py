"""Refined orbits of unseen procedural objects: `python -m benchmarks.orbit_quality --seeds 7000 7001 ...`.

Each object is photographed from six places on a ring; a splat is trained on the photos at half of their size. It is
seen from 16 cameras all around, none of them a photo's, and these frames are enlarged to the photos' full size: by
bicubic interpolation, by back-projection, by Real-ESRGAN if its wheel is installed (of the first frames alone, since it
is slow), by the network without its neighbours, without depth, and as `hi3d-splatfacto` refines them. Beside them: the
splat rendered at the full size. Truth is what a camera sees there. Agreement: correlation of the detail of neighbouring
frames at the same surfaces, by exact depth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.by_visibility import flip_map
from difix3d_ns.data.capture import Capture
from difix3d_ns.data.enlarged import reduced
from difix3d_ns.data.orbit_samples import orbit_capture
from difix3d_ns.data.reconstruct import Schedule, reconstruct
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.io.images import write_picture
from difix3d_ns.metrics.agreement import agreement
from difix3d_ns.metrics.high_pass import high_pass_correlation
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.priors.base import OrbitFrame, OrbitRefiner, Upscaler
from difix3d_ns.priors.hi3d import load
from difix3d_ns.priors.registry import load_upscaler
from difix3d_ns.priors.single_photo import upscale_alone

_FACTOR = 2
_METRICS = {"psnr": 2, "ssim": 4, "flip": 4, "psnr_inside": 2, "flip_inside": 4, "detail": 3, "agreement": 3}


def frames_of(capture: Capture, steps: int, gaussians: int, seed: int) -> tuple[list[OrbitFrame], list[Tensor]]:
    """Train a splat on an object's photos at half of their size, and look at it from the orbit's cameras.

    Returns:
        The frames, and the splat rendered at the full size.
    """
    schedule = Schedule(steps=steps, max_gaussians=gaussians, mode="antialiased")
    splat = reconstruct(reduced(capture, _FACTOR), capture.train, schedule, seed)[1.0]
    frames, large = [], []
    for place in capture.test:
        camera = capture.cameras[place]
        image, depth, alpha = splat.render(camera)
        low = camera.resized(camera.width // _FACTOR, camera.height // _FACTOR)
        frames.append(OrbitFrame(resampled(image, low.height, low.width), low, depth.where(alpha > 0.5, 0.0)))
        large.append(image)
    return frames, large


def refined(refiner: OrbitRefiner, frames: Sequence[OrbitFrame]) -> list[Tensor]:
    """Refine frames."""
    state = refiner.start(frames)
    while refiner.steps_left(state):
        state = refiner.step(state)
    return refiner.result(state)


def enlarged(upscaler: Upscaler, frames: Sequence[OrbitFrame]) -> list[Tensor]:
    """Enlarge each frame for itself."""
    height, width = (_FACTOR * side for side in frames[0].image.shape[:2])
    return [upscale_alone(upscaler, frame.image, (height, width), 0, 1, None) for frame in frames]


def measure(pictures: Sequence[Tensor], capture: Capture) -> dict[str, float]:
    """Mean metrics of an orbit, or of its first frames."""
    places = capture.test[: len(pictures)]
    assert capture.depths is not None
    depths = [capture.depths[place] for place in places]
    rows = []
    for picture, place, depth in zip(pictures, places, depths, strict=True):
        truth, inside = capture.images[place], depth[..., 0] > 0
        row = image_metrics(picture, truth)
        error = float((picture - truth).square().mean(-1)[inside].mean())
        row["psnr_inside"] = -10 * np.log10(max(error, 1e-10))
        row["flip_inside"] = float(flip_map(truth, picture)[inside].mean())
        row["detail"] = high_pass_correlation(picture, truth, _FACTOR)
        rows.append(row)
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    if len(pictures) == len(capture.test):
        cameras = [capture.cameras[place] for place in places]
        means["agreement"] = agreement(pictures, cameras, depths, _FACTOR)
    return means


def main(
    seeds: list[int],
    weights: str | None = None,
    photos: int = 6,
    long_side: int = 320,
    steps: int = 500,
    gaussians: int = 12_000,
    agreements: tuple[float, ...] = (),
    esrgan_frames: int = 0,
    record: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Print a table, with the difference of the refined frames to each row and its error over objects.

    Args:
        seeds: of objects, from 7000 on: no prior was trained on these.
        weights: of the refiner; None for the package's.
        photos: of each object.
        long_side: of the photos, in pixels.
        steps: of training each splat.
        gaussians: of a splat, at most.
        agreements: weights of neighbouring frames to compare besides the default.
        esrgan_frames: frames that Real-ESRGAN enlarges.
        record: file to add a line to for each object and row.
        pictures: folder for the frames of the first object.
    """
    torch.set_num_threads(1)
    console = Console(width=150)
    refiner, alone, chain = load(weights), load(weights, agreement=0.0), load(weights, levels=(666, 333, 0))
    others = {f"agreement {value:g}": load(weights, agreement=value) for value in agreements}
    found: dict[str, list[dict[str, Any]]] = {}
    refined_frames: list[Tensor] = []
    for seed in seeds:
        capture = orbit_capture(seed, long_side, photos=photos, grounded=False)
        frames, large = frames_of(capture, steps, gaussians, seed)
        blind = [replace(frame, depth=None) for frame in frames]
        rows = {
            "splat at full size": lambda large=large: large,
            "bicubic": lambda frames=frames: enlarged(load_upscaler("bicubic"), frames),
            "back-projection": lambda frames=frames: enlarged(load_upscaler("backprojection"), frames),
            "embedded upscaler": lambda frames=frames: enlarged(load_upscaler("residual"), frames),
            "without depth": lambda blind=blind: refined(alone, blind),
            "each frame alone": lambda frames=frames: refined(alone, frames),
            **{name: (lambda one=one, frames=frames: refined(one, frames)) for name, one in others.items()},
            "three levels": lambda frames=frames: refined(chain, frames),
            "refined": lambda frames=frames: refined(refiner, frames),
        }
        if esrgan_frames:
            few = frames[:esrgan_frames]
            rows["Real-ESRGAN"] = lambda few=few: enlarged(load_upscaler("realesrgan"), few)
        for name, make in rows.items():
            started = time.perf_counter()
            made = make()
            seconds = time.perf_counter() - started
            row = {**measure(made, capture), "seconds": seconds}
            if name == "Real-ESRGAN":  # the refined frames that it is compared with
                row["refined"] = measure(refined_frames[:esrgan_frames], capture)
            elif name == "refined":
                refined_frames = made
            found.setdefault(name, []).append(row)
            if record is not None:
                facts = {"object": seed, "row": name, "photos": photos, "side": long_side, "commit": commit()}
                with open(record, "a", encoding="utf-8") as file:
                    print(json.dumps({**facts, "date": str(date.today()), **row}), file=file)
            if pictures is not None and seed == seeds[0]:
                folder = pictures / name.replace(" ", "-")
                folder.mkdir(parents=True, exist_ok=True)
                for number, picture in enumerate(made):
                    write_picture(folder / f"{number:02d}.png", picture)
        console.print(f"object {seed}: refined {found['refined'][-1]['psnr']:.2f} dB", style="dim", highlight=False)
    table = Table("", *(name.replace("_", " ") for name in _METRICS), "seconds")
    apart = Table("refined less", *(name.replace("_", " ") for name in _METRICS))
    for name, each in found.items():
        means = [np.mean([row[key] for row in each]) if key in each[0] else None for key in _METRICS]
        cells = ["" if m is None else f"{m:.{d}f}" for m, d in zip(means, _METRICS.values(), strict=True)]
        table.add_row(name, *cells, f"{np.mean([row['seconds'] for row in each]):.0f}")
        if name != "refined":
            ours = [row["refined"] for row in each] if name == "Real-ESRGAN" else found["refined"]
            apart.add_row(name, *(_paired(ours, each, key) for key in _METRICS))
    console.print(table)
    console.print(apart)


def _paired(ours: Sequence[dict[str, Any]], each: Sequence[dict[str, Any]], key: str) -> str:
    if key not in each[0] or len(each) < 2:
        return ""
    differences = [one[key] - other[key] for one, other in zip(ours, each, strict=True)]
    error = float(np.std(differences, ddof=1) / len(differences) ** 0.5)
    return f"{np.mean(differences):+.{_METRICS[key]}f} ± {error:.{_METRICS[key]}f}"


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
