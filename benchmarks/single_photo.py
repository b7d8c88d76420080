"""Orbits of unseen procedural objects from one picture: `python -m benchmarks.single_photo --seeds 8000 8001 ...`.

Each object is seen from 16 cameras all around at an elevation of 30 degrees, in Hi3D's frame; the first picture, cut
out, is the input, and the 15 others are compared. Rows: the input repeated; the mean of training objects at the same
cameras; the embedded epipolar network (EFT) from the one picture; the same with the depth of the inflated silhouette;
the embedded generator (inflation); and its frames refined, with its depth, as `hi3d-splatfacto` refines them. All are
made at half of the size and enlarged to it, by the refiner or by bicubic interpolation. Pictures are measured inside of
the true silhouette, outside of which both are white.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
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
from difix3d_ns.data.object_orbits import ObjectOrbit, object_orbit
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.geometry.object_frame import FRAMES, object_cameras
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.io.images import write_picture
from difix3d_ns.metrics.image import image_metrics, psnr
from difix3d_ns.priors.base import ObjectFrame, OrbitFrame
from difix3d_ns.priors.registry import load_orbit_generator, load_orbit_refiner, load_view_generator

MEAN_SEED = 6000
"""of the first object of the mean: those the refiner was trained on"""
_METRICS = {"psnr": 2, "ssim": 3, "flip": 3, "iou": 3}
Rows = dict[str, list[tuple[Tensor, Tensor]]]


def finished(prior: Any, state: Any) -> Any:
    """Go through the steps of a prior, to its result."""
    while prior.steps_left(state):
        state = prior.step(state)
    return prior.result(state)


def small(orbit: ObjectOrbit, frame: int) -> Tensor:
    """A picture and its silhouette at half of the size, [S, S, 4]."""
    side = orbit.images[0].shape[0] // 2
    image, mask = resampled(orbit.images[frame], side, side), resampled(orbit.masks[frame], side, side)
    return torch.cat([image, (mask > 0.5).float()], -1)


def before_white(frame: ObjectFrame) -> Tensor:
    """A frame [S, S, 3] before white."""
    return frame.image * frame.alpha + 1 - frame.alpha


def rows_of(orbit: ObjectOrbit, elevation: float, mean: tuple[list[Tensor], list[Tensor]]) -> tuple[Rows, dict]:
    """Pictures [S, S, 3] and silhouettes [S, S, 1] of each row, and the seconds it took."""
    side = orbit.images[0].shape[0]
    cameras = object_cameras(elevation, side // 2, dtype=torch.float32)
    photo = small(orbit, 0)
    rows: Rows = {}
    seconds: dict[str, float] = {}

    def add(name: str, make: Callable[[], list[tuple[Tensor, Tensor]]]) -> None:
        started = time.perf_counter()
        made = make()
        seconds[name] = time.perf_counter() - started
        rows[name] = [(resampled(image, side, side), resampled(alpha, side, side)) for image, alpha in made]

    inflated: list[ObjectFrame] = []

    def inflate() -> list[tuple[Tensor, Tensor]]:
        generator = load_orbit_generator()
        inflated.extend(finished(generator, generator.start(photo, elevation, FRAMES)))
        return [(before_white(frame), frame.alpha) for frame in inflated]

    def epipolar(deep: bool) -> list[tuple[Tensor, Tensor]]:
        generator = load_view_generator()
        shown = PosedImage(photo[..., :3], cameras[0], depth=inflated[0].depth if deep else None)
        views = finished(generator, generator.start([shown], cameras))
        return [(view.image, (view.image.mean(-1, keepdim=True) < 0.97).float()) for view in views]

    def refined() -> list[tuple[Tensor, Tensor]]:
        refiner = load_orbit_refiner()
        frames = [
            OrbitFrame(before_white(frame), camera, frame.depth)
            for frame, camera in zip(inflated, cameras, strict=True)
        ]
        made = finished(refiner, refiner.start(frames))
        return [(image, frame.alpha) for image, frame in zip(made, inflated, strict=True)]

    add("input repeated", lambda: [(photo[..., :3], photo[..., 3:])] * FRAMES)
    add("mean of training objects", lambda: list(zip(*mean, strict=True)))
    add("inflation", inflate)
    add("EFT", lambda: epipolar(False))
    add("EFT, depth of inflation", lambda: epipolar(True))
    add("inflation + refiner", refined)
    return rows, seconds


def measure(pictures: Sequence[tuple[Tensor, Tensor]], orbit: ObjectOrbit) -> dict[str, float]:
    """Mean metrics over the frames that the input is not."""
    found = []
    for (picture, alpha), truth, mask in list(zip(pictures, orbit.images, orbit.masks, strict=True))[1:]:
        inside = mask[..., 0] > 0.5
        rows, columns = inside.nonzero().unbind(1)
        low = torch.stack([rows.min(), columns.min()]).sub(6).clamp_min(0)
        window = slice(int(low[0]), int(rows.max()) + 7), slice(int(low[1]), int(columns.max()) + 7)
        shown = torch.where(inside[..., None], picture, 1.0)
        metrics = image_metrics(shown[window], truth[window])
        solid = alpha[..., 0] > 0.5
        found.append(
            {
                "psnr": psnr(picture[inside], truth[inside]),
                "ssim": metrics["ssim"],
                "flip": float(flip_map(truth, shown)[inside].mean()),
                "iou": float((solid & inside).sum() / (solid | inside).sum()),
            }
        )
    return {key: float(np.mean([one[key] for one in found])) for key in _METRICS}


def main(
    seeds: list[int],
    side: int = 256,
    elevation: float = 30.0,
    objects: int = 20,
    record: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Print a table, with the difference of the embedded generator to each row and its error over objects.

    Args:
        seeds: of objects, from 8000 on: no prior was trained on these, and nothing was chosen by them.
        side: of the pictures that are compared, in pixels.
        elevation: degrees.
        objects: training objects of the mean.
        record: file to add a line to for each object and row.
        pictures: folder for the rows of each object.
    """
    torch.set_num_threads(1)
    console = Console(width=130)
    known = [object_orbit(MEAN_SEED + number, side // 2, elevation) for number in range(objects)]
    mean = (
        [torch.stack([one.images[frame] for one in known]).mean(0) for frame in range(FRAMES)],
        [torch.stack([one.masks[frame] for one in known]).mean(0) for frame in range(FRAMES)],
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        orbit = object_orbit(seed, side, elevation)
        rows, seconds = rows_of(orbit, elevation, mean)
        for name, made in rows.items():
            row = {**measure(made, orbit), "seconds": seconds[name]}
            found.setdefault(name, []).append(row)
            if record is not None:
                facts = {"object": seed, "row": name, "side": side, "elevation": elevation, "mean_of": objects}
                facts |= {"commit": commit(), "date": str(date.today())}
                with open(record, "a", encoding="utf-8") as file:
                    print(json.dumps({**facts, **row}), file=file)
        if pictures is not None:
            sheet = [
                torch.cat(orbit.images, 1),
                *(torch.cat([image for image, _ in made], 1) for made in rows.values()),
            ]
            write_picture(pictures / f"{seed}.png", torch.cat(sheet))
        console.print(f"object {seed}: {found['inflation'][-1]['psnr']:.2f} dB inside", style="dim", highlight=False)
    table = Table("", *_METRICS, "seconds")
    apart = Table("inflation less", *_METRICS)
    for name, each in found.items():
        cells = [f"{np.mean([row[key] for row in each]):.{digits}f}" for key, digits in _METRICS.items()]
        table.add_row(name, *cells, f"{np.mean([row['seconds'] for row in each]):.0f}")
        if name != "inflation" and len(each) > 1:
            apart.add_row(name, *(_paired(found["inflation"], each, key) for key in _METRICS))
    console.print(table)
    console.print(apart)


def _paired(ours: Sequence[dict[str, Any]], each: Sequence[dict[str, Any]], key: str) -> str:
    differences = [one[key] - other[key] for one, other in zip(ours, each, strict=True)]
    error = float(np.std(differences, ddof=1) / len(differences) ** 0.5)
    return f"{np.mean(differences):+.{_METRICS[key]}f} ± {error:.{_METRICS[key]}f}"


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
