"""Free space in front of cameras: what few photographs see from one side only tends to float there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import in_view

_NEAREST = 0.01  # quantile of the depths of points: a false match is no surface
_FEWEST = 20  # points a camera must see for its nearest to mean something
_MARGIN = 0.1  # of the picture, around it: a Gaussian's extent reaches further than its centre


def nearest_depths(points: Tensor, cameras: Sequence[Pinhole]) -> list[float]:
    """Depth of the nearest surface of each camera, by the points it sees.

    Args:
        points: [P, 3] world points on surfaces.
        cameras: where from.

    Returns:
        One depth per camera, scene units; 0 where too few points are seen to tell.
    """
    depths = []
    for camera in cameras:
        inside, _, z = in_view(points, camera)
        seen = z[inside]
        depths.append(float(seen.quantile(_NEAREST)) if len(seen) >= _FEWEST else 0.0)
    return depths


def floating_in_front(means: Tensor, cameras: Sequence[Pinhole], depths: Sequence[float]) -> Tensor:
    """Gaussians in a camera's view and nearer to it than ``depths``.

    Args:
        means: [N, 3] world.
        cameras: where from.
        depths: one per camera, scene units.

    Returns:
        [N] bool.
    """
    floating = torch.zeros(len(means), dtype=torch.bool, device=means.device)
    for camera, depth in zip(cameras, depths, strict=True):
        if depth > 0:
            inside, _, z = in_view(means, camera, _MARGIN)
            floating |= inside & (z < depth)
    return floating
