"""Frames of an orbit beside each other: depth as networks are told it, and surfaces on which frames agree."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from difix3d_ns.priors.networks.diffusion import anchored, anchoring
from difix3d_ns.priors.networks.orbit_frames import agreed, depth_conditions, normalised_depths
from tests.unit.known_scenes import camera_at, photograph

pytestmark = pytest.mark.usefixtures("one_thread")
CAMERAS = [camera_at(0.1 * number, width=64, height=48) for number in range(4)]


def test_depth_is_normalised_once_for_all_frames() -> None:
    depths = torch.full((3, 1, 8, 8), 2.0)
    depths[1], depths[2] = 4.0, 8.0
    depths[0, :, :2] = 0.0
    found = normalised_depths(depths)
    assert float(found[0, 0, 4, 4]) == pytest.approx(0, abs=0.1) and float(found[2].min()) == pytest.approx(1, abs=0.1)
    assert float(found[1, 0, 0, 0]) == pytest.approx(0.5, abs=0.02)  # logarithms
    assert (found[0, :, :2] > found[2].max()).all()  # where nothing is, beyond all
    torch.testing.assert_close(normalised_depths(7 * depths), found, atol=1e-5, rtol=0)
    assert not normalised_depths(torch.zeros(2, 1, 4, 4)).any()


def test_patches_of_depth_fit_latents() -> None:
    depth = torch.rand(1, 1, 10, 13)
    found = depth_conditions(depth, 4, 4)
    assert found.shape == (1, 16, 4, 4)
    assert float(found[0, 0, 0, 0]) == pytest.approx(float(depth[0, 0, 0, 0]) - 0.5)


def test_frames_agree_on_what_both_see() -> None:
    """Noise of each frame's own becomes less, and what lies on the surface stays."""
    shown = [photograph(camera)[0] for camera in CAMERAS]
    truth = torch.stack([one.image.permute(2, 0, 1) for one in shown])
    depths = torch.stack([one.depth.permute(2, 0, 1) for one in shown if one.depth is not None])
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    before = (noisy - truth).square().mean()
    after = (agreed(noisy, depths, CAMERAS, 1.0) - truth).square().mean()
    assert after < 0.5 * before
    assert (agreed(truth, depths, CAMERAS, 1.0) - truth).abs().mean() < 2e-3
    torch.testing.assert_close(agreed(noisy, depths, CAMERAS, 0.0), noisy)


def test_nothing_is_taken_from_another_surface() -> None:
    """What one frame says of the wall behind does not reach the card before it."""
    shown = [photograph(camera)[0] for camera in CAMERAS]
    depths = torch.stack([one.depth.permute(2, 0, 1) for one in shown if one.depth is not None])
    near = depths < float(depths.min()) * 1.1
    found = agreed((~near).float(), depths, CAMERAS, 1.0)
    inside = near & (torch.nn.functional.max_pool2d((~near).float(), 5, 1, 2) == 0)
    assert inside.sum() > 200 and float(found[inside].abs().max()) < 1e-4


def test_without_depth_frames_stay_as_they_are() -> None:
    values = torch.rand(3, 3, 48, 64)
    assert torch.equal(agreed(values, torch.zeros(3, 1, 48, 64), CAMERAS[:3], 1.0), values)


def test_the_chain_lets_go_of_its_start() -> None:
    shares = [anchoring(place / 25) for place in range(26)]
    assert shares[0] == 1 and all(a > b for a, b in itertools.pairwise(shares))
    # Hi3D's code: (0.5 (1 + cos(i / 25)))^40, of which these are values
    for place, value in ((5, 0.67), (8, 0.36), (12, 0.10), (16, 0.015)):
        assert shares[place] == pytest.approx(value, rel=0.06)
    assert shares[24] == pytest.approx((0.5 * (1 + math.cos(0.96))) ** 40)
    one, other = torch.zeros(2), torch.ones(2)
    assert torch.equal(anchored(one, other, 1.0), other) and torch.equal(anchored(one, other, 0.0), one)
