"""Gaussians in other coordinates show the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from difix3d_ns.rasterization.rasterize import rasterization
from difix3d_ns.splats.placing import placed

pytestmark = pytest.mark.usefixtures("one_thread")


def _gaussians(degree: int, count: int = 60) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(degree)
    return {
        "means": torch.rand(count, 3, generator=draw) * 2 - 1,
        "scales": -2.5 + torch.randn(count, 3, generator=draw) * 0.5,
        "quats": torch.randn(count, 4, generator=draw),
        "features_dc": torch.randn(count, 3, generator=draw) * 0.5,
        "features_rest": torch.randn(count, (degree + 1) ** 2 - 1, 3, generator=draw) * 0.2,
        "opacities": torch.randn(count, 1, generator=draw),
    }


def _render(gaussians: dict[str, torch.Tensor], degree: int, to_camera: torch.Tensor, scale: float) -> torch.Tensor:
    colours = torch.cat([gaussians["features_dc"][:, None], gaussians["features_rest"]], 1)
    return rasterization(
        gaussians["means"].float(),
        gaussians["quats"] / gaussians["quats"].norm(dim=1, keepdim=True),
        gaussians["scales"].exp(),
        gaussians["opacities"].sigmoid()[:, 0],
        colours,
        to_camera.float()[None],
        torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]]),
        64,
        48,
        near_plane=0.01 * scale,
        sh_degree=degree,
    )[0][0]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 12.5])
def test_the_same_picture(degree: int, scale: float) -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * torch.from_numpy(Rotation.from_euler("xyz", [40, -100, 200], degrees=True).as_matrix())
    matrix[:3, 3] = torch.tensor([3.0, -7.0, 2.0])
    to_camera = torch.eye(4, dtype=torch.float64)
    to_camera[:3, :3] = torch.from_numpy(Rotation.from_euler("xyz", [10, 20, 5], degrees=True).as_matrix())
    to_camera[2, 3] = 4.0
    gaussians = _gaussians(degree)
    before = _render(gaussians, degree, to_camera, 1.0)
    after = to_camera @ torch.linalg.inv(matrix)
    after[:3] *= scale  # cameras do not scale their axes
    moved = placed(gaussians, matrix)
    assert moved["means"].dtype == torch.float64 and moved["opacities"] is gaussians["opacities"]
    picture = _render(moved, degree, after, scale)
    assert float(before.std()) > 0.05 and float((picture - before).abs().max()) < 2e-3


def test_no_similarity() -> None:
    for diagonal in ([1.0, 1, -1], [1, 2, 1]):
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = torch.from_numpy(np.diag(diagonal))
        with pytest.raises(ValueError, match="no rotation"):
            placed(_gaussians(0), matrix)
