"""What floats right in front of a camera is found; surfaces and what the camera does not see are not."""

import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.splats.floaters import FreeSpace, nearest_depths

CAMERA = Pinhole(torch.eye(4), torch.tensor([[100.0, 0, 50], [0, 100.0, 40], [0, 0, 1]]), 100, 80)


def wall(depth: float, count: int = 400) -> torch.Tensor:
    """Points in the camera's view at one depth."""
    spread = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    return torch.cat([spread * torch.tensor([0.9, 0.7]) * depth, torch.full((count, 1), depth)], 1)


def test_nearest_depth_is_that_of_the_nearest_wall_and_no_false_match():
    false_match = torch.tensor([[0.0, 0.0, 0.1]])
    points = torch.cat([wall(2.0), wall(5.0), false_match])
    assert nearest_depths(points, [CAMERA]) == [2.0]


def test_too_few_points_tell_nothing():
    assert nearest_depths(wall(2.0, 19), [CAMERA]) == [0.0]
    assert nearest_depths(wall(-2.0), [CAMERA]) == [0.0]
    assert not FreeSpace([CAMERA], [0.0]).floating(wall(0.1)).any()


def test_only_what_is_near_and_in_view_floats():
    means = torch.tensor(
        [
            [0.0, 0.0, 0.5],  # right in front
            [0.0, 0.0, 1.5],  # behind the bound
            [5.0, 0.0, 0.5],  # aside
            [0.0, 0.0, -0.5],  # behind the camera
            [0.27, 0.0, 0.5],  # just outside the picture: its extent reaches in
        ]
    )
    assert FreeSpace([CAMERA], [1.0]).floating(means).tolist() == [True, False, False, False, True]


def test_one_camera_of_several_is_enough():
    aside = torch.eye(4)
    aside[0, 3] = 5.0
    other = Pinhole(aside, CAMERA.intrinsics, CAMERA.width, CAMERA.height)
    means = torch.tensor([[5.0, 0.0, 0.5], [0.0, 0.0, 3.0]])
    assert FreeSpace([CAMERA, other], [1.0, 1.0]).floating(means).tolist() == [True, False]
