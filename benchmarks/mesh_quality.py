"""Meshes of splats of procedural objects, whose surface is known exactly: `python -m benchmarks.mesh_quality`.

Each object is photographed from all around; a splat is trained on the photos, its median depth is rendered at them and
at cameras between them, and meshes are made of the same depths: ours, Open3D's TSDF, and screened Poisson of the
points that the depths show, with their normals. Truth is what the photos see. Lengths are in units of the object's
longest side. Accuracy: mean distance of the mesh from the surface; completeness: share of the surface seen that lies
within 1 % of the mesh; Chamfer: mean of the two mean distances; normals: mean angle on the mesh. Of each mesh only
faces that a photo sees count, by the mesh itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import open3d
import torch
import trimesh
import tyro
from rich.console import Console
from rich.table import Table

from difix3d_ns.data.capture import Capture
from difix3d_ns.data.procedural import photograph_world, training_world
from difix3d_ns.data.procedural.dataset import structure_points
from difix3d_ns.data.procedural.solids import Solid
from difix3d_ns.data.reconstruct import Schedule, Splat, reconstruct
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.meshing.cleaning import smoothed, without_specks
from difix3d_ns.meshing.depth_view import DepthView, depth_view
from difix3d_ns.meshing.painting import Occlusion, Points, rays_against
from difix3d_ns.meshing.splat_mesh import BETWEEN_CONFIDENCE
from difix3d_ns.meshing.volume import TRUNCATION, Box, fused
from difix3d_ns.rasterization import surface_depth
from difix3d_ns.views.targets import auto_targets

_SAMPLES = 20_000  # on the mesh and of the truth
_COMPLETE = 0.01
_STEP = 1e-4  # metres, of the difference that gives the normal
_MARGIN = 0.05  # around the object


def photographed(seed: int, photos: int, long_side: int) -> tuple[Capture, Solid]:
    """Photograph an object, cut out before white; and what it is."""
    world = training_world(seed, "object")
    rng = np.random.default_rng([41, seed])
    views = photograph_world(
        world, rng, width=long_side, height=round(long_side * 3 / 64) * 16, train_views=photos, test_views=1, label=None
    )
    views = [view for view in views if view.training]
    xyz, rgb = structure_points(views, rng, 2000)
    masks = [(view.depth > 0).float() for view in views]
    assert world.solid is not None
    return Capture(
        f"object_{seed:05d}",
        [view.camera for view in views],
        [view.image * mask + 1 - mask for view, mask in zip(views, masks, strict=True)],
        torch.from_numpy(xyz),
        torch.from_numpy(rgb).float() / 255,
        list(range(len(views))),
        [],
        masks,
        (1.0, 1.0, 1.0),
        [view.depth for view in views],
    ), world.solid


def depth_views(splat: Splat, cameras: Sequence[Pinhole], confidence: float = 1.0) -> list[DepthView]:
    """Render depth at cameras."""
    shape = (splat.means, splat.quats, splat.scales, splat.opacities)
    views = []
    for camera in cameras:
        view = (camera.world_to_camera[None], camera.intrinsics[None], camera.width, camera.height)
        depth, alpha = surface_depth(*shape, *view, rasterize_mode=splat.mode)
        views.append(depth_view(camera, depth[0], alpha[0], confidence=confidence))
    return views


def ours(views: Sequence[DepthView], box: Box, voxels: int) -> trimesh.Trimesh:
    """Fuse depth as `difix3d mesh` does."""
    return smoothed(without_specks(fused(views, box, voxels))[0])


def open3d_tsdf(views: Sequence[DepthView], box: Box, voxels: int) -> trimesh.Trimesh:
    """Fuse depth with Open3D; its voxels and truncation are ours, and so is what is left out of a view."""
    core, tensor = open3d.core, open3d.core.Tensor
    grid = open3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight"), (core.float32, core.float32), ((1), (1)), box.voxel(voxels), 16, 20_000
    )
    for view in views:
        depth = view.depth.where(view.weight > 0, 0.0).numpy().astype(np.float32)
        image = open3d.t.geometry.Image(tensor(depth))
        lens = view.camera.intrinsics.double().numpy().copy()
        lens[:2, 2] -= 0.5
        matrices = tensor(lens), tensor(np.ascontiguousarray(view.camera.world_to_camera.double().numpy()))
        limits = 1.0, float(depth.max()) + 1, TRUNCATION
        blocks = grid.compute_unique_block_coordinates(image, *matrices, *limits)
        grid.integrate(blocks, image, *matrices, *limits)
    return _cleaned(grid.extract_triangle_mesh(0.5).to_legacy())


def poisson(views: Sequence[DepthView], box: Box, voxels: int) -> trimesh.Trimesh:
    """Reconstruct from the points that the depths show, by screened Poisson (Kazhdan and Hoppe, 2013), with Open3D."""
    points, normals = [], []
    for view in views:
        places = unproject(view.depth[..., None], view.camera)
        used = view.weight > 0
        across, down = np.gradient(places.numpy(), axis=1), np.gradient(places.numpy(), axis=0)
        normal = np.cross(across, down)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        toward = view.camera.position.numpy() - places.numpy()
        normal *= np.sign((normal * toward).sum(-1, keepdims=True))
        points.append(places[used].numpy())
        normals.append(normal[used.numpy()])
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(np.concatenate(points).astype(float)))
    cloud.normals = open3d.utility.Vector3dVector(np.concatenate(normals).astype(float))
    thin, _, _ = cloud.voxel_down_sample_and_trace(box.voxel(voxels), cloud.get_min_bound(), cloud.get_max_bound())
    depth = int(np.ceil(np.log2(voxels)))
    mesh, density = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(thin, depth=depth, n_threads=1)
    mesh.remove_vertices_by_mask(np.asarray(density) < np.quantile(np.asarray(density), 0.02))
    return _cleaned(mesh)


def _cleaned(mesh: Any) -> trimesh.Trimesh:
    assert len(mesh.triangles), "a rival found no surface"
    return without_specks(trimesh.Trimesh(np.asarray(mesh.vertices), np.asarray(mesh.triangles)))[0]


def surface_seen(capture: Capture) -> np.ndarray:
    """Points [P, 3] of the true surface, one for each pixel of a photo."""
    assert capture.depths is not None
    views = zip(capture.depths, capture.cameras, strict=True)
    return np.concatenate([unproject(depth.double(), camera)[depth[..., 0] > 0].numpy() for depth, camera in views])


def measure(mesh: trimesh.Trimesh, capture: Capture, solid: Solid, unit: float) -> dict[str, float]:
    """Metrics of a mesh; ``unit``: the object's longest side."""
    seen = surface_seen(capture)
    seen = seen[np.random.default_rng(0).permutation(len(seen))[:_SAMPLES]]
    scene = rays_against(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    missing = scene.compute_distance(seen.astype(np.float32)).numpy() / unit
    places, faces = trimesh.sample.sample_surface(mesh, 2 * _SAMPLES, seed=0)
    points = Points(np.asarray(places), np.asarray(mesh.face_normals)[faces])
    photos = [PosedImage(image, camera) for image, camera in zip(capture.images, capture.cameras, strict=True)]
    shown = Occlusion(mesh).count(points, photos) > 0
    places, normals = points.positions[shown][:_SAMPLES], points.normals[shown][:_SAMPLES]
    wrong = np.abs(solid.distance(places)) / unit
    slope = np.stack([solid.distance(places + step) - solid.distance(places - step) for step in _STEP * np.eye(3)], 1)
    slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12)
    angles = np.degrees(np.arccos(np.clip((slope * normals).sum(1), -1, 1)))
    return {
        "accuracy": float(wrong.mean()),
        "completeness": float((missing < _COMPLETE).mean()),
        "chamfer": float(wrong.mean() + missing.mean()) / 2,
        "normals": float(angles.mean()),
    }


