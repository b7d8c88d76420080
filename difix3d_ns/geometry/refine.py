"""Correcting a splat's depth where the photographs agree on another one.

A plane sweep (Collins, "A space-sweep approach to true multi-image matching", CVPR 1996) around the median depth, in
relative steps: moving a pixel's depth moves its place in each photograph along the epipolar line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.exposure import exposure_gains
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.reference import Reference
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import warp_references

# Chosen on sparse reconstructions of fountain, fox and sceaux, where it is worth 0.2 to 0.27 dB to the naive blend:
# wider or finer sweeps, more windows and each reference by itself gained no more.
_SPAN = 0.05  # largest relative change
_STEPS = 9
_WINDOW = 9  # pixels at half resolution
_SHARPNESS = 200.0  # of the soft minimum, per unit of cost
_RENDER = 1.5  # weight of resembling the render against the references resembling each other
_PRIOR = 0.01  # cost of the largest change
_UNSEEN = 0.2  # cost where no reference sees the hypothesis


def refine_depth(
    camera: Pinhole, depth: Tensor, alpha: Tensor, references: Sequence[Reference], render: Tensor
) -> Tensor:
    """Median depth moved to where the references agree best with each other and with the render.

    Args:
        camera: of the render.
        depth: [H, W, 1] median depth, scene units, 0 where there is nothing.
        alpha: [H, W, 1] opacity in [0, 1].
        references: photographs with camera, depth and alpha.
        render: [H, W, 3] in [0, 1].

    Returns:
        [H, W, 1], within 5 % of ``depth``; ``depth`` itself where nothing is seen, or without references.
    """
    height, width = depth.shape[:2]
    if not references or min(height, width) < 2 * _WINDOW:
        return depth
    small = [
        replace(
            reference,
            image=_halve(reference.image, "area"),
            depth=None if reference.depth is None else _halve(reference.depth, "nearest"),
            alpha=None if reference.alpha is None else _halve(reference.alpha, "nearest"),
            mask=None if reference.mask is None else _halve(reference.mask, "nearest"),
        )
        for reference in references
    ]
    target, half_depth, half_alpha = _halve(render, "area"), _halve(depth, "nearest"), _halve(alpha, "nearest")
    warps = warp_references(camera, half_depth, half_alpha, small)
    gains = exposure_gains(warps.images, warps.visibility, target)
    small = [replace(part, image=part.image * gain) for part, gain in zip(small, gains, strict=True)]
    offsets = torch.linspace(-_SPAN, _SPAN, _STEPS).tolist()
    costs = []
    for offset in offsets:
        warps = warp_references(camera, half_depth * (1 + offset), half_alpha, small, tolerance=1.6 * _SPAN)
        images, seen = warps.images, warps.visibility
        total = seen.sum(0)
        mean = (seen * images).sum(0) / total.clamp_min(1e-3)
        apart = (seen * ((images - mean).abs() + _RENDER * (images - target).abs())).mean(-1).sum(0)
        cost = apart / total[..., 0].clamp_min(1e-3)
        costs.append(torch.lerp(torch.full_like(cost, _UNSEEN), cost, total[..., 0].clamp(max=1)))
    steps = torch.tensor(offsets, device=depth.device, dtype=costs[0].dtype)[:, None, None]
    cost = F.avg_pool2d(torch.stack(costs)[None], _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
    weight = torch.softmax(-_SHARPNESS * (cost + _PRIOR * (steps / _SPAN).square()), 1)
    offset = F.avg_pool2d((weight * steps).sum(1, keepdim=True), 5, 1, 2, count_include_pad=False)
    offset = F.interpolate(offset, (height, width), mode="bilinear", align_corners=False)[0, 0, ..., None]
    return (depth * (1 + offset)).to(depth.dtype)


def _halve(maps: Tensor, mode: str) -> Tensor:
    """[H, W, C] at half the resolution."""
    return resized(maps.to(torch.float32), max(1, maps.shape[0] // 2), max(1, maps.shape[1] // 2), mode)
