"""Floater pruning: what few photographs see from one side only tends to float in front of their cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import in_view
from difix3d_ns.io.config_fields import check_share, fill_unset
from difix3d_ns.io.run import Run

DEFAULT_MIN_DEPTH = 0.5
"""minimum depth of Gaussians, as a share of the nearest depth of surfaces; it took away 0, 3 and some 100 Gaussians of
finished captures (fox, demo scene, fountain), the last gained 1 dB; 0.9 takes surfaces away"""
MAX_IMAGES = 64
"""number of photographs up to which floaters are pruned by default: more do not need it, and more cameras could err"""
_NEAREST = 0.01  # quantile of the depths of points: a false match is no surface
_MIN_POINTS = 20  # points a camera must see for their nearest depth to mean something
_MARGIN = 0.1  # of the picture, around it: a Gaussian's extent reaches further than its centre


@dataclass
class FloatersConfig:
    """Settings of floater pruning."""

    kept: ClassVar[tuple[str, ...]] = ("min_depth",)
    min_depth: float | None = None
    """smallest depth of Gaussians in front of a training camera, as a share of the depth of the nearest given points;
    what is nearer floats (unset: 0.5 with up to 64 photos, else 0; 0 = nothing is known to float)"""
    prune: bool = True
    """remove Gaussians from free space throughout training: few photos cannot separate them from what is behind"""
    see_through: bool = False
    """also remove Gaussians that photos see through, by their depth (--pipeline.depth.name)"""
    near_plane: bool = True
    """draw nothing, in any view, that is nearer than free space of the nearest photo reaches"""

    def fit(self, run: Run) -> None:
        """Fill in the minimum depth once the number of photographs is known."""
        if run.images is not None:
            fill_unset(self, min_depth=DEFAULT_MIN_DEPTH if run.images <= MAX_IMAGES else 0.0)

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if it is no share."""
        check_share(self, flag, "min_depth")


@dataclass(frozen=True)
class FreeSpace:
    """Cameras, and the minimum depth of Gaussians in front of each: the space before it is taken to be free."""

    cameras: Sequence[Pinhole]
    min_depths: Sequence[float]  # scene units; 0: not known

    @classmethod
    def of(cls, points: Tensor | None, cameras: Sequence[Pinhole], share: float) -> FreeSpace:
        """Find the free space of each camera from the points it sees.

        Args:
            points: [P, 3] world points on surfaces; None: nothing is known.
            cameras: of the photographs.
            share: of the nearest depth that is free.
        """
        if points is None or share <= 0:
            return cls([], [])
        return cls(cameras, [share * depth for depth in nearest_depths(points, cameras)])

    @property
    def nearest(self) -> float | None:
        """Smallest known minimum depth: a near plane for any view; None if none is known."""
        return min((depth for depth in self.min_depths if depth > 0), default=None)

    def floating(self, means: Tensor) -> Tensor:
        """Mask of Gaussians [N] bool with means [N, 3], world: in a camera's view and nearer to it than its depth."""
        floating = torch.zeros(len(means), dtype=torch.bool, device=means.device)
        for camera, depth in zip(self.cameras, self.min_depths, strict=True):
            if depth > 0:
                inside, _, z = in_view(means, camera, _MARGIN)
                floating |= inside & (z < depth)
        return floating


def nearest_depths(points: Tensor, cameras: Sequence[Pinhole]) -> list[float]:
    """Depth of the nearest surface of each camera, estimated from the points it sees.

    Args:
        points: [P, 3] world points on surfaces.
        cameras: where from.

    Returns:
        One depth per camera, scene units; 0 where too few points are seen.
    """
    depths = []
    for camera in cameras:
        inside, _, z = in_view(points, camera)
        seen = z[inside]
        depths.append(float(seen.quantile(_NEAREST)) if len(seen) >= _MIN_POINTS else 0.0)
    return depths
