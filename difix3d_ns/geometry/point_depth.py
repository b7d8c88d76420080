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
    nearest = torch.full((camera.height * camera.width,), torch.inf, dtype=torch.float32, device=points.device)
    nearest = nearest.scatter_reduce(0, place, z[inside].float(), "amin")
    return nearest.where(nearest.isfinite(), 0.0).view(camera.height, camera.width, 1)
