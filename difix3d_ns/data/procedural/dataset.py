"""Writes a procedural world as a nerfstudio dataset, with photographs, cameras and points as COLMAP would give them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from scipy.ndimage import gaussian_gradient_magnitude, maximum_filter, minimum_filter
from torch import Tensor

from difix3d_ns.data.procedural.bounding_volumes import BoundingVolumes
from difix3d_ns.data.procedural.ray_caster import render, to_photograph
from difix3d_ns.data.procedural.trajectories import pinhole, views_along
from difix3d_ns.data.procedural.worlds import World
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.io.atomic import write_text
from difix3d_ns.io.point_files import write_points
from difix3d_ns.io.transforms_frames import frame_entry

_MIN_DISTANCE = 0.25  # metres: nobody photographs a wall from nearer than that


@dataclass(frozen=True)
class View:
    """A photograph with its true depth."""

    camera: Pinhole
    image: Tensor  # [H, W, 3] sRGB in [0, 1]
    depth: Tensor  # [H, W, 1] metres along z, 0 for sky
    training: bool


def photograph_world(
    world: World,
    rng: np.random.Generator,
    *,
    width: int = 480,
    height: int = 320,
    train_views: int = 9,
    test_views: int = 10,
    beyond: float = 0.2,
    exposure_change: float = 0.0,
    supersampling: int = 1,
    poses: Sequence[tuple[np.ndarray, bool]] | None = None,
    label: str | None = "Rendering views",
) -> list[View]:
    """Render the training and held-out views of a world, in the order of its path.

    Args:
        world: what to photograph.
        rng: the hand's jitter, sensor noise, exposure.
        width, height: pixels.
        train_views: how many a reconstruction gets.
        test_views: how many are held out.
        beyond: share of these that lies a bit beyond the training views instead of between them.
        exposure_change: standard deviation of log2 exposure between views; white balance changes by a quarter of it.
        supersampling: views are rendered so many times larger, and reduced by an antialiased filter instead of a
            mean, which leaves some aliasing: no detail that could be learned. At 2 with as many rays as at 1.
        poses: camera-to-world matrices [4, 4] and whether each is a training view, in place of those that
            ``train_views``, ``test_views`` and ``beyond`` lay along the path.
        label: of the progress bar; None for no bar.
    """
    volumes = BoundingVolumes.build(world.scene)
    views = []
    exposure = None
    if poses is None:
        poses = views_along(world.path, train_views, test_views, rng, world.spread, beyond)
    for pose, training in track(poses, label or "", disable=label is None):
        camera = pinhole(pose, width, height, world.field_of_view)
        colour, depth = _supersampled(world, camera, supersampling, volumes)
        if exposure is None:  # a camera would meter the first view and keep its setting
            exposure = 0.2 / max(float(colour.mean(-1).median()), 1e-3)
        if depth[depth > 0].min() < _MIN_DISTANCE:
            continue
        gain = exposure * 2.0 ** (exposure_change * rng.normal())
        balance = 2.0 ** (0.25 * exposure_change * rng.normal(size=3))
        image = to_photograph(colour, gain, (balance[0], balance[1], balance[2]))
        noise = torch.from_numpy(rng.normal(0, 1, image.shape)).float()
        views.append(View(camera, (image + noise * (0.003 + 0.004 * image.sqrt())).clamp(0, 1), depth, training))
    return views


def _supersampled(world: World, camera: Pinhole, times: int, volumes: BoundingVolumes) -> tuple[Tensor, Tensor]:
    """Colour [H, W, 3] and depth [H, W, 1] of a view rendered larger and reduced; see ``ray_caster.render``."""
    large = camera.resized(camera.width * times, camera.height * times)
    colour, depth = render(world.scene, large, max(1, 2 // times), volumes, times)
    reduced = resample(colour.permute(2, 0, 1)[None], camera.height, camera.width)[0].permute(1, 2, 0)
    return reduced.clamp_min(0), depth[times // 2 :: times, times // 2 :: times]  # depth is never mixed


def structure_points(
    views: Sequence[View], rng: np.random.Generator, count: int = 2000
) -> tuple[np.ndarray, np.ndarray]:  # [N, 3] float32 metres, [N, 3] uint8
    """Points as structure from motion would find them: on texture, seen by two training views, with its noise.

    A point's error is half a pixel of reprojection in each of its two views, so it grows with depth and with the
    inverse of the angle between the rays; one in two hundred is a false match.
    """
    training = [v for v in views if v.training]
    points, colours = [], []
    for view in training:
        grey = view.image.mean(-1).numpy()
        score = np.clip(gaussian_gradient_magnitude(grey, 1.2), 0, 0.12)
        depth = view.depth[..., 0].numpy()
        steady = (depth > 0) & (maximum_filter(depth, 3) < 1.03 * minimum_filter(depth, 3))
        chance = (np.maximum(score - 0.012, 0) * steady).ravel()
        if not chance.any():
            continue
        picks = rng.choice(
            chance.size, min(4 * count // len(training), np.count_nonzero(chance)), False, chance / chance.sum()
        )
        rows, columns = np.unravel_index(picks, depth.shape)
        rays, pose = _rays(view.camera, columns, rows), view.camera.camera_to_world.double().numpy()
        z = depth[rows, columns]
        truth = (rays * z[:, None]) @ pose[:3, :3].T + pose[:3, 3]
        angle = np.zeros(len(truth))
        for other in training:
            if other is not view:
                angle = np.maximum(angle, _triangulation_angle(truth, pose[:3, 3], other))
        focal = float(view.camera.intrinsics[0, 0])
        along = np.minimum(0.5 / focal / np.maximum(angle, 1e-3), 0.05) * rng.normal(size=len(z))
        along += np.where(rng.random(len(z)) < 0.005, rng.normal(0, 0.3, len(z)), 0)
        aside = 0.5 / focal * rng.normal(size=(len(z), 3))
        noisy = (rays * (1 + along)[:, None] + aside) * z[:, None] @ pose[:3, :3].T + pose[:3, 3]
        keep = angle > np.radians(1.0)
        points.append(noisy[keep])
        colours.append((view.image.numpy()[rows, columns][keep] * 255).round())
    if not points or not (total := sum(map(len, points))):
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    chosen = rng.permutation(total)[:count]
    return np.concatenate(points)[chosen].astype(np.float32), np.concatenate(colours)[chosen].astype(np.uint8)


def _rays(camera: Pinhole, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:  # [N, 3], z = 1
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], -1)
    return pixels @ np.linalg.inv(camera.intrinsics.double().numpy()).T


def _triangulation_angle(points: np.ndarray, centre: np.ndarray, other: View) -> np.ndarray:  # [N] radians
    """Angle between the rays of two views where the other one sees the point and a matcher would manage; else 0."""
    camera = other.camera
    local = points @ camera.world_to_camera[:3, :3].double().numpy().T + camera.world_to_camera[:3, 3].double().numpy()
    z = np.maximum(local[:, 2], 1e-6)
    uv = (local / z[:, None]) @ camera.intrinsics.double().numpy().T
    inside = (local[:, 2] > 0.05) & (uv[:, 0] >= 0) & (uv[:, 0] < camera.width)
    inside &= (uv[:, 1] >= 0) & (uv[:, 1] < camera.height)
    column, row = np.where(inside, uv[:, 0], 0).astype(int), np.where(inside, uv[:, 1], 0).astype(int)
    seen = inside & (np.abs(other.depth[..., 0].numpy()[row, column] / z - 1) < 0.015)
    a, b = centre - points, camera.position.double().numpy() - points
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    angle = np.arccos(np.clip(cosine, -1, 1))
    return np.where(seen & (angle < np.radians(45)), angle, 0)


def write_views(
    views: Sequence[View],
    output: Path,
    rng: np.random.Generator,
    *,
    points: int = 2000,
    image_format: str = "jpg",
    depths: bool = False,
) -> Path:
    """Write views as a nerfstudio dataset (``images/``, ``transforms.json``, ``sparse_pc.ply``).

    Args:
        views: photographs in order; ``val`` and ``test`` are the same held-out ones.
        output: a folder, made if missing. ``transforms.json`` is written last, so a half-written dataset has none.
        rng: for the points' noise.
        points: at most so many.
        image_format: ``jpg`` or ``png``.
        depths: also write the truth as ``depths/frame_00001.npy`` (float32 metres along z, 0 for sky).

    Returns:
        ``output``.

    Raises:
        ValueError: fewer than two training views.
        OSError: the folder cannot be written.
    """
    if sum(v.training for v in views) < 2:
        raise ValueError(f"{output}: a dataset needs at least 2 training views, got {sum(v.training for v in views)}")
    frames: list[dict] = []
    names: dict[bool, list[str]] = {True: [], False: []}
    (output / "images").mkdir(parents=True, exist_ok=True)
    for index, view in enumerate(views, start=1):
        name = f"images/frame_{index:05d}.{image_format}"
        save_image(view.image, output / name)
        if depths:
            (output / "depths").mkdir(exist_ok=True)
            np.save(output / f"depths/frame_{index:05d}.npy", view.depth[..., 0].numpy())
        frames.append(frame_entry(name, view.camera))
        names[view.training].append(name)
    xyz, rgb = structure_points(views, rng, points)
    write_points(xyz, rgb, output / "sparse_pc.ply")
    transforms = {
        "camera_model": "OPENCV",
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "ply_file_path": "sparse_pc.ply",
        "frames": frames,
        "train_filenames": names[True],
        "val_filenames": names[False],
        "test_filenames": names[False],
    }
    write_text(output / "transforms.json", json.dumps(transforms, indent=1))
    return output


def save_image(image: Tensor, path: Path) -> None:
    """Write [H, W, 3] in [0, 1] as JPEG (nearly lossless) or PNG, by the name's ending."""
    rounded = (image.clamp(0, 1) * 255 + 0.5).byte().cpu().numpy()
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if path.suffix in (".jpg", ".jpeg") else {}
    Image.fromarray(rounded).save(path, **options)
