"""Coverage: how many photographs show what a camera sees, and how much of a training they leave to other things."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import in_view

SPARSE, DENSE = 12, 36
"""Photographs that show what a target sees: up to the first a made view is worth most, from the second on nothing.
The first is also the number of photographs of a capture up to which nothing is taken away: what the methods are for."""

VISITS = 45
"""Steps that each further photograph gets before anything else does: one that was seen a few times still teaches more
than a view made from it."""

_MAX_POINTS = 2048  # scene points used
_MAX_ANGLE = math.radians(45)  # between two rays to a point: from further aside another side of it is seen
_MAX_DISTANCE = 2.0  # times as far from the point: from further away less is seen of it
_MIN_POINTS = 3  # seen by a target, for their median to mean something


def coverage(targets: Sequence[Pinhole], cameras: Sequence[Pinhole], points: Tensor) -> list[float]:
    """Number of photographs that show what each target sees, from a similar side and distance.

    Nothing hides anything here: points on surfaces are few, and a wall between is unknown before training.

    Args:
        targets: cameras whose views are wanted.
        cameras: of the photographs.
        points: [P, 3] world points of the scene.

    Returns:
        One number per target: the median over the points it sees; 0 where it sees hardly any.
    """
    points = points.detach().to("cpu", torch.float32)
    points = points[:: -(-len(points) // _MAX_POINTS) or 1]
    points = points[points.isfinite().all(1)]
    shown = torch.stack([in_view(points, _on_cpu(camera))[0] for camera in cameras])  # [N, P]
    positions = torch.stack([camera.position.detach().to(points) for camera in cameras])
    numbers = []
    for target in targets:
        seen = in_view(points, _on_cpu(target))[0].nonzero().flatten()
        if len(seen) < _MIN_POINTS:
            numbers.append(0.0)
            continue
        own = points[seen] - target.position.detach().to(points)  # [K, 3]
        others = points[seen] - positions[:, None]  # [N, K, 3]
        far = others.norm(dim=-1), own.norm(dim=-1)
        cosines = (others * own).sum(-1) / (far[0] * far[1]).clamp_min(1e-12)
        similar = (cosines > math.cos(_MAX_ANGLE)) & (far[0] < _MAX_DISTANCE * far[1])
        numbers.append(float((shown[:, seen] & similar).sum(0).float().quantile(0.5)))
    return numbers


def spare_share(photographs: int, steps: int) -> float:
    """Share of a training's steps that is left once all photographs have theirs; 1 in a sparse capture."""
    return min(1.0, max(0.0, 1 - VISITS * max(0, photographs - SPARSE) / max(1, steps)))


def thinness(covered: Sequence[float], photographs: int, steps: int) -> list[float]:
    """Share of its full part in training that a made view at each target gets, in [0, 1]; 1 in a sparse capture.

    Args:
        covered: number of photographs that show what each target sees, see ``coverage``.
        photographs: of the capture.
        steps: of training.
    """
    spare = spare_share(photographs, steps)
    return [spare * min(1.0, max(0.0, (DENSE - number) / (DENSE - SPARSE))) for number in covered]


def _on_cpu(camera: Pinhole) -> Pinhole:
    pose, intrinsics = (
        tensor.detach().to("cpu", torch.float32) for tensor in (camera.camera_to_world, camera.intrinsics)
    )
    return Pinhole(pose, intrinsics, camera.width, camera.height)
