"""How exact the depth of photos is, on procedural scenes that no prior was trained on.

    python benchmarks/depth_quality.py [--weights DIR]

Pixels by how many photos see their surface: two or more (itself and another), or itself alone. Of each the share whose
depth is within 1, 2 and 5 % of the truth, and how far the stated uncertainty is right (expected calibration error of
the chance that a depth is within 2 %). Beside the prior: the sweep that training begins with, as it is and completed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from torch import Tensor

from difix3d_ns.data.capture import Capture, procedural_capture
from difix3d_ns.geometry.point_depth import point_depth
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.stereo import stereo_depths
from difix3d_ns.geometry.warp import in_view, unproject
from difix3d_ns.initialization.estimated_depths import estimate_depths
from difix3d_ns.priors.base import DepthMap
from difix3d_ns.priors.registry import load_depth

SEEDS = (1000, 1001, 1002, 1003, 1004)
"""one scene of each kind"""
OBJECTS = (1000, 1001)
WITHIN = (0.01, 0.02, 0.05)
_SAME = 0.01  # relative depth: nearer to each other, two photos see the same surface
_BINS = 10
Method = Callable[[Sequence[PosedImage], Tensor], list[DepthMap]]


@dataclass
class Counts:
    """Of a class of pixels."""

    errors: list[Tensor]
    chances: list[Tensor]

    def row(self) -> list[str]:
        """Shares within bounds, share of the surely right that are, calibration error, in per cent."""
        errors, chances = torch.cat(self.errors), torch.cat(self.chances)
        cells = [f"{100 * float((errors < bound).float().mean()):.0f}" for bound in WITHIN]
        sure = chances > 0.9
        right = (errors < WITHIN[1]).float()
        cells.append(
            f"{100 * float(right[sure].mean()):.0f} ({100 * float(sure.float().mean()):.0f})"
            if bool(sure.any())
            else "-"
        )
        bins = (chances * _BINS).long().clamp(max=_BINS - 1)
        off = sum(
            float((bins == one).float().mean()) * abs(float(right[bins == one].mean() - chances[bins == one].mean()))
            for one in bins.unique()
        )
        return [*cells, f"{100 * off:.0f}"]


def swept(photographs: Sequence[PosedImage], points: Tensor) -> list[DepthMap]:
    """The sweep that training begins with, before pixels are chosen."""
    found = stereo_depths(photographs, points)
    return [
        DepthMap(found[i].depth, torch.where(found[i].kept, 0.005, 0.1)) if i in found else _nothing(photographs[i])
        for i in range(len(photographs))
    ]


def interpolated(photographs: Sequence[PosedImage], points: Tensor) -> list[DepthMap]:
    """What the sweep keeps and the points, inverse depth interpolated between them."""
    found = stereo_depths(photographs, points)
    maps = []
    for index, photograph in enumerate(photographs):
        known = point_depth(points, photograph.pose)
        if index in found:
            known = torch.where(found[index].kept, found[index].depth, known)
        places = (known[..., 0] > 0).nonzero().numpy()
        if len(places) < 4:
            maps.append(_nothing(photograph))
            continue
        values = 1 / known[places[:, 0], places[:, 1], 0].numpy()
        rows, columns = np.mgrid[: known.shape[0], : known.shape[1]]
        inverse = LinearNDInterpolator(places, values)(rows, columns)
        outside = np.isnan(inverse)
        inverse[outside] = NearestNDInterpolator(places, values)(rows[outside], columns[outside])
        depth = torch.from_numpy(1 / inverse).float()[..., None]
        kept = found[index].kept if index in found else torch.zeros_like(known, dtype=torch.bool)
        maps.append(DepthMap(depth, torch.where(kept, 0.005, 0.1)))
    return maps


def completed(photographs: Sequence[PosedImage], points: Tensor) -> list[DepthMap]:
    """What the sweep keeps, inverse depth spread from there within edges of the picture."""
    found = stereo_depths(photographs, points)
    maps = []
    for index, photograph in enumerate(photographs):
        if index not in found:
            maps.append(_nothing(photograph))
            continue
        kept, depth = found[index].kept, found[index].depth
        grey = photograph.image.mean(-1)
        right = torch.exp(-20 * grey.diff(dim=1).abs())
        down = torch.exp(-20 * grey.diff(dim=0).abs())
        weight = kept[..., 0].float()
        inverse = (1 / depth[..., 0]).where(
            kept[..., 0], float((1 / depth[kept]).median()) if bool(kept.any()) else 1.0
        )
        data = inverse.clone()
        for _ in range(600):  # Jacobi's method
            total, sides = weight * 10 * data, weight * 10
            for sums, values in ((total, inverse), (sides, torch.ones_like(inverse))):
                sums[:, :-1] += right * values[:, 1:]
                sums[:, 1:] += right * values[:, :-1]
                sums[:-1] += down * values[1:]
                sums[1:] += down * values[:-1]
            inverse = total / sides.clamp_min(1e-6)
        maps.append(DepthMap(1 / inverse[..., None], torch.where(kept, 0.005, 0.1)))
    return maps


def prior(weights: str | None) -> Method:
    """The trained prior."""
    depth = load_depth(weights=weights)

    def estimate(photographs: Sequence[PosedImage], points: Tensor) -> list[DepthMap]:
        return estimate_depths(photographs, points, depth)

    return estimate


def _nothing(photograph: PosedImage) -> DepthMap:
    empty = torch.zeros_like(photograph.image[..., :1])
    return DepthMap(empty, empty + torch.inf)


def seen_by_others(capture: Capture, index: int) -> Tensor:
    """Which surfaces [H, W] of a training photo another training photo sees, by exact depth."""
    assert capture.depths is not None
    points = unproject(capture.depths[index], capture.cameras[index])
    seen = torch.zeros(points.shape[:2], dtype=torch.bool)
    for other in capture.train:
        if other != index:
            inside, pixels, z = in_view(points, capture.cameras[other])
            there = capture.depths[other][..., 0]
            x, y = pixels.floor().long().unbind(-1)
            depth = there[y.clamp(0, there.shape[0] - 1), x.clamp(0, there.shape[1] - 1)]
            seen |= inside & ((depth / z - 1).abs() < _SAME)
    return seen


def measure(methods: dict[str, Method], captures: Sequence[Capture], console: Console) -> dict[str, dict[str, Counts]]:
    """Errors of all methods by class of pixels."""
    found: dict[str, dict[str, Counts]] = {
        name: {kind: Counts([], []) for kind in ("2+ photos", "one photo")} for name in methods
    }
    for capture in captures:
        assert capture.depths is not None
        photographs = [PosedImage(capture.images[index], capture.cameras[index]) for index in capture.train]
        classes = {index: seen_by_others(capture, index) for index in capture.train}
        for name, method in methods.items():
            started = time.perf_counter()
            maps = method(photographs, capture.points)
            seconds = (time.perf_counter() - started) / len(photographs)
            console.print(f"{capture.name}, {len(photographs)} photos, {name}: {seconds:.2f} s each", highlight=False)
            for index, one in zip(capture.train, maps, strict=True):
                truth = capture.depths[index]
                error = (one.depth.clamp_min(1e-6) / truth.clamp_min(1e-6)).log().abs()[..., 0]
                chance = one.chance(WITHIN[1])[..., 0]
                surface = truth[..., 0] > 0
                for kind, pixels in (("2+ photos", classes[index]), ("one photo", ~classes[index])):
                    found[name][kind].errors.append(error[surface & pixels])
                    found[name][kind].chances.append(chance[surface & pixels])
    return found


def main(
    weights: Annotated[str | None, tyro.conf.arg(help="of the prior (unset: the package's)")] = None,
    seeds: tuple[int, ...] = SEEDS,
    objects: tuple[int, ...] = OBJECTS,
    long_side: int = 480,
    rivals: bool = True,
) -> None:
    """Measure and print a table."""
    console = Console(width=160)
    captures = [procedural_capture(seed, long_side) for seed in seeds]
    captures += [procedural_capture(seed, long_side, kind="object") for seed in objects]
    methods: dict[str, Method] = {"prior": prior(weights)}
    if rivals:
        methods |= {"sweep": swept, "sweep, interpolated": interpolated, "sweep, completed": completed}
    found = measure(methods, captures, console)
    table = Table("method", "pixels", "within 1 %", "2 %", "5 %", "right where sure (share)", "calibration error")
    for name, kinds in found.items():
        for kind, counts in kinds.items():
            table.add_row(name, kind, *counts.row())
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
