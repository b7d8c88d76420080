"""Detail against the truth, against the photo, and among views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.metrics.agreement import agreement
from difix3d_ns.metrics.high_pass import high_pass, high_pass_correlation, low_consistency
from tests.unit.known_scenes import camera_at, photograph

FACTOR = 4.0


def _texture(height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """A picture with detail at every scale up to a few pixels."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        F.interpolate(torch.rand(1, 3, height // s, width // s, generator=generator), (height, width), mode="bicubic")
        for s in (2, 4, 8, 16)
    ]
    return torch.stack(layers).mean(0)[0].permute(1, 2, 0).clamp(0, 1)


def _blurred(picture: Tensor, size: int = 5) -> Tensor:
    return F.avg_pool2d(picture.permute(2, 0, 1)[None], size, 1, size // 2, count_include_pad=False)[0].permute(1, 2, 0)


def test_detail_is_what_a_reduction_loses() -> None:
    truth = _texture()
    pixels = Image.fromarray((truth * 255).byte().numpy())
    small = pixels.resize((24, 16), Image.Resampling.BICUBIC)
    kept = torch.from_numpy(np.array(small.resize((96, 64), Image.Resampling.BICUBIC))) / 255
    assert (high_pass(truth, FACTOR) - (truth - kept)).abs().mean() < 1.5 / 255  # rounded twice to 8 bits
    assert high_pass(torch.full((12, 20, 3), 0.3), 2.0).abs().max() < 1e-6
    for factor in (1.0, 1000.0):
        with pytest.raises(ValueError, match="cannot be reduced"):
            high_pass(truth, factor)


def test_only_true_detail_correlates() -> None:
    truth = _texture()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1)) * 0.2
    assert high_pass_correlation(truth, truth, FACTOR) == pytest.approx(1)
    assert high_pass_correlation(1 - truth, truth, FACTOR) == pytest.approx(-1)
    assert high_pass_correlation(0.3 * truth + 0.4, truth, FACTOR) == pytest.approx(1)  # free of scale
    assert abs(high_pass_correlation(truth * 0.2 + noise.abs(), truth, FACTOR)) < 0.5
    assert abs(high_pass_correlation(_texture(seed=7), truth, FACTOR)) < 0.1
    assert 0.3 < high_pass_correlation(_blurred(truth), truth, FACTOR) < 0.99
    assert high_pass_correlation(torch.full_like(truth, 0.5), truth, FACTOR) == 0  # no detail, no NaN
    with pytest.raises(ValueError, match="one size"):
        high_pass_correlation(truth, truth[:-1], FACTOR)
    with pytest.raises(ValueError, match="NaN"):
        high_pass_correlation(truth * torch.nan, truth, FACTOR)


def test_a_picture_is_consistent_with_the_photo_it_reduces_to() -> None:
    truth = _texture()
    low = F.interpolate(truth.permute(2, 0, 1)[None], (16, 24), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    assert low_consistency(truth, low) > 90
    assert low_consistency(truth + 0.1, low.clamp(0, 0.8)) == pytest.approx(20, abs=1)
    sharpened = truth + 0.3 * high_pass(truth, FACTOR)  # another high pass reduces to much the same
    assert low_consistency(sharpened, low) > low_consistency(_blurred(truth, 9), low) + 6
    with pytest.raises(ValueError, match="larger"):
        low_consistency(low, truth)


@pytest.fixture(scope="module")
def views() -> tuple[list[Tensor], list[Pinhole], list[Tensor]]:
    """Pictures of a wall and a card with a fine pattern, their cameras and exact depths."""
    cameras = [camera_at(x, 0.3 * x, yaw=0.05 * x) for x in (-0.6, -0.2, 0.2, 0.6)]
    pictures, depths = [], []
    for camera in cameras:
        photo, points = photograph(camera)
        assert photo.depth is not None
        x, y, z = points.unbind(-1)
        waves = [torch.sin(a * x + b * y + 3 * z) for a, b in ((17, 5), (-9, 21), (4, -13), (23, 19), (30, -8))]
        pattern = 0.5 + 0.09 * torch.stack([torch.stack(waves[k : k + 3]).sum(0) for k in range(3)], -1)
        pictures.append(pattern.clamp(0, 1))
        depths.append(photo.depth)
    return pictures, cameras, depths


def test_true_pictures_agree_and_blurred_ones_do(views: tuple[list[Tensor], list[Pinhole], list[Tensor]]) -> None:
    pictures, cameras, depths = views
    assert agreement(pictures, cameras, depths, FACTOR) > 0.8
    assert agreement([_blurred(picture) for picture in pictures], cameras, depths, FACTOR) > 0.8
    halves = [depth[::2, ::2] for depth in depths]  # of another size over the same field of view
    assert agreement(pictures, cameras, halves, FACTOR) > 0.7


def test_invented_detail_does_not_agree(views: tuple[list[Tensor], list[Pinhole], list[Tensor]]) -> None:
    pictures, cameras, depths = views
    generator = torch.Generator().manual_seed(0)
    noise = [torch.rand(picture.shape, generator=generator) for picture in pictures]
    assert abs(agreement(noise, cameras, depths, FACTOR)) < 0.1
    mixed = [_blurred(picture) + 0.15 * (grain - 0.5) for picture, grain in zip(pictures, noise, strict=True)]
    assert agreement(mixed, cameras, depths, FACTOR) < 0.5


def test_agreement_of_nothing_is_zero(views: tuple[list[Tensor], list[Pinhole], list[Tensor]]) -> None:
    pictures, cameras, depths = views
    assert agreement([torch.full_like(p, 0.5) for p in pictures], cameras, depths, FACTOR) == 0
    assert agreement(pictures, cameras, [torch.zeros_like(d) for d in depths], FACTOR) == 0
    assert agreement(pictures[:1], cameras[:1], depths[:1], FACTOR) == 0
    behind = [cameras[0], camera_at(0.0, yaw=3.14159)]
    assert agreement(pictures[:2], behind, depths[:2], FACTOR) == 0
    with pytest.raises(ValueError, match="4 pictures"):
        agreement(pictures, cameras[:1], depths, FACTOR)
