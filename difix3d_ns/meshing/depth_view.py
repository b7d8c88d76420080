"""Depth that a splat shows from a camera, with what each pixel of it weighs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import opaque, unproject

_EDGE = 8.0  # times the median bend of inverse depth, which planes do not have, and at least:
_MIN_EDGE = 0.01  # of the inverse depth: a larger bend is a silhouette
_MIN_SLOPE = 0.1  # of a surface seen edge-on, whose normal is mostly noise


@dataclass(frozen=True)
class DepthView:
    """Depth of a view, its surface's slope and its weight; all maps float32 on the CPU."""

    camera: Pinhole  # of the maps' size
    depth: Tensor  # [H, W] along z, 0 where nothing is
    slope: Tensor  # [H, W] distance to the surface's tangent plane over the distance to it along z
    weight: Tensor  # [H, W], 0 where nothing is known


def depth_view(
    camera: Pinhole, depth: Tensor, alpha: Tensor, mask: Tensor | None = None, confidence: float = 1.0
) -> DepthView:
    """Weigh the depth of a view by opacity and confidence, 0 where it has a step.

    Not by the angle at which a surface is seen: that lost accuracy on each of four objects.

    Args:
        camera: of the view.
        depth: [H, W, 1] median depth along z, 0 where nothing is.
        alpha: [H, W, 1] opacity.
        mask: [H, W, 1], 0 where the view is not to be used; None: nowhere.
        confidence: of the view as a whole.
    """
    depth, alpha = depth.detach().float().cpu(), alpha.detach().float().cpu()
    height, width = depth.shape[:2]
    camera = camera.to("cpu", torch.float32).resized(width, height)
    normals, even = _normals(depth, camera)
    points = unproject(depth, camera)
    rays = points - camera.position
    slope = (normals * rays).sum(-1).abs() / depth[..., 0].clamp_min(1e-12)
    known = (depth[..., 0] > 0) & depth[..., 0].isfinite()
    weight = opaque(alpha)[..., 0] * even * known * confidence
    if mask is not None:
        weight = weight * (mask[..., 0].cpu() > 0.5)
    depth = depth[..., 0].where(known, 0.0)
    return DepthView(camera, depth, slope.clamp(_MIN_SLOPE, 2.0), weight.nan_to_num(0.0))


def _normals(depth: Tensor, camera: Pinhole) -> tuple[Tensor, Tensor]:
    """Unit normals [H, W, 3] of a depth map, world, and where it and its neighbours have no step, [H, W] bool."""
    points = F.pad(unproject(depth, camera).permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")[0]
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normals = F.normalize(torch.linalg.cross(across, down, dim=0), dim=0).permute(1, 2, 0)
    inverse = torch.where(depth > 0, 1 / depth.clamp_min(1e-12), 0.0)
    padded = F.pad(inverse.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")[0, 0]
    centre = padded[1:-1, 1:-1]
    right, left, below, above = padded[1:-1, 2:], padded[1:-1, :-2], padded[2:, 1:-1], padded[:-2, 1:-1]
    bend = torch.maximum((right + left - 2 * centre).abs(), (below + above - 2 * centre).abs())
    known = torch.stack([centre, right, left, below, above]).amin(0) > 0
    usual = float((bend / centre)[known].median()) if bool(known.any()) else 0.0
    return normals, known & (bend < max(_MIN_EDGE, _EDGE * usual) * centre)
