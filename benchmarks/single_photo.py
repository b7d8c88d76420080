"""Orbits of unseen procedural objects from one picture: `python -m benchmarks.single_photo --seeds 8000 8001 ...`.

Each object is seen from 16 cameras all around at an elevation of 30 degrees, in Hi3D's frame; the first picture, cut
out, is the input, and the 15 others are compared. Rows: the input repeated; the mean of training objects at the same
cameras; the embedded epipolar network (EFT) from the one picture; the same with the depth of the inflated silhouette;
both embedded generators, inflation and the network; and the network's frames refined, with their depth, as
`hi3d-splatfacto` refines them, and with the photo's detail in them. All are made at half of the size and enlarged to
it, by the refiner or by bicubic interpolation.

Pictures are measured inside of the true silhouette, outside of which both are white. Agreement: correlation of the
detail of neighbouring frames at the same surfaces, by exact depth. Meshes are fused of the frames' depth as `difix3d
mesh` fuses a splat's: Chamfer is the mean of both mean distances between what cameras see of the mesh and of the
object, whose longest side is 1. A volume is what no frame shows to be empty, of 64 places along each side: meshes of
frames from one elevation have holes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.by_visibility import flip_map
from benchmarks.mesh_quality import ours
from difix3d_ns.data.object_orbits import ObjectOrbit, object_orbit
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.geometry.object_frame import FRAMES, object_cameras
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import project, unproject
from difix3d_ns.io.images import write_picture
from difix3d_ns.meshing.depth_view import depth_view
from difix3d_ns.meshing.painting import Occlusion, Points, rays_against
from difix3d_ns.meshing.volume import Box
from difix3d_ns.metrics.agreement import agreement
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.metrics.perceptual import LPIPS, MissingWeights
from difix3d_ns.metrics.psnr import psnr
from difix3d_ns.priors.base import FixRequest, ObjectFrame, OrbitFrame
from difix3d_ns.priors.registry import load_fixer, load_orbit_generator, load_orbit_refiner, load_view_generator

MEAN_SEED = 6000
"""of the first object of the mean: those the refiner was trained on"""
REPEATED, MEAN, EFT, DEEP_EFT = "input repeated", "mean of training objects", "EFT", "EFT, depth of inflation"
INFLATION, NETWORK = "inflation", "photo-volume"
REFINED, DETAILED = f"{NETWORK} + refiner", f"{NETWORK} + refiner + detail"
ROWS = (REPEATED, MEAN, EFT, INFLATION, DEEP_EFT, NETWORK, REFINED, DETAILED)
BARS = {
    REPEATED: {"psnr": 1.5, "iou": 0.1},
    MEAN: {"psnr": 1.5, "iou": 0.1},
    EFT: {"psnr": 0.0, "ssim": 0.0, "flip": 0.0, "iou": 0.0},
}
"""what a generator has to gain over other rows"""
_METRICS = {
    "psnr": 2, "ssim": 3, "flip": 3, "lpips": 3, "iou": 3, "agreement": 3, "chamfer": 4, "volume": 3, "seconds": 0,
}  # fmt: skip
_LESS_IS_BETTER = ("flip", "lpips", "chamfer", "seconds")
_VOXELS, _PLACES, _SAMPLES = 96, 64, 20_000
_HALF = 0.72  # of the side of the box that is fused; an object's longest side is 1


class Made:
    """Frames of a row: pictures [S, S, 3], silhouettes [S, S, 1], and depth of those that have it."""

    def __init__(
        self, images: Sequence[Tensor], alphas: Sequence[Tensor], depths: Sequence[Tensor] | None = None
    ) -> None:
        self.images, self.alphas, self.depths = list(images), list(alphas), depths

    @classmethod
    def of(cls, frames: Sequence[ObjectFrame]) -> Made:
        """The frames of a generator, before white."""
        depths = [frame.depth for frame in frames if frame.depth is not None]
        images = [before_white(frame) for frame in frames]
        return cls(images, [frame.alpha for frame in frames], depths if len(depths) == len(frames) else None)


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


class Generators:
    """The rows of an object, each made when it is asked for.

    Args:
        orbit: the object.
        elevation: that the priors are told, degrees.
        mean: pictures and silhouettes of the mean object.
        weights: of the network; None for the package's.
    """

    def __init__(
        self, orbit: ObjectOrbit, elevation: float, mean: tuple[list[Tensor], list[Tensor]], weights: str | None
    ) -> None:
        self.photo, self.large = small(orbit, 0), orbit
        self.elevation, self.mean, self.weights = elevation, mean, weights
        self.cameras = object_cameras(elevation, self.photo.shape[0], dtype=torch.float32)
        self._kept: dict[str, Made] = {}

    def make(self, name: str) -> Made:
        """A row by name."""
        if name not in self._kept:
            makes: dict[str, Callable[[], Made]] = {
                REPEATED: lambda: Made([self.photo[..., :3]] * FRAMES, [self.photo[..., 3:]] * FRAMES),
                MEAN: lambda: Made(*self.mean),
                EFT: lambda: self._epipolar(None),
                DEEP_EFT: lambda: self._epipolar(self.make(INFLATION)),
                INFLATION: lambda: self._orbit(INFLATION, None),
                NETWORK: lambda: self._orbit(NETWORK, self.weights),
                REFINED: self._refined,
                DETAILED: self._detailed,
            }
            self._kept[name] = makes[name]()
        return self._kept[name]

    def _orbit(self, name: str, weights: str | None) -> Made:
        generator = load_orbit_generator(name, weights)
        return Made.of(finished(generator, generator.start(self.photo, self.elevation, FRAMES)))

    def _epipolar(self, inflated: Made | None) -> Made:
        generator = load_view_generator()
        depth = None if inflated is None or inflated.depths is None else inflated.depths[0]
        shown = PosedImage(self.photo[..., :3], self.cameras[0], depth=depth)
        views = finished(generator, generator.start([shown], self.cameras))
        solid = [(view.image.mean(-1, keepdim=True) < 0.97).float() for view in views]
        depths = [view.depth * one for view, one in zip(views, solid, strict=True)]
        return Made([view.image for view in views], solid, depths)

    def _refined(self) -> Made:
        refiner, network = load_orbit_refiner(), self.make(NETWORK)
        assert network.depths is not None
        frames = [
            OrbitFrame(image, camera, depth)
            for image, camera, depth in zip(network.images, self.cameras, network.depths, strict=True)
        ]
        return Made(finished(refiner, refiner.start(frames)), network.alphas, network.depths)

    def _detailed(self) -> Made:
        fixer, refined = load_fixer("detail"), self.make(REFINED)
        assert refined.depths is not None
        side = self.large.images[0].shape[0]
        depths = [resized(depth, side, side, "nearest") for depth in refined.depths]
        alphas = [(depth > 0).float() for depth in depths]
        photo = PosedImage(self.large.images[0], self.cameras[0].resized(side, side), depths[0], alphas[0])
        images = [
            fixer.fix([FixRequest(image, [photo], camera.resized(side, side), depth, alpha)])[0].image
            for image, camera, depth, alpha in zip(refined.images, self.cameras, depths, alphas, strict=True)
        ]
        return Made(images, refined.alphas, refined.depths)


def measure(made: Made, orbit: ObjectOrbit, lpips: LPIPS | None = None) -> dict[str, float]:
    """Mean metrics over the frames that the input is not, and of a mesh of all of them if they have depth."""
    side = orbit.images[0].shape[0]
    pictures, alphas = ([resampled(one, side, side) for one in maps] for maps in (made.images, made.alphas))
    found = []
    for picture, alpha, truth, mask in list(zip(pictures, alphas, orbit.images, orbit.masks, strict=True))[1:]:
        inside = mask[..., 0] > 0.5
        rows, columns = inside.nonzero().unbind(1)
        low = torch.stack([rows.min(), columns.min()]).sub(6).clamp_min(0)
        window = slice(int(low[0]), int(rows.max()) + 7), slice(int(low[1]), int(columns.max()) + 7)
        shown = torch.where(inside[..., None], picture, 1.0)
        metrics = image_metrics(shown[window], truth[window])
        solid = alpha[..., 0] > 0.5
        row = {
            "psnr": psnr(picture[inside], truth[inside]),
            "ssim": metrics["ssim"],
            "flip": float(flip_map(truth, shown)[inside].mean()),
            "iou": float((solid & inside).sum() / (solid | inside).sum()),
        }
        if lpips is not None:
            row["lpips"] = float(lpips(*(one[window].permute(2, 0, 1)[None] for one in (shown, truth))))
        found.append(row)
    means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    cameras = [camera.to("cpu", torch.float32) for camera in orbit.cameras]
    means["agreement"] = agreement(pictures, cameras, orbit.depths, 2.0)
    if made.depths is not None:
        means |= {"chamfer": chamfer(mesh_of(made, cameras), orbit), "volume": volume(made, orbit)}
    return means


def mesh_of(made: Made, cameras: Sequence[Pinhole]) -> trimesh.Trimesh:
    """Fuse the depth of frames; empty where they show no surface."""
    assert made.depths is not None
    half = np.full(3, _HALF)
    views = [depth_view(*one) for one in zip(cameras, made.depths, made.alphas, strict=True)]
    return ours(views, Box(-half, half), _VOXELS)


def chamfer(mesh: trimesh.Trimesh, orbit: ObjectOrbit) -> float:
    """Mean of both mean distances between what cameras see of a mesh and of the object; NaN without a mesh."""
    if not len(mesh.faces):
        return math.nan
    seen = np.concatenate(
        [
            unproject(depth.double(), camera)[depth[..., 0] > 0].numpy()
            for depth, camera in zip(orbit.depths, orbit.cameras, strict=True)
        ]
    )
    seen = seen[np.random.default_rng(0).permutation(len(seen))[:_SAMPLES]]
    scene = rays_against(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    missing = scene.compute_distance(seen.astype(np.float32)).numpy()
    places, faces = trimesh.sample.sample_surface(mesh, 2 * _SAMPLES, seed=0)
    points = Points(np.asarray(places), np.asarray(mesh.face_normals)[faces])
    photos = [PosedImage(image, camera) for image, camera in zip(orbit.images, orbit.cameras, strict=True)]
    shown = Occlusion(mesh).count(points, photos) > 0
    wrong = np.abs(orbit.distance(points.positions[shown][:_SAMPLES]))
    return float(wrong.mean() + missing.mean()) / 2


def volume(made: Made, orbit: ObjectOrbit) -> float:
    """Intersection over union of the object and of what no frame shows to be empty."""
    assert made.depths is not None
    axis = ((torch.arange(_PLACES) + 0.5) * 2 / _PLACES - 1) * _HALF
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    solid = torch.ones(len(grid), dtype=torch.bool)
    for camera, depth, alpha in zip(orbit.cameras, made.depths, made.alphas, strict=True):
        height, width = depth.shape[:2]
        pixels, away = project(grid, camera.to("cpu", torch.float32).resized(width, height))
        columns, rows = pixels.long().clamp(0, width - 1).unbind(-1)
        solid &= (alpha[rows, columns, 0] > 0.5) & (away > depth[rows, columns, 0])
    truth = torch.from_numpy(orbit.distance(grid.double().numpy()) < 0)
    return float((solid & truth).sum() / (solid | truth).sum())


def main(
    seeds: list[int],
    side: int = 192,
    elevation: float = 30.0,
    error: float = 0.0,
    objects: int = 20,
    rows: tuple[str, ...] = ROWS,
    weights: str | None = None,
    record: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Print a table, the differences of the network to each row with their errors over objects, and the bars.

    Args:
        seeds: of objects, from 8000 on: no prior was trained on these, and nothing was chosen by them.
        side: of the pictures that are compared, in pixels.
        elevation: degrees.
        error: of the elevation that the priors are told.
        objects: training objects of the mean.
        rows: to make.
        weights: of the network; None for the package's.
        record: file to add a line to for each object and row; what it has is not made again.
        pictures: folder for the rows of each object.
    """
    torch.set_num_threads(1)
    console = Console(width=170)
    try:
        lpips = LPIPS("vgg")
    except MissingWeights:
        lpips = None
    known = [object_orbit(MEAN_SEED + number, side // 2, elevation) for number in range(objects if MEAN in rows else 0)]
    mean = tuple(
        [torch.stack([maps(one)[frame] for one in known]).mean(0) for frame in range(FRAMES if known else 0)]
        for maps in (lambda one: one.images, lambda one: one.masks)
    )
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in rows}
    for seed in seeds:
        facts = {"object": seed, "side": side, "elevation": elevation, "error": error, "mean_of": objects}
        if weights is not None:
            facts["weights"] = weights
        done = _recorded(record, facts)
        missing = [name for name in rows if name not in done]
        if missing or pictures is not None:
            orbit = object_orbit(seed, side, elevation)
            generators = Generators(orbit, elevation + error, mean, weights)
        for name in missing:
            started = time.perf_counter()
            made = generators.make(name)
            row = {"seconds": time.perf_counter() - started, **measure(made, orbit, lpips)}
            done[name] = row
            if record is not None:
                with open(record, "a", encoding="utf-8") as file:
                    line = {**facts, "row": name, "commit": commit(), "date": str(date.today())}
                    print(json.dumps({**line, **{key: round(value, 5) for key, value in row.items()}}), file=file)
        for name in rows:
            found[name][seed] = done[name]
        if pictures is not None:
            made = [torch.cat([resampled(one, side, side) for one in generators.make(name).images], 1) for name in rows]
            write_picture(pictures / f"{seed}.png", torch.cat([torch.cat(orbit.images, 1), *made]).clamp(0, 1))
        shown = {name: round(done[name]["psnr"], 2) for name in rows}
        console.print(f"object {seed}: dB inside {shown}", style="dim", highlight=False)
    _print(console, {name: list(each.values()) for name, each in found.items()})


def _recorded(record: Path | None, facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of an object that a file has, made alike."""
    if record is None or not record.is_file():
        return {}
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    keys = (*facts, "weights")
    return {line["row"]: line for line in lines if all(line.get(key) == facts.get(key) for key in keys)}


def _print(console: Console, found: dict[str, list[dict[str, Any]]]) -> None:
    known = {key for rows in found.values() for row in rows for key in row}
    metrics = {key: digits for key, digits in _METRICS.items() if key in known}
    table = Table("", *metrics)
    for name, each in found.items():
        cells = [
            f"{np.nanmean([row[key] for row in each]):.{digits}f}" if key in each[0] else ""
            for key, digits in metrics.items()
        ]
        table.add_row(name, *cells)
    console.print(table)
    chosen = NETWORK if NETWORK in found else INFLATION
    if chosen not in found or len(found[chosen]) < 2:
        return
    apart, bars = Table(f"{chosen} less", *metrics), Table("bar", "gain", "needed", "")
    for name, each in found.items():
        if name == chosen:
            continue
        pairs = {key: _gain(found[chosen], each, key) for key in metrics if key in each[0] and key in found[chosen][0]}
        cells = [
            f"{pairs[key][0]:+.{digits}f} ± {pairs[key][1]:.{digits}f}" if key in pairs else ""
            for key, digits in metrics.items()
        ]
        apart.add_row(name, *cells)
        for key, needed in BARS.get(name, {}).items():
            gain, error = pairs[key]
            gain = -gain if key in _LESS_IS_BETTER else gain
            verdict = "met" if gain - error >= needed else "met on average alone" if gain >= needed else "missed"
            digits = metrics[key]
            bars.add_row(f"{key} over {name}", f"{gain:+.{digits}f} ± {error:.{digits}f}", f"{needed:g}", verdict)
    console.print(apart)
    console.print(bars)
    console.print(
        "Hi3D's paper, other objects (GSO, 30 of them; whole pictures before white): PSNR 24.26, SSIM .864, "
        "LPIPS .119; Chamfer .0172, volume IoU .6631.",
        highlight=False,
    )


def _gain(ours: Sequence[dict[str, Any]], each: Sequence[dict[str, Any]], key: str) -> tuple[float, float]:
    """Mean difference of a metric, and its standard error over objects."""
    differences = np.array([one[key] - other[key] for one, other in zip(ours, each, strict=True)])
    differences = differences[np.isfinite(differences)]
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
