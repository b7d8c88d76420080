"""Frames of an orbit beside each other: their depth as a network is told it, and what neighbours say of a surface."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import in_view, unproject
from difix3d_ns.priors.networks.residual_net import PATCH

DEPTH_CHANNELS = PATCH**2
_ENDS = (0.02, 0.98)  # quantiles of log depth that become 0 and 1
_BEYOND = 1.5  # of where nothing is
_MAX_SAMPLES = 1_000_000  # of a quantile
_SAME = 0.02  # of depth: how far two frames' may differ on one surface
_REACH = 2  # frames to either side


def normalised_depths(depths: Tensor) -> Tensor:
    """Normalise depth once for a sequence: logarithms, 0 at the nearest surface and 1 at the farthest.

    Args:
        depths: [N, 1, H, W] along z, 0 where nothing is.

    Returns:
        [N, 1, H, W], ``_BEYOND`` where nothing is; all zeros if nothing is anywhere.
    """
    known = depths[depths > 0].log()
    if not len(known):
        return torch.zeros_like(depths)
    every = -(-len(known) // _MAX_SAMPLES)
    near, far = torch.quantile(known[::every], torch.tensor(_ENDS, dtype=known.dtype, device=known.device))
    spread = (far - near).clamp_min(1e-3)
    scaled = ((depths.clamp_min(1e-12).log() - near) / spread).clamp(-0.5, _BEYOND)
    return scaled.where(depths > 0, _BEYOND)


def depth_conditions(depths: Tensor, height: int, width: int) -> Tensor:
    """Patches [B, 16, h, w] of normalised depth [B, 1, H, W], of latents of some height and width, about 0."""
    padded = F.pad(
        depths - 0.5, (0, PATCH * width - depths.shape[-1], 0, PATCH * height - depths.shape[-2]), "replicate"
    )
    return F.pixel_unshuffle(padded, PATCH)


def agreed(values: Tensor, depths: Tensor, cameras: Sequence[Pinhole], weight: float) -> Tensor:
    """Mix values with those that neighbouring frames have of the same surface.

    Args:
        values: [N, C, H, W] of the frames of a closed orbit.
        depths: [N, 1, H, W] along z, 0 where nothing is.
        cameras: N, of this size.
        weight: of each neighbour that shows the surface, against 1 of the frame itself.

    Returns:
        [N, C, H, W].
    """
    count = len(values)
    reach = min(_REACH, (count - 1) // 2)
    mixed = []
    for number in range(count):
        points = unproject(depths[number, 0, ..., None], cameras[number])
        total, shares = values[number].clone(), torch.ones_like(depths[number])
        for step in (*range(-reach, 0), *range(1, reach + 1)):
            other = (number + step) % count
            found, seen = _fetched(values[other], depths[other], points, cameras[other])
            seen = weight * seen * (depths[number] > 0)
            total, shares = total + seen * found, shares + seen
        mixed.append(total / shares)
    return torch.stack(mixed)


def _fetched(values: Tensor, depth: Tensor, points: Tensor, camera: Pinhole) -> tuple[Tensor, Tensor]:
    """Values [C, H, W] of a frame at points [H, W, 3], and in [0, 1] whether it shows these, [1, H, W]."""
    inside, pixels, z = in_view(points, camera)
    size = torch.tensor([camera.width, camera.height], device=pixels.device)
    grid = (2 * pixels / size - 1)[None].to(values)
    found = F.grid_sample(values[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    there = F.grid_sample(depth[None], grid, mode="nearest", padding_mode="border", align_corners=False)[0]
    off = ((z[None] - there).abs() / there.clamp_min(1e-12)).where(there > 0, 1.0)
    seen = (1 - off / _SAME).clamp(0, 1) * inside[None]
    return found, seen.to(values)
