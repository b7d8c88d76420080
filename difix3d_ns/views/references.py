"""Choosing the training views that show most of a pseudo-view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.geometry.warp import opaque
from difix3d_ns.io.transfers import sent

_PIXELS = 2400  # of the pseudo-view that vote; 1/8 of 480 x 320 in both directions
_PLANE_PIXELS = 20000  # of a candidate's depth and alpha that are sampled
_TOLERANCE = 0.05  # relative depth error at which a point counts half, as in geometry.warp
_MAX_COVERAGE = 0.7  # of a pixel by one perfect reference; the rest rewards a second opinion
_TIE = 1e-3  # of the visible pixels: what the whole range of pose distances may change


class Candidate(Protocol):
    """A ``PosedImage`` without its picture, as far as choosing needs it."""

    @property
    def camera(self) -> Pinhole | None: ...
    @property
    def depth(self) -> Tensor | None: ...  # [H, W, 1]
    @property
    def alpha(self) -> Tensor | None: ...  # [H, W, 1]
    @property
    def mask(self) -> Tensor | None: ...  # [H, W, 1] in [0, 1]


class Coverage(NamedTuple):
    """Coverage of a view by each candidate, and what counts against it."""

    coverage: Tensor  # [K, P] at the voting pixels, in [0, 1)
    pose_penalty: Tensor  # [K] for pose distance, in pixels: decides among equals


def choose_references(
    camera: Pinhole,
    depth: Tensor,
    alpha: Tensor,
    candidates: Sequence[Candidate],
    count: int,
) -> list[int]:
    """Choose the training views that together show most of what the splat shows from ``camera``.

    A candidate's coverage of a pixel is its visibility there (splat depth of both views, so occlusion counts) times how
    alike the views are: the cosine between the viewing rays and the relative resolution. References are taken
    greedily; each gains what the ones before left open, 1 - prod(1 - 0.7 coverage), a submodular function for which
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
        At most ``count`` different positions in ``candidates``, best first.
    """
    if min(count, len(candidates)) <= 0:
        return []
    return greedy_max_coverage(candidate_coverage(camera, depth, alpha, candidates), count)


def candidate_coverage(camera: Pinhole, depth: Tensor, alpha: Tensor, candidates: Sequence[Candidate]) -> Coverage:
    """Coverage of what the splat shows from ``camera``; arguments of ``choose_references``."""
    distance = _scaled_pose_distance(camera, candidates)
    coverage, total = _coverage(camera, depth, alpha, candidates)
    return Coverage(coverage, (_TIE * max(total, 1e-12) * distance).to(coverage))


def greedy_max_coverage(covered: Coverage, count: int, taken: Sequence[int] = ()) -> list[int]:
    """Complete ``taken`` greedily with what adds most, up to ``count`` different positions."""
    coverage, pose_penalty = covered
    chosen = list(taken)
    open_share = (1 - coverage[chosen]).prod(0)
    for _ in range(min(count, len(coverage)) - len(chosen)):
        gain = coverage @ open_share - pose_penalty
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
        open_share = open_share * (1 - coverage[chosen[-1]])
    return chosen


def _scaled_pose_distance(camera: Pinhole, candidates: Sequence[Candidate]) -> Tensor:
    """[K] pose distances, scaled into [0, 1); 2 without a camera."""
    placed = [i for i, c in enumerate(candidates) if c.camera is not None]
    result = torch.full((len(candidates),), 2.0, dtype=torch.float64)
    if placed:
        poses = stack_poses([c.camera for c in candidates if c.camera is not None])
        own = stack_poses([camera])
        baseline = camera_spacing(poses) or float(torch.cdist(own[:, :3, 3], poses[:, :3, 3]).max())
        distance = pose_distances(own, poses, baseline)[0]
        result[placed] = distance / (1 + distance)
    return result


def _coverage(camera: Pinhole, depth: Tensor, alpha: Tensor, candidates: Sequence[Candidate]) -> tuple[Tensor, float]:
    """Compute the coverage [K, P] by every candidate at the voting pixels, and how many pixels there are to see."""
    points, solid = _voting_points(camera, depth, alpha)  # [P, 3], [P]
    result = points.new_zeros(len(candidates), len(points))
    usable = [i for i, c in enumerate(candidates) if c.camera and c.depth is not None and c.alpha is not None]
    if not usable or not len(points):
        return result, float(solid.sum())
    views = [candidates[i] for i in usable]
    cameras = [v.camera for v in views if v.camera]
    poses = sent(torch.stack([c.camera_to_world for c in cameras]).to(points.dtype), points.device)  # [K, 4, 4]
    matrix = sent(torch.stack([c.intrinsics for c in cameras]).to(points.dtype), points.device)  # [K, 3, 3]
    size = sent(torch.tensor([[c.width, c.height] for c in cameras], dtype=points.dtype), points.device)

    rays = points - sent(camera.position.to(points.dtype), points.device)  # [P, 3]
    other_rays = points - poses[:, None, :3, 3]  # [K, P, 3]
    pixels = other_rays @ (matrix @ poses[:, :3, :3].mT).mT  # [K, P, 3]
    z = pixels[..., 2]
    relative = pixels[..., :2] / z.clamp_min(1e-9)[..., None] / size[:, None]
    seen = ((z > 0) & (relative > 0).all(-1) & (relative < 1).all(-1)).to(points)
    there, usable_share = _sample_planes(views, relative, points)
    seen = seen * usable_share * (1.5 - (z / there - 1).abs() / _TOLERANCE).clamp(0, 1)

    span, other_span = rays.norm(dim=1).clamp_min(1e-9), other_rays.norm(dim=2).clamp_min(1e-9)
    cosine = (other_rays * rays).sum(2) / (span * other_span)
    resolution = matrix[:, :1, 0] / float(camera.intrinsics[0, 0]) * span / other_span
    result[usable] = _MAX_COVERAGE * solid * seen * cosine.clamp(0, 1) * resolution.clamp(0, 1)
    return result, float(solid.sum())


def _voting_points(camera: Pinhole, depth: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """World points [P, 3] of one pixel per cell of a coarse grid, where the splat is, and how solid it is there [P]."""
    height, width = depth.shape[:2]
    camera = camera.resized(width, height).to(depth.device, torch.float32)
    step = max(1, round((height * width / _PIXELS) ** 0.5))
    cell = slice(step // 2, None, step)  # no averaging: a mean over an edge lies on no surface
    z = depth[cell, cell, 0].float().nan_to_num(0.0, 0.0, 0.0)
    solid = opaque(alpha[cell, cell, 0].float()) * (z > 0)
    rows, columns = (solid > 0).nonzero(as_tuple=True)
    z, solid = z[rows, columns], solid[rows, columns]
    pixels = torch.stack([columns, rows], 1) * step + (step // 2 + 0.5)
    focal, centre = camera.intrinsics.diagonal()[:2], camera.intrinsics[:2, 2]
    local = torch.cat([(pixels - centre) / focal, torch.ones_like(z)[:, None]], 1) * z[:, None]
    return local @ camera.camera_to_world[:3, :3].T + camera.position, solid


def _sample_planes(views: Sequence[Candidate], relative: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and usable share (opacity times mask) of each view at picture coordinates [K, P, 2] in [0, 1]."""
    depths: list[Tensor] = []
    shares: list[Tensor] = []
    for view, place in zip(views, relative, strict=True):
        assert view.depth is not None
        assert view.alpha is not None
        depth = thinned(view.depth).to(points)
        share = opaque(thinned(view.alpha).to(points))
        if view.mask is not None:
            share = share * thinned(view.mask).to(points)
        if share.shape != depth.shape:
            raise ValueError(f"depth {tuple(depth.shape)} and alpha {tuple(share.shape)} of a reference differ in size")
        height, width = depth.shape[:2]
        column = (place[:, 0] * width).clamp(0, width - 1).long()
        row = (place[:, 1] * height).clamp(0, height - 1).long()
        depths.append(depth[row, column, 0])
        shares.append(share[row, column, 0])
    there = torch.stack(depths)
    return there.clamp_min(1e-9), torch.stack(shares) * (there > 0)


def thinned(plane: Tensor) -> Tensor:
    """Take every n-th pixel of a large plane [H, W, 1]: enough for votes, and the large plane is never copied.

    A plane that was thinned stays as it is: whoever keeps planes for choosing alone may keep thin ones.
    """
    step = max(1, round((plane.shape[0] * plane.shape[1] / _PLANE_PIXELS) ** 0.5))
    return plane[step // 2 :: step, step // 2 :: step]
