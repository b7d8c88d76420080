"""Gaussians moved to another coordinate system: positions, rotations, sizes and colours by direction turn together."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

_DIRECTIONS = 64  # more than there are functions, so that a rotation of them is found exactly


def placed(gaussians: Mapping[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
    """Move Gaussians by a similarity.

    Args:
        gaussians: splatfacto's parameters: means [N, 3], scales [N, 3] (logarithms), quats [N, 4] (w first, of any
            length), features_rest [N, K, 3]; others stay.
        matrix: [4, 4] float64: a rotation times one scale, and a shift.

    Returns:
        All parameters, in float32; means keep float64, whose digits coordinates of maps need.

    Raises:
        ValueError: the matrix mirrors, or scales its axes differently.
    """
    linear, shift = matrix[:3, :3].double(), matrix[:3, 3].double()
    scale = torch.linalg.det(linear).sign() * torch.linalg.det(linear).abs() ** (1 / 3)
    turn = linear / scale
    if not scale > 0 or not torch.allclose(turn @ turn.T, torch.eye(3, dtype=turn.dtype), atol=1e-4):
        raise ValueError("the matrix is no rotation with one scale")
    rotations = Rotation.from_quat(gaussians["quats"].double().numpy()[:, [1, 2, 3, 0]])
    quats = (Rotation.from_matrix(turn.numpy()) * rotations).as_quat()[:, [3, 0, 1, 2]]
    return {
        **gaussians,
        "means": gaussians["means"].double() @ linear.T + shift,
        "scales": gaussians["scales"] + math.log(scale),
        "quats": torch.from_numpy(quats).float(),
        "features_rest": _turned(gaussians["features_rest"], turn),
    }


def _turned(harmonics: Tensor, turn: Tensor) -> Tensor:
    """Spherical harmonics [N, K, 3] from the second function on, so that a turned direction has the colour it had."""
    count = harmonics.shape[1]
    if not count:
        return harmonics
    degree = math.isqrt(count + 1) - 1
    directions = torch.randn(_DIRECTIONS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after, before = (_functions(degree, some)[:, 1:] for some in (directions, directions @ turn))
    matrix = torch.linalg.lstsq(after, before).solution  # [K, K]: after @ matrix = before
    return torch.einsum("ij,njc->nic", matrix, harmonics.double()).float()


def _functions(degree: int, directions: Tensor) -> Tensor:
    """Values [D, (degree + 1)^2] of the functions in directions [D, 3]."""
    from gsplat.cuda._torch_impl import _spherical_harmonics

    one_each = torch.eye((degree + 1) ** 2, dtype=directions.dtype)[:, None, :, None]  # [K, 1, K, 1]
    coefficients = one_each.expand(-1, len(directions), -1, 3)
    values = _spherical_harmonics(degree, directions.expand(len(one_each), -1, -1), coefficients)
    return torch.as_tensor(values[..., 0]).T
