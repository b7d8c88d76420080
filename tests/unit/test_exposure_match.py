"""Exposure of references on a scene whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import torch

from difix3d_ns.geometry.exposure_match import exposure_gains
from difix3d_ns.geometry.warp import warp_references
from tests.unit.known_scenes import camera_at, photograph


def striped(x: float, y: float = 0.0):
    reference, points = photograph(camera_at(x, y))
    texture = 0.2 * torch.sin(9 * points[..., :1] + 2 * points[..., 1:2]) * torch.cos(7 * points[..., 1:2])
    return replace(reference, image=(reference.image + texture).clamp(0, 1))


def match_exposure(images, visibility, render):
    return (images * exposure_gains(images, visibility, render)[:, None, None]).clamp(0, 1)


def test_exposure_is_matched():
    target, reference = striped(0.0), striped(0.3)
    gain = torch.tensor([1.25, 0.8, 1.1])
    dimmed = replace(reference, image=(reference.image * 0.75 * gain).clamp(0, 1))
    warps = warp_references(target.camera, target.depth, target.alpha, [dimmed])
    matched = match_exposure(warps.images, warps.visibility, target.image)
    seen = (warps.visibility > 0.9).expand_as(matched)
    before, after = ((x - target.image[None]).abs()[seen].mean() for x in (warps.images, matched))
    assert after < 0.2 * before


def test_exposure_leaves_the_unseen_alone():
    images = torch.rand(2, 40, 40, 3)
    torch.testing.assert_close(match_exposure(images, torch.zeros(2, 40, 40, 1), torch.rand(40, 40, 3)), images)
    assert match_exposure(images[:0], images[:0, ..., :1], images[0]).shape == (0, 40, 40, 3)
