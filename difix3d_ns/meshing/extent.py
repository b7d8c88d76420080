"""The part of a scene that is worth meshing: what several photographs see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from difix3d_ns.geometry.warp import in_view, unproject
from difix3d_ns.meshing.depth_view import DepthView
from difix3d_ns.meshing.volume import Box

PHOTOS = 3
"""that see what the box holds, at least; all, where there are fewer"""
_POINTS = 400  # of each view
_AGREE = 0.05  # of the depth
_CORE = (0.005, 0.995)  # quantiles of the points along each axis that the box holds
_MARGIN = 0.05  # of its longest side, around it


def seen_box(views: Sequence[DepthView], photos: int = PHOTOS) -> Box | None:
    """Return the box around the surfaces that several views see; None if there are none.

    Args:
        views: of the photographs.
        photos: how many of them see a point that counts.
    """
    points = torch.cat([_surface_points(view) for view in views])
    counts = torch.zeros(len(points))
    for view in views:
        counts += _sees(view, points)
    kept = points[counts >= min(photos, len(views))].double().numpy()
    if len(kept) < 2:
        return None
    low, high = np.quantile(kept, _CORE[0], axis=0), np.quantile(kept, _CORE[1], axis=0)
    margin = _MARGIN * float((high - low).max())
    return Box(low - margin, high + margin) if margin > 0 else None


def pixel_size(views: Sequence[DepthView], box: Box) -> float:
    """Return the side of what one pixel shows inside a box, in scene units: the median; infinite if none shows it."""
    sizes = []
    for view in views:
        points = unproject(view.depth[..., None], view.camera)
        low, high = torch.from_numpy(box.low).to(points), torch.from_numpy(box.high).to(points)
        held = ((points >= low) & (points <= high)).all(-1) & (view.weight > 0)
        if bool(held.any()):
            sizes.append(float(view.depth[held].median() / view.camera.intrinsics[0, 0]))
    return float(np.median(sizes)) if sizes else float("inf")


def _surface_points(view: DepthView) -> Tensor:
    """World points [P, 3] on what a view shows, evenly spaced in its picture."""
    places = (view.weight > 0).flatten().nonzero().flatten()
    places = places[:: -(-len(places) // _POINTS) or 1]
    return unproject(view.depth[..., None], view.camera).view(-1, 3)[places]


def _sees(view: DepthView, points: Tensor) -> Tensor:
    """Points [P, 3] that a view shows, [P] bool."""
    inside, pixels, depth = in_view(points, view.camera)
    height, width = view.depth.shape
    column, row = pixels.nan_to_num(0).long().unbind(-1)
    there = view.depth[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return inside & ((there - depth).abs() < _AGREE * depth)
