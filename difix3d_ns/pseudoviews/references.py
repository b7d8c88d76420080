"""Choosing the training views that show most of a pseudo-view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.reference import Reference
from difix3d_ns.geometry.warp import opaque, unproject, visibility
from difix3d_ns.pseudoviews.poses import pose_distances, spacing, stack_poses

_PIXELS = 2400  # of the pseudo-view that vote; 1/8 of 480 x 320 in both directions
_PLANE_PIXELS = 20000  # of a candidate's depth and alpha that are looked at
_TRUST = 0.7  # share of a pixel one perfect reference settles; the rest rewards a second opinion
_TIE = 1e-3  # of the visible pixels: what the whole range of pose distances may change


def choose_references(
    camera: Pinhole,
    depth: Tensor,
    alpha: Tensor,
    candidates: Sequence[Reference],
    count: int,
) -> list[int]:
    """The training views that together show most of what the splat shows from ``camera``.

    A candidate's worth at a pixel is its visibility there (splat depth of both views, so occlusion counts) times how
    alike the views are: the cosine between the viewing rays and the relative resolution. References are taken
    greedily; each gains what the ones before left open, 1 - prod(1 - 0.7 worth), a submodular coverage for which
    greedy choice is within 63 % of the best (Nemhauser et al. 1978). Pose distance decides among equals and orders
    whatever shows nothing or has no depth.

    Args:
        camera: of the pseudo-view.
        depth: [H, W, 1] median depth rendered there, 0 where there is nothing.
        alpha: [H, W, 1] opacity rendered there.
        candidates: training views; those without depth or alpha compete by pose distance only, those without a camera
            come last.
        count: how many to choose.

    Returns:
        At most ``count`` different positions in ``candidates``, most useful first.
    """
    count = min(count, len(candidates))
    if count <= 0:
        return []
    remoteness = _remoteness(camera, candidates)
    worth, total = _worth(camera, depth, alpha, candidates)  # [K, P]
    penalty = (_TIE * max(total, 1e-12) * remoteness).to(worth)
    open_share = worth.new_ones(worth.shape[1])
    chosen: list[int] = []
    for _ in range(count):
        gain = worth @ open_share - penalty
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
        open_share = open_share * (1 - worth[chosen[-1]])
    return chosen


def _remoteness(camera: Pinhole, candidates: Sequence[Reference]) -> Tensor:
    """[K] pose distances, scaled into [0, 1); 2 without a camera."""
    placed = [i for i, c in enumerate(candidates) if c.camera is not None]
    result = torch.full((len(candidates),), 2.0, dtype=torch.float64)
    if placed:
        poses = stack_poses([c.camera for c in candidates if c.camera is not None])
        own = stack_poses([camera])
        unit = spacing(poses) or float(torch.cdist(own[:, :3, 3], poses[:, :3, 3]).max())
        distance = pose_distances(own, poses, unit)[0]
        result[placed] = distance / (1 + distance)
    return result


def _worth(camera: Pinhole, depth: Tensor, alpha: Tensor, candidates: Sequence[Reference]) -> tuple[Tensor, float]:
    """[K, P] worth of every candidate at the voting pixels, times ``_TRUST``; and how many pixels there are to see."""
    height, width = depth.shape[:2]
    step = max(1, round((height * width / _PIXELS) ** 0.5))
    middle = slice(step // 2, None, step)  # one pixel per cell, no averaging of depths across edges
    depth = depth.float().nan_to_num(0.0, 0.0, 0.0)
    points = unproject(depth, camera)[middle, middle]
    valid = opaque(alpha[middle, middle].float()) * (depth[middle, middle] > 0)
    rows, columns = (valid[..., 0] > 0).nonzero(as_tuple=True)
    points, valid = points[rows, columns][:, None], valid[rows, columns][:, None]  # [P, 1, 3], [P, 1, 1]
    result = points.new_zeros(len(candidates), len(points))
    usable = [
        (i, c.camera, c.depth, c.alpha, c.mask)
        for i, c in enumerate(candidates)
        if c.camera is not None and c.depth is not None and c.alpha is not None
    ]
    if not usable or not len(points):
        return result, float(valid.sum())
    for i, other, *planes in usable:
        thinned = [_thin(p) if p is not None else None for p in planes]
        result[i] = visibility(points, valid, other, *thinned)[:, 0, 0]
    index = [i for i, *_ in usable]
    rays = points[:, 0] - camera.position.to(points)  # [P, 3]
    others = torch.stack([u[1].position.to(points) for u in usable])
    other_rays = points[:, 0] - others[:, None]  # [K, P, 3]
    span, other_span = rays.norm(dim=1).clamp_min(1e-9), other_rays.norm(dim=2).clamp_min(1e-9)
    cosine = (other_rays * rays).sum(2) / (span * other_span)
    focal = points.new_tensor([float(u[1].intrinsics[0, 0]) for u in usable])
    resolution = focal[:, None] / float(camera.intrinsics[0, 0]) * span / other_span
    result[index] *= _TRUST * cosine.clamp(0, 1) * resolution.clamp(0, 1)
    return result, float(valid.sum())


def _thin(plane: Tensor) -> Tensor:
    """Every n-th pixel of a large plane [H, W, 1]: enough for votes, and the large plane is never copied."""
    step = max(1, round((plane.shape[0] * plane.shape[1] / _PLANE_PIXELS) ** 0.5))
    return plane[step // 2 :: step, step // 2 :: step]
