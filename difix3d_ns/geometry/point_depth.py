"""Sparse depth of a camera from points of the scene."""

from __future__ import annotations

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import in_view


def point_depth(points: Tensor, camera: Pinhole) -> Tensor:
    """Project points into a camera; of several in a pixel, the nearest stays.

    Args:
        points: [P, 3] world, whether the camera can see them or something hides them.
        camera: of any size.

    Returns:
        [H, W, 1] along z in the points' units, 0 where there is none.
    """
    inside, pixels, z = in_view(points, camera)
    columns, rows = pixels[inside].floor().long().unbind(-1)
    place = rows.clamp(0, camera.height - 1) * camera.width + columns.clamp(0, camera.width - 1)
    return _nearest(place, z[inside], camera.height, camera.width)


def reduced_depth(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce sparse depth [H, W, 1] (0: unknown) to a size; of several in a pixel, the nearest stays."""
    if depth.shape[:2] == size:
        return depth.float()
    rows, columns = depth[..., 0].nonzero(as_tuple=True)
    place = (rows * size[0] // depth.shape[0]) * size[1] + columns * size[1] // depth.shape[1]
    return _nearest(place, depth[rows, columns, 0], *size)


def _nearest(place: Tensor, z: Tensor, height: int, width: int) -> Tensor:
    """Least of the depths [M] that fall into each pixel, by their places [M] in the picture; 0 where none does."""
    nearest = torch.full((height * width,), torch.inf, dtype=torch.float32, device=z.device)
    nearest = nearest.scatter_reduce(0, place, z.float(), "amin")
    return nearest.where(nearest.isfinite(), 0.0).view(height, width, 1)
