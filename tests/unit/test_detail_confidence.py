"""Confidence in the detail of upscaled photographs, on a wall seen by three cameras."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.detail_confidence import detail_confidence

SIZE = 96


def wall(texture: Tensor, x: float, distance: float) -> tuple[Pinhole, Tensor, Tensor]:
    """A camera before the plane z = 4, what it sees of a texture there, and its depth."""
    pose = torch.eye(4)
    pose[0, 3], pose[2, 3] = x, 4 - distance
    intrinsics = torch.tensor([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]])
    camera = Pinhole(pose, intrinsics, SIZE, SIZE)
    pixels = (torch.arange(SIZE) + 0.5 - SIZE / 2) / SIZE * distance
    grid = torch.stack(torch.meshgrid(pixels + x, pixels, indexing="xy"), -1) / 3
    picture = torch.nn.functional.grid_sample(texture[None], grid[None], "bilinear", align_corners=False)[0]
    return camera, picture.permute(1, 2, 0), torch.full((SIZE, SIZE, 1), distance)


def mean(confidence: Tensor) -> float:
    return float(confidence[24:-24, 24:-24].mean())


def test_what_others_show_as_well_is_trusted_and_noise_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(3, 128, 128, generator=generator)
    cameras, pictures, depths = map(list, zip(*(wall(texture, x, 4.0) for x in (-0.2, 0.0, 0.2)), strict=True))
    agreed = mean(detail_confidence(1, pictures, cameras, depths, 4))
    pictures[1] = torch.rand(SIZE, SIZE, 3, generator=generator)
    alone = mean(detail_confidence(1, pictures, cameras, depths, 4))
    assert agreed > 0.6 and alone < 0.25


def test_a_nearer_photograph_is_trusted_more() -> None:
    texture = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(1))
    cameras, pictures, depths = map(list, zip(*(wall(texture, 0.0, d) for d in (4.0, 2.0)), strict=True))
    far, near = (mean(detail_confidence(index, pictures, cameras, depths, 4)) for index in (0, 1))
    assert far < 0.5 < near  # half as many pixels per length, at best


def test_where_nobody_else_looks_nothing_contradicts() -> None:
    camera, picture, depth = wall(torch.rand(3, 64, 64), 0.0, 4.0)
    away = replace(camera, camera_to_world=camera.camera_to_world @ torch.diag(torch.tensor([-1.0, 1, -1, 1])))
    confidence = detail_confidence(0, [picture, picture], [camera, away], [depth, depth], 4)
    assert confidence.shape == (SIZE, SIZE, 1) and float(confidence.min()) == 1
