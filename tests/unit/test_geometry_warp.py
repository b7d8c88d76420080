"""Warps against a scene whose depth and colours are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import project, unproject, visibility, warp_references
from tests.unit.known_scenes import BOX, HALF, WALL, camera_at, photograph


def test_project_inverts_unproject():
    camera = camera_at(0.3, -0.2, yaw=0.2)
    depth = torch.rand(120, 160, 1) * 5 + 1
    pixels, z = project(unproject(depth, camera), camera)
    rows, columns = torch.meshgrid(torch.arange(120) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([columns, rows], -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(z, depth[..., 0], atol=1e-4, rtol=1e-4)


def test_warp_reproduces_the_picture_and_hides_the_occluded():
    target, points = photograph(camera_at(0.0))
    others = [photograph(camera_at(0.5, width=200, height=130))[0], photograph(camera_at(-0.4, 0.2, yaw=0.1))[0]]
    warps = warp_references(target.camera, target.depth, target.alpha, others)
    assert warps.images.shape == (2, 120, 160, 3)
    for k, other in enumerate(others):
        sure = warps.visibility[k, ..., 0] > 0.9
        assert sure.float().mean() > 0.6
        error = (warps.images[k] - target.image).abs().amax(-1)[sure]
        assert error.quantile(0.97) < 0.02  # pixels on the edge of the card may mix both colours
        # Exact occlusion: the segment from the other camera to a wall point crosses the card.
        origin = other.camera.position
        crossing = origin + (points - origin) * (BOX / points[..., 2:])
        hidden = (points[..., 2] > WALL - 0.5) & (crossing[..., :2].abs() < HALF - 0.05).all(-1)
        assert hidden.sum() > 50
        assert warps.visibility[k, ..., 0][hidden].max() == 0


def test_identical_camera_is_the_identity():
    target, _ = photograph(camera_at(0.0))
    warps = warp_references(target.camera, target.depth, target.alpha, [target])
    inner = (slice(4, -4), slice(4, -4))
    torch.testing.assert_close(warps.images[0][inner], target.image[inner], atol=1e-3, rtol=0)
    assert warps.visibility[0][inner].min() > 0.99


def test_behind_outside_masked_and_empty_are_invisible():
    target, points = photograph(camera_at(0.0))
    reference, _ = photograph(camera_at(0.2))
    behind = camera_at(0.0, yaw=math.pi)
    valid = torch.ones_like(target.depth)
    assert visibility(points, valid, behind, reference.depth, reference.alpha).max() == 0
    assert visibility(points + 100, valid, reference.camera, reference.depth, reference.alpha).max() == 0
    nowhere = torch.zeros_like(reference.alpha)
    assert visibility(points, valid, reference.camera, reference.depth, reference.alpha, mask=nowhere).max() == 0
    assert visibility(points, valid, reference.camera, reference.depth, nowhere).max() == 0
    assert visibility(points, valid, reference.camera, nowhere, reference.alpha).max() == 0
    assert visibility(points, valid, reference.camera, reference.depth, reference.alpha).max() == 1
    empty = warp_references(target.camera, torch.zeros_like(target.depth), target.alpha, [reference])
    assert empty.visibility.max() == 0


def test_visibility_falls_with_the_depth_error():
    target, points = photograph(camera_at(0.0))
    inner = (slice(5, -5), slice(5, 15))  # wall only
    values = []
    for factor in (1.0, 1.03, 1.06, 1.1):
        seen = visibility(points, torch.ones_like(target.depth), target.camera, target.depth * factor, target.alpha)
        values.append(seen[inner].mean().item())
    assert values[0] == 1
    assert values[0] > values[1] > values[2] > values[3] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_and_bad_values(dtype: torch.dtype):
    target, _ = photograph(camera_at(0.0))
    depth = target.depth.clone()
    depth[3, 4], depth[5, 6] = torch.nan, torch.inf
    warps = warp_references(target.camera, depth.to(dtype), target.alpha.to(dtype), [target])
    assert warps.images.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert warps.images.isfinite().all()
    assert warps.visibility.isfinite().all()
    assert warps.visibility[0, 3, 4] == 0


def test_reference_without_geometry_and_no_reference():
    target, _ = photograph(camera_at(0.0))
    bare = PosedImage(target.image)
    assert warp_references(target.camera, target.depth, target.alpha, [bare]).visibility.max() == 0
    assert warp_references(target.camera, target.depth, target.alpha, []).images.shape == (0, 120, 160, 3)


def test_matches_visibility():
    target, points = photograph(camera_at(0.0))
    reference, _ = photograph(camera_at(0.3))
    alone = visibility(points, torch.ones_like(target.depth), reference.camera, reference.depth, reference.alpha)
    warps = warp_references(target.camera, target.depth, target.alpha, [reference])
    # Both compute the same pixel in another order: equal but for pixels on the edge of a depth step.
    difference = (warps.visibility[0] - alone).abs()
    assert difference.quantile(0.99) < 1e-3
