"""Depth and visibility against the truth of procedural scenes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import reproject
from difix3d_ns.priors.networks.depth_net import Views

_MAX_ERROR = 1.0  # of log depth: a few wild pixels must not decide
_HIDDEN = 0.03  # relative depth by which what a photograph shows differs from a surface that it does not see


def surfaces_seen(truth: Tensor, camera: Pinhole, depth: Tensor, other: Pinhole) -> Tensor:
    """Find the surfaces that another camera sees, [H/4, W/4] bool: at one of four pixels in the middle of each place.

    Arguments as of ``surfaces_seen_at``.
    """
    return surfaces_seen_at(truth, camera, depth, other)[2::4, 2::4]


def surfaces_seen_at(truth: Tensor, camera: Pinhole, depth: Tensor, other: Pinhole) -> Tensor:
    """Find the surfaces that another camera sees, [H, W] bool.

    Args:
        truth: [H, W] exact depth of a camera; 0 is sky.
        camera: of it.
        depth: [h, w, 1] exact depth of the other camera.
        other: that camera.
    """
    grid, z = reproject(truth.clamp_min(1e-6), camera, other)
    there = F.grid_sample(depth.permute(2, 0, 1)[None], grid[None], mode="nearest", align_corners=False)[0, 0]
    seen = (grid.abs() < 1).all(-1) & (z > 0) & ((there / z.clamp_min(1e-6) - 1).abs() < _HIDDEN)
    return seen & (truth > 0)


def laplace_likelihood(found: Tensor, log_scale: Tensor, depth: Tensor, weights: Tensor) -> Tensor:
    """Mean negative logarithm of the likelihood of log depth under Laplace's distribution.

    Args:
        found: depth, any shape.
        log_scale: logarithm of the distribution's scale.
        depth: the truth; where it is 0, ``weights`` are 0.
        weights: of each pixel.
    """
    error = (found.log() - depth.clamp_min(1e-6).log()).abs().clamp(max=_MAX_ERROR)
    each = error * (-log_scale).exp() + log_scale
    return (each * weights).sum() / weights.sum().clamp_min(1)


def plane_likelihood(logits: Tensor, views: Views, depth: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of the two planes around the surface, where it lies in the range.

    Args:
        logits: [B, D, h, w] of the planes, far to near.
        views: the range.
        depth: [B, 1, h, w] truth, 0: none.
        weights: [B, 1, h, w].
    """
    planes = logits.shape[1]
    far, near = (bound.view(-1, 1, 1, 1) for bound in (views.far, views.near))
    level = (1 / depth.clamp_min(1e-6) - far) / (near - far) * (planes - 1)
    weights = weights * ((depth > 0) & (level > 0) & (level < planes - 1))
    below = level.clamp(0, planes - 1 - 1e-4).floor()
    share = (level - below).clamp(0, 1)
    log = logits.log_softmax(1)
    each = -(1 - share) * log.gather(1, below.long()) - share * log.gather(1, (below.long() + 1).clamp(max=planes - 1))
    return (each * weights).sum() / weights.sum().clamp_min(1)
