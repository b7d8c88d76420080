"""Depth of photographs from each other, against the truth of a procedural scene."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from difix3d_ns.data.procedural import demo_world
from difix3d_ns.data.procedural.dataset import photograph_world, structure_points
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.stereo import _mean_around, stereo_depths, stereo_points

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def capture():
    rng = np.random.default_rng(0)
    views = photograph_world(
        demo_world(0), rng, width=240, height=160, train_views=5, test_views=0, beyond=0.0, label=None
    )
    points, _ = structure_points(views, rng, 500)
    return views, [PosedImage(view.image, view.camera) for view in views], torch.from_numpy(points)


@pytest.fixture(scope="module")
def depths(capture):
    _, photographs, points = capture
    return stereo_depths(photographs, points)


def errors(views, depths) -> torch.Tensor:
    """Relative depth errors of all kept pixels."""
    return torch.cat([(depths[i].depth / views[i].depth - 1).abs()[depths[i].kept] for i in depths])


@pytest.mark.parametrize("window", [(7, 1), (1, 7), (5, 5)])
@pytest.mark.parametrize("size", [(3, 4), (37, 53)])
def test_means_around_have_the_bits_of_torch(window, size):
    maps = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    half = (window[0] // 2, window[1] // 2)
    expected = torch.nn.functional.avg_pool2d(maps, window, 1, half, count_include_pad=False)
    assert torch.equal(_mean_around(maps, *window), expected)


def test_kept_depths_are_true(capture, depths):
    views, _, _ = capture
    error = errors(views, depths)
    kept = torch.stack([depth.kept.float().mean() for depth in depths.values()])
    assert set(depths) == set(range(len(views)))
    assert kept.mean() > 0.25
    assert error.median() < 0.005
    assert (error > 0.03).float().mean() < 0.12  # at edges windows see both surfaces


def test_points_lie_on_surfaces_in_their_colours(capture, depths):
    views, photographs, _ = capture
    positions, colours = stereo_points(photographs, depths, 400)
    again, _ = stereo_points(photographs, depths, 400)
    assert positions.shape == (400, 3) and colours.shape == (400, 3) and colours.dtype == torch.uint8
    assert torch.equal(positions, again)
    camera, truth = views[2].camera, views[2]
    local = positions @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    pixels = (local / local[:, 2:]) @ camera.intrinsics.T
    column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    inside = (local[:, 2] > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    z = truth.depth[row[inside], column[inside], 0]
    on_surface = (local[inside, 2] / z - 1).abs() < 0.02
    assert on_surface.float().mean() > 0.6  # the rest is hidden in this view
    seen = truth.image[row[inside], column[inside]][on_surface]
    assert (seen - colours[inside][on_surface].float() / 255).abs().mean() < 0.06


def test_fewer_points_than_asked_is_no_error(capture, depths):
    _, photographs, _ = capture
    most = sum(int(depth.kept.sum()) for depth in depths.values())
    assert len(stereo_points(photographs, depths, 10**9)[0]) == most


def test_without_points_the_range_comes_from_the_cameras(capture):
    views, photographs, _ = capture
    error = errors(views, stereo_depths(photographs[1:4], None) | {})
    assert len(error) > 1000


def test_masked_pixels_are_not_kept(capture):
    _, photographs, points = capture
    mask = torch.ones_like(photographs[2].image[..., :1])
    mask[:, :120] = 0
    depths = stereo_depths([*photographs[:2], replace(photographs[2], mask=mask), *photographs[3:]], points)
    assert not depths[2].kept[:, :119].any()
    assert depths[2].kept[:, 130:].any()


def test_nothing_to_compare_with(capture):
    _, photographs, points = capture
    assert stereo_depths(photographs[:1], points) == {}
    positions, colours = stereo_points(photographs[:1], {}, 10)
    assert positions.shape == (0, 3) and colours.shape == (0, 3)


def test_pictures_without_texture_give_nothing(capture):
    _, photographs, points = capture
    flat = [replace(photograph, image=torch.full_like(photograph.image, 0.5)) for photograph in photographs]
    depths = stereo_depths(flat, points)
    assert not any(depth.kept.any() for depth in depths.values())


def test_portrait_beside_landscape(capture):
    views, photographs, points = capture
    camera = photographs[2].camera
    x = 80  # the middle of the picture, held upright
    intrinsics = camera.intrinsics.clone()
    intrinsics[0, 2] -= x
    upright = Pinhole(camera.camera_to_world, intrinsics, 80, 160)
    mixed = [*photographs[:2], PosedImage(photographs[2].image[:, x : x + 80], upright), *photographs[3:]]
    depths = stereo_depths(mixed, points)
    truth = views[2].depth[:, x : x + 80]
    error = (depths[2].depth / truth - 1).abs()[depths[2].kept]
    assert depths[2].kept.float().mean() > 0.2
    assert error.median() < 0.005


@pytest.mark.parametrize("given", [True, False])
def test_photographs_from_one_place_tell_no_depth(capture, given):
    _, photographs, points = capture
    same = [photographs[2], replace(photographs[2], image=photographs[2].image.clone())]
    assert stereo_depths(same, points if given else None) == {}


def test_what_is_beyond_the_range_is_not_kept(capture):
    views, photographs, points = capture
    camera = photographs[2].camera
    z = (points - camera.position) @ camera.forward
    near = points[(z > 0) & (z < 1.9)]  # only what stands in front is known
    assert len(near) > 20
    depths = stereo_depths(photographs, near)
    far = views[2].depth > 1.9 * 1.5 * 1.1
    assert far.float().mean() > 0.1
    assert depths[2].kept[far].float().mean() < 0.05


def test_few_points_are_no_worse_than_none(capture):
    _, photographs, points = capture
    depths = stereo_depths(photographs, points[:15])
    assert len(depths) == len(photographs)