ROWS: dict[str, Callable[[Sequence[DepthView], Box, int], trimesh.Trimesh]] = {
    "ours": ours,
    "Open3D's TSDF": open3d_tsdf,
    "screened Poisson": poisson,
}


def main(
    seeds: list[int],
    photos: int = 24,
    between: tuple[int, ...] = (16,),
    voxels: int = 128,
    long_side: int = 256,
    steps: int = 700,
    confidence: float = BETWEEN_CONFIDENCE,
    record: Path | None = None,
) -> None:
    """Measure.

    Args:
        seeds: of objects.
        photos: of each.
        between: numbers of cameras between the photos; rivals are shown with the first.
        voxels: along the longest side.
        long_side: of the photos in pixels.
        steps: of training each splat.
        confidence: of depth between the photos against 1 at them.
        record: file to add a line to for each object and row.
    """
    found: dict[str, list[dict[str, float]]] = {}
    console = Console()
    for seed in seeds:
        capture, solid = photographed(seed, photos, long_side)
        splat = reconstruct(capture, capture.train, Schedule(steps=steps, max_gaussians=15_000), seed)[1.0]
        seen = surface_seen(capture)
        unit = float(np.ptp(seen, axis=0).max())
        box = Box(seen.min(0) - _MARGIN * unit, seen.max(0) + _MARGIN * unit)
        own = depth_views(splat, capture.cameras)
        for count in between:
            views = own + depth_views(splat, auto_targets(capture.cameras, capture.points, count, 0.0), confidence)
            for name, make in ROWS.items():
                if name != "ours" and count != between[0]:
                    continue
                started = time.perf_counter()
                mesh = make(views, box, voxels)
                took = time.perf_counter() - started
                label = f"{name}, {count} between" if len(between) > 1 else name
                row = {**measure(mesh, capture, solid, unit), "seconds": took}
                found.setdefault(label, []).append(row)
                if record is not None:
                    facts = {"object": seed, "mesh": name, "between": count, "photos": photos, "voxels": voxels}
                    facts |= {"side": long_side, "steps": steps, "commit": commit(), "date": str(date.today())}
                    with open(record, "a", encoding="utf-8") as file:
                        print(json.dumps({**facts, **{key: round(value, 6) for key, value in row.items()}}), file=file)
        console.print(
            f"object {seed}: " + "; ".join(f"{name} {rows[-1]['chamfer']:.4f}" for name, rows in found.items()),
            style="dim",
        )
    table = Table("", "accuracy", "within 1 %", "Chamfer", "normals", "seconds")
    apart = Table("less the first row", "accuracy", "within 1 %", "Chamfer", "normals")
    first = next(iter(found.values()))
    for name, rows in found.items():
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        table.add_row(
            name,
            f"{mean['accuracy']:.4f}",
            f"{100 * mean['completeness']:.1f} %",
            f"{mean['chamfer']:.4f}",
            f"{mean['normals']:.1f}°",
            f"{mean['seconds']:.1f}",
        )
        if rows is not first and len(rows) > 1:
            apart.add_row(name, *(_paired(rows, first, key) for key in _DIGITS))
    console.print(table)
    console.print(apart)


_DIGITS = {"accuracy": 4, "completeness": 3, "chamfer": 4, "normals": 1}


def _paired(rows: Sequence[dict[str, float]], first: Sequence[dict[str, float]], key: str) -> str:
    """Mean difference of a metric with its standard error over objects."""
    differences = [row[key] - base[key] for row, base in zip(rows, first, strict=True)]
    error = float(np.std(differences, ddof=1) / len(differences) ** 0.5)
    return f"{np.mean(differences):+.{_DIGITS[key]}f} ± {error:.{_DIGITS[key]}f}"


if __name__ == "__main__":
    tyro.cli(main)
