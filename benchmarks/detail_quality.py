"""Detail refinement on views of unseen procedural objects: `python -m benchmarks.detail_quality --seeds 7200 7201 ...`.

Each object is photographed from places on a ring. Views at other places, within 60 degrees of the first photo, are: the
truth, blurred, of which all geometry is right; predicted (EFT) or sampled (SparseFusion) from three photos and the
scene's points; or refined frames of a splat of six photos (Hi3D). Each is then refined with the first photo. Beside
that: the view itself; the view blended with the photo, warped by depth as the generator knows it; and, as an oracle, by
exact depth. All figures are of the pixels that the photo shows, by exact depth. `changed elsewhere` is the share of
other pixels that are not the view's own, bit by bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.by_visibility import flip_map
from benchmarks.orbit_quality import frames_of, refined
from difix3d_ns.data.capture import Capture
from difix3d_ns.data.enlarged import Stills
from difix3d_ns.data.orbit_samples import orbit_capture
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.images import write_picture
from difix3d_ns.metrics.high_pass import RunningCorrelation, high_pass
from difix3d_ns.priors.base import Fixer, FixRequest
from difix3d_ns.priors.registry import load_fixer, load_orbit_refiner, load_view_generator
from difix3d_ns.training.depth_losses import surfaces_seen_at

Views = Literal["blurred", "eft", "sparsefusion", "hi3d"]
_PHOTOS, _SHOWN = 6, 3  # of an object, and to generators of views
_DEGREES = 60.0
_BLUR = 2.0  # pixels, standard deviation
_FACTOR = 2.0  # of the reduction that loses what counts as detail
_METRICS = {"psnr": 2, "flip": 4, "detail": 3, "changed elsewhere": 4}
_BLEND, _ORACLE, _ALONE, _POSED = "photo, blended in", "the same, exact depth", "detail", "detail, cameras known"


def near_places(capture: Capture) -> list[int]:
    """Views within 60 degrees of the first photo, about the middle of the cameras' ring."""
    centres = torch.stack([camera.camera_to_world[:3, 3].double() for camera in capture.cameras])
    rays = centres - capture.points.double().mean(0)
    rays = rays / rays.norm(dim=-1, keepdim=True)
    photo = rays[capture.train[0]]
    return [place for place in capture.test if float(rays[place] @ photo) > math.cos(math.radians(_DEGREES))]


def generated(
    kind: Views, capture: Capture, places: Sequence[int], seed: int
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Make views.

    Returns:
        The views, depth at each, and depth at the first photo, all [H, W, C] of one size.
    """
    first = capture.train[0]
    cameras = [capture.cameras[place] for place in places]
    if kind == "blurred":
        assert capture.depths is not None
        truths = [capture.images[place].numpy() for place in places]
        made = [torch.from_numpy(gaussian_filter(truth, (_BLUR, _BLUR, 0), mode="nearest")) for truth in truths]
        return made, [capture.depths[place] for place in places], capture.depths[first]
    if kind == "hi3d":
        frames, _ = frames_of(capture, 500, 12_000, seed)
        size = capture.images[0].shape[:2]
        made = refined(load_orbit_refiner(), frames)
        chosen = [capture.test.index(place) for place in places]
        depths = [resized(_known(frames[index].depth), *size, "nearest") for index in chosen]
        assert capture.depths is not None  # the splat's depth at the photo is not at hand: the truth stands for it
        return [made[index] for index in chosen], depths, capture.depths[first]
    generator = load_view_generator("epipolar-views" if kind == "eft" else "sparsefusion")
    stills = Stills(capture.cameras, capture.images, capture.points)  # whose depth is that of the points
    photos = [
        PosedImage(capture.images[i], capture.cameras[i], stills.render(capture.cameras[i])[1])
        for i in capture.train[:_SHOWN]
    ]
    state = generator.start(photos, [*cameras, capture.cameras[first]], seed=seed)
    while generator.steps_left(state):
        state = generator.step(state)
    views = generator.result(state)
    depths = [_known(view.depth) for view in views]
    return [view.image for view in views[:-1]], depths[:-1], depths[-1]


def _known(depth: Tensor | None) -> Tensor:
    assert depth is not None
    return depth


def rows_of(
    fixer: Fixer, view: Tensor, depth: Tensor, photo_depth: Tensor, capture: Capture, place: int
) -> dict[str, Tensor]:
    """Pictures of all rows for a view."""
    first = capture.train[0]
    assert capture.depths is not None

    def request(depth: Tensor, photo_depth: Tensor) -> FixRequest:
        solid, photo_solid = ((values > 0).float() for values in (depth, photo_depth))
        photo = PosedImage(capture.images[first], capture.cameras[first], photo_depth, photo_solid)
        return FixRequest(view, [photo], capture.cameras[place], depth, solid)

    by_generator, exact = request(depth, photo_depth), request(capture.depths[place], capture.depths[first])
    return {
        "view": view,
        _BLEND: load_fixer("blend").fix([by_generator])[0].image,
        _ORACLE: load_fixer("blend").fix([exact])[0].image,
        _ALONE: fixer.fix([FixRequest(view, [PosedImage(capture.images[first])])])[0].image,
        _POSED: fixer.fix([by_generator])[0].image,
    }


def main(
    seeds: list[int],
    views: tuple[Views, ...] = ("blurred", "eft", "sparsefusion"),
    long_side: int = 320,
    weights: str | None = None,
    record: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Print a table for each generator, with differences to the view and to the blend over objects.

    Args:
        seeds: of objects, from 7200 on: no prior was trained on these.
        views: generators.
        long_side: of the pictures, in pixels.
        weights: of detail refinement; None for the package's.
        record: file to add a line to for each object and row.
        pictures: folder for view, blend, result and truth of each object's first view.
    """
    torch.set_num_threads(1)
    console = Console(width=150)
    fixer = load_fixer("detail", weights)
    found: dict[str, dict[str, list[dict[str, float]]]] = {kind: {} for kind in views}
    for seed in seeds:
        capture = orbit_capture(seed, long_side, supersampling=2, photos=_PHOTOS, grounded=False)
        places = near_places(capture)
        for kind in views:
            for name, row in measure(fixer, kind, capture, places, seed, pictures).items():
                found[kind].setdefault(name, []).append(row)
                if record is not None:
                    entry = {"seed": seed, "views": kind, "method": name, "frames": len(places), **row}
                    entry |= {"commit": commit(), "date": date.today().isoformat(), "long_side": long_side}
                    with record.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(entry) + "\n")
            console.print(f"{seed} {kind}: {len(places)} views", style="dim")
    for kind, rows in found.items():
        console.print(table_of(kind, rows))


