"""Bringing warped photographs to the exposure and white balance of the render they are to repair."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_POOL = 8  # pixels: misalignment and sharpness must not enter, so only block means are compared
_MAX_GAIN = 1.5
_NO_CHANGE_WEIGHT = 0.02  # as a share of the picture


def exposure_gains(images: Tensor, visibility: Tensor, render: Tensor) -> Tensor:
    """Gains that bring references to the exposure of a render, one per reference and channel.

    They are fitted where the reference is visible and agrees with the render. They are ratios of means, not a
    regression: regressing a blurred render on a sharp photograph would shrink the contrast.

    Args:
        images: [K, H, W, 3] warped references in [0, 1].
        visibility: [K, H, W, 1] in [0, 1].
        render: [H, W, 3] in [0, 1].

    Returns:
        [K, 3]; 1 for a reference that is nowhere visible.
    """
    if images.shape[0] == 0:
        return images.new_ones(0, 3)
    weight = _pool(visibility)
    source = _pool(images * visibility) / weight.clamp_min(1e-3)
    target = _pool(render[None] * visibility) / weight.clamp_min(1e-3)
    gain = images.new_ones(images.shape[0], 3, 1, 1)
    for _ in range(3):
        # Blocks that still differ by more than 0.15 show something else, or a broken part of the splat.
        error = (source * gain - target).abs().amax(1, keepdim=True)
        confidence = weight * (1.5 - error / 0.1).clamp(0, 1)
        above = (confidence * target).mean((2, 3), keepdim=True) + _NO_CHANGE_WEIGHT * 0.5
        below = (confidence * source).mean((2, 3), keepdim=True) + _NO_CHANGE_WEIGHT * 0.5
        gain = (above / below).clamp(1 / _MAX_GAIN, _MAX_GAIN)
    return gain[..., 0, 0]


def _pool(maps: Tensor) -> Tensor:
    """Block means [K, C, H / 8, W / 8] of [K, H, W, C]."""
    return F.avg_pool2d(maps.permute(0, 3, 1, 2), _POOL, ceil_mode=True)
