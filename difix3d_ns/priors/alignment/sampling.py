"""Features of the references where hypotheses of depth say that a surface lies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import reproject


@dataclass(frozen=True)
class Sampled:
    """One reference under D hypotheses."""

    features: Tensor  # [D, C, h, w]
    inside: Tensor  # [D, h, w] 1 where the hypothesis lies in front of the reference and inside its picture
    mismatch: Tensor  # [D, h, w] log(z / depth of the splat there), within +-LIMIT; LIMIT where the splat has none


LIMIT = 0.5


def sample_reference(
    depths: Tensor, camera: Pinhole, features: Tensor, usable: Tensor, depth: Tensor, other: Pinhole
) -> Sampled:
    """Sample a reference at hypotheses of the target's depth.

    Args:
        depths: [D, h, w] hypotheses along the target camera's z, scene units; <= 0 sees nothing.
        camera: the target's, of any resolution with the same field of view.
        features: [C, H, W] of the reference, of any resolution.
        usable: [H, W] in [0, 1], 0 = masked.
        depth: [H', W'] the splat's median depth at the reference, 0 where there is nothing.
        other: the reference's camera.
    """
    count, height, width = depths.shape
    camera = camera.resized(width, height)
    grid, z = reproject(depths, camera, other)
    flat = grid.view(1, count * height, width, 2)
    planes = torch.cat([features, usable[None]])[None]
    found = F.grid_sample(planes, flat, padding_mode="border", align_corners=False)[0]
    found = found.view(-1, count, height, width).transpose(0, 1)
    surface = F.grid_sample(depth[None, None], flat, mode="nearest", padding_mode="border", align_corners=False)
    surface = surface.view(count, height, width)
    inside = (grid.abs() < 1).all(-1) & (z > 0) & (depths > 0)
    ratio = (z.clamp_min(1e-6) / surface.clamp_min(1e-6)).log().clamp(-LIMIT, LIMIT)
    mismatch = torch.where(surface > 0, ratio, LIMIT)
    return Sampled(found[:, :-1], inside * found[:, -1], mismatch)