def measure(
    fixer: Fixer, kind: Views, capture: Capture, places: Sequence[int], seed: int, folder: Path | None
) -> dict[str, dict[str, float]]:
    """Mean metrics of all rows over the views of an object."""
    first = capture.train[0]
    made, depths, photo_depth = generated(kind, capture, places, seed)
    assert capture.depths is not None
    sums: dict[str, list[dict[str, float]]] = {}
    detail: dict[str, RunningCorrelation] = {}
    for number, (place, view, depth) in enumerate(zip(places, made, depths, strict=True)):
        truth = capture.images[place]
        seen = surfaces_seen_at(
            capture.depths[place][..., 0], capture.cameras[place], capture.depths[first], capture.cameras[first]
        )
        if not seen.any():
            continue
        pictures = rows_of(fixer, view, depth, photo_depth, capture, place)
        edges = high_pass(truth.double(), _FACTOR)[seen]
        for name, picture in pictures.items():
            error = float((picture - truth).square().mean(-1)[seen].mean())
            sums.setdefault(name, []).append(
                {
                    "psnr": -10 * math.log10(max(error, 1e-10)),
                    "flip": float(flip_map(truth, picture)[seen].mean()),
                    "changed elsewhere": float((picture != view).any(-1)[~seen].sum()) / max(1, int((~seen).sum())),
                }
            )
            correlation = detail.setdefault(name, RunningCorrelation())
            correlation.add(high_pass(picture.double(), _FACTOR)[seen], edges)
        if folder is not None and number == 0:
            row = torch.cat([capture.images[first], *pictures.values(), truth], 1)
            write_picture(folder / f"{kind}-{seed}.png", row)
    means = {name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in sums.items()}
    return {name: {**row, "detail": detail[name].value} for name, row in means.items()}


def table_of(kind: str, rows: dict[str, list[dict[str, float]]]) -> Table:
    """Means over objects, with the differences of detail refinement to view and blend, and their standard errors."""
    table = Table("pixels that the photo shows", *_METRICS, title=f"{kind}, {len(rows['view'])} objects")
    for name, values in rows.items():
        table.add_row(name, *(f"{np.mean([v[m] for v in values]):.{digits}f}" for m, digits in _METRICS.items()))
    for ours in (_ALONE, _POSED):
        for other in ("view", _BLEND):
            cells = []
            for metric, digits in _METRICS.items():
                each = [a[metric] - b[metric] for a, b in zip(rows[ours], rows[other], strict=True)]
                error = np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else float("nan")
                cells.append(f"{np.mean(each):+.{digits}f} ± {error:.{digits}f}")
            table.add_row(f"{ours} - {other}", *cells, style="bold")
    return table


if __name__ == "__main__":
    tyro.cli(main)
