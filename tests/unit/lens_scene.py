"""The card before the wall of ``known_scenes``, photographed through any lens and written as a scene."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from nerfstudio.cameras.camera_utils import fisheye624_unproject_helper
from PIL import Image

from difix3d_ns.geometry.pinhole import Pinhole
from tests.unit.known_scenes import BOX, HALF, WALL, camera_at, colour, photograph
from tests.unit.tiny_scene import write_ply_of

WIDTH, HEIGHT, FOCAL = 96, 72, 70.0
PARTS = 3
"""rays along each side of a pixel: a camera's pixel shows the mean of what it covers, and only such pictures can be
resampled"""
PLACES = [(-1.2 + 0.24 * i, 0.35 * (-1) ** i) for i in range(11)]

Lens = Mapping[str, Any]  # as transforms.json states it


def rays_of(lens: Lens, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Directions [PARTS H, PARTS W, 3] in the pixels, OpenCV axes; written from the lens models, not from the code."""
    width, height = width * PARTS, height * PARTS
    columns, rows = np.meshgrid((np.arange(width) + 0.5) / PARTS, (np.arange(height) + 0.5) / PARTS)
    x, y = (columns - lens["cx"]) / lens["fl_x"], (rows - lens["cy"]) / lens["fl_y"]
    model = lens.get("camera_model", "OPENCV")
    if model == "OPENCV_FISHEYE" or lens.get("is_fisheye"):
        distance = np.hypot(x, y)
        angle = np.linspace(0, 1.5, 200_001)
        reached = angle * (1 + sum(lens.get(f"k{i}", 0.0) * angle ** (2 * i) for i in (1, 2, 3, 4)))
        theta = np.interp(distance, reached, angle)
        scale = np.sin(theta) / np.maximum(distance, 1e-12)
        return np.stack([x * scale, y * scale, np.cos(theta)], -1)
    if model == "FISHEYE624":
        parameters = [lens["fl_x"], lens["fl_y"], lens["cx"], lens["cy"], *lens["distortion_params"]]
        pixels = torch.from_numpy(np.stack([columns, rows], -1).reshape(1, -1, 2)).double()
        rays = fisheye624_unproject_helper(pixels, torch.tensor(parameters, dtype=torch.float64)[None], max_iters=20)
        return rays[0].numpy().reshape(height, width, 3)
    coefficients = np.array([lens.get(name, 0.0) for name in ("k1", "k2", "p1", "p2", "k3")])
    grid = np.stack([x, y], -1).reshape(-1, 1, 2)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    straight = cv2.undistortPointsIter(grid, np.eye(3), coefficients, None, None, criteria).reshape(height, width, 2)
    return np.concatenate([straight, np.ones((height, width, 1))], -1)


def seen(position: torch.Tensor, rays: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3] in [0, 1] of pixels with rays [PARTS H, PARTS W, 3] from a place in front of the card."""
    ray = torch.from_numpy(rays).float()
    to_card = (BOX - position[2]) / ray[..., 2:]
    on_card = ((position + ray * to_card)[..., :2].abs() < HALF).all(-1, keepdim=True)
    depth = torch.where(on_card, to_card, (WALL - position[2]) / ray[..., 2:])
    colours = colour(position + ray * depth).clamp(0, 1).numpy()
    return colours.reshape(len(rays) // PARTS, PARTS, -1, PARTS, 3).mean((1, 3))


def pinhole(place: tuple[float, float]) -> Pinhole:
    """The camera at a place, without distortion."""
    camera = camera_at(*place, width=WIDTH, height=HEIGHT)
    matrix = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    return Pinhole(camera.camera_to_world, matrix, WIDTH, HEIGHT)


def write_lens_scene(
    folder: Path,
    lens: Lens | None = None,
    *,
    per_frame: bool = False,
    offset: tuple[float, float, float] = (0, 0, 0),
    save: Callable[[Image.Image, Path], None] | None = None,
    suffix: str = ".png",
) -> Path:
    """Write pictures, transforms.json and exact points; the last two of the places are held out.

    Args:
        folder: made.
        lens: keys of transforms.json beside those of the pinhole.
        per_frame: whether they are written in each frame, or once.
        offset: of the coordinates.
        save: how a picture is written; None: as PNG.
        suffix: of the files.
    """
    (folder / "images").mkdir(parents=True)
    given = {"w": WIDTH, "h": HEIGHT, "fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2} | dict(
        lens or {}
    )
    rays = rays_of(given, given["w"], given["h"])
    frames, points, colours = [], [], []
    for index, place in enumerate(PLACES):
        camera = pinhole(place)
        values = seen(camera.position, rays)
        path = folder / "images" / f"frame_{index:02d}{suffix}"
        picture = Image.fromarray((values * 255).round().astype(np.uint8))
        if save is None:
            picture.save(path)
        else:
            save(picture, path)
        pose = camera.camera_to_world.double().numpy().copy()
        pose[:3, 1:3] *= -1  # OpenGL axes
        pose[:3, 3] += offset
        frame = {"file_path": f"images/{path.name}", "transform_matrix": pose.tolist()}
        frames.append(frame | given if per_frame else frame)
        wide = camera.intrinsics * torch.tensor([[0.6, 1, 1], [1, 0.6, 1], [1, 1, 1]])
        view, world = photograph(replace(camera, intrinsics=wide))
        points.append(world[3::6, 3::6].reshape(-1, 3).double().numpy() + np.array(offset))
        colours.append((view.image[3::6, 3::6].reshape(-1, 3).clamp(0, 1) * 255).round().byte().numpy())
    write_ply_of(folder / "points.ply", np.concatenate(points), np.concatenate(colours))
    names = [frame["file_path"] for frame in frames]
    scene = {
        **({} if per_frame else given),
        "frames": frames,
        "ply_file_path": "points.ply",
        "train_filenames": names[:-2],
        "val_filenames": names[-2:],
        "test_filenames": names[-2:],
    }
    (folder / "transforms.json").write_text(json.dumps(scene))
    return folder
