"""Scenes whose colours and depth are known in closed form, and pictures that are none of a scene."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.priors.base import FixRequest

WALL, BOX, HALF = 6.0, 3.0, 0.6  # a wall at z = 6 and a square card of half-width 0.6 at z = 3


def camera_at(x: float, y: float = 0.0, width: int = 160, height: int = 120, yaw: float = 0.0) -> Pinhole:
    pose = torch.eye(4)
    pose[0, 3], pose[1, 3] = x, y
    pose[0, 0] = pose[2, 2] = math.cos(yaw)
    pose[0, 2], pose[2, 0] = math.sin(yaw), -math.sin(yaw)
    focal = 0.9 * width
    return Pinhole(pose, torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]), width, height)


def colour(points: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.4 * torch.stack(
        [torch.sin(2 * points[..., 0]), torch.cos(3 * points[..., 1]), torch.sin(points[..., 0] + points[..., 2])], -1
    )


def photograph(camera: Pinhole) -> tuple[PosedImage, torch.Tensor]:
    """PosedImage with analytic depth, and its world points."""
    ray = unproject(torch.ones(camera.height, camera.width, 1), camera) - camera.position
    to_card = BOX / ray[..., 2]
    on_card = ((camera.position + ray * to_card[..., None])[..., :2].abs() < HALF).all(-1)
    depth = torch.where(on_card, to_card, WALL / ray[..., 2])[..., None]
    points = camera.position + ray * depth
    return PosedImage(colour(points), camera, depth, torch.ones_like(depth)), points


def photographs_with_points(count: int = 3, width: int = 64, height: int = 48) -> list[PosedImage]:
    """Photographs of the wall and the card, each with some points of known depth."""
    found = []
    for number in range(count):
        shown, _ = photograph(camera_at(0.4 * number, width=width, height=height))
        assert shown.depth is not None
        sparse = torch.zeros_like(shown.depth)
        sparse[::7, ::5] = shown.depth[::7, ::5]
        found.append(replace(shown, depth=sparse))
    return found


def look_at(position, target=(0.0, 0.0, 0.0), width=96, height=64, focal=80.0, roll=0.0) -> Pinhole:
    position, target = torch.tensor(position, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    forward = torch.nn.functional.normalize(target - position, dim=0)
    down = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=0)
    down = torch.linalg.cross(forward, right)
    right, down = right * math.cos(roll) + down * math.sin(roll), down * math.cos(roll) - right * math.sin(roll)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.stack([right, down, forward], 1)
    pose[:3, 3] = position
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Pinhole(pose.float(), intrinsics, width, height)


def wall_reference(camera: Pinhole, y: float = 0.0, **changes) -> PosedImage:
    """A photograph of the plane at the given y, with its exact depth."""
    rows, columns = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    pixels = torch.stack([columns, rows, torch.ones_like(rows)], -1)
    rays = pixels @ torch.linalg.inv(camera.intrinsics).T @ camera.camera_to_world[:3, :3].T
    depth = ((y - camera.position[1]) / rays[..., 1])[..., None]
    depth = depth.where(depth > 0, 0)
    values = {"image": torch.rand(camera.height, camera.width, 3), "camera": camera, "depth": depth}
    return PosedImage(**{**values, "alpha": (depth > 0).float(), **changes})


def straight(x, **options) -> Pinhole:
    return look_at((x, -4.0, 0.0), (x, 0.0, 0.0), **options)


def picture(height: int, width: int, seed: int) -> Tensor:
    """[height, width, 3] in [0, 1]: smooth, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0)
    return (smooth + 0.1 * torch.rand(height, width, 3, generator=generator)).clamp(0, 1)


def requests_of(height: int, width: int, references: int, batch: int = 1) -> list[FixRequest]:
    """References: one as large as the picture, one upright, one larger and wider."""
    sizes = [(height, width), (height, width // 2), (height * 3 // 2, width * 2)][:references]
    if references == 1:
        sizes = [(height, width * 2 // 3)]
    return [
        FixRequest(
            picture(height, width, 10 * b),
            [PosedImage(picture(*size, 10 * b + k + 1)) for k, size in enumerate(sizes)],
        )
        for b in range(batch)
    ]
