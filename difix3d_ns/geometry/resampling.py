"""Antialiased bicubic resampling, and back-projection: a large picture that agrees with the small one it came from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

BACK_PROJECTIONS = 5
"""of a picture with its photo: then the two differ by less than an 8-bit step, if it is one of the same"""
_AGREES = 1 / 255
_MAX_REPEATS = 8


def resample(pictures: Tensor, height: int, width: int) -> Tensor:
    """Resample pictures by the antialiased bicubic filter (a = -0.5), which is Pillow's but for rounding.

    Args:
        pictures: [B, C, H, W].
        height, width: pixels.

    Returns:
        [B, C, height, width], not clamped; ``pictures`` itself if it has that size.
    """
    if pictures.shape[-2:] == (height, width):
        return pictures
    return F.interpolate(pictures, (height, width), mode="bicubic", align_corners=False, antialias=True)


def resampled(picture: Tensor, height: int, width: int) -> Tensor:
    """Resample a picture [H, W, C] in [0, 1] to [height, width, C], as ``resample`` does, clamped to that range."""
    if picture.shape[:2] == (height, width):
        return picture
    return resample(picture.permute(2, 0, 1)[None], height, width)[0].permute(1, 2, 0).clamp(0, 1)


def back_project(high: Tensor, low: Tensor, times: int = BACK_PROJECTIONS) -> Tensor:
    """Add to large pictures what their reduction lacks of the small ones (Irani and Peleg, 1991), some times over.

    Args:
        high: [B, C, H, W] in [0, 1].
        low: [B, C, h, w] in [0, 1].
        times: how often.

    Returns:
        [B, C, H, W] in [0, 1]; what only the large size can show stays, what the small one shows is taken from there.
    """
    for _ in range(times):
        missing = low - resample(high, *low.shape[-2:])
        high = (high + resample(missing, *high.shape[-2:])).clamp(0, 1)
    return high


def back_project_to_agree(high: Tensor, low: Tensor) -> Tensor:
    """Back-project ``BACK_PROJECTIONS`` times, and again while the pictures still differ by more than 1/255 rms.

    The first time suffices, unless much of the large picture is far off and at the ends of the range.

    Args:
        high: [B, C, H, W] in [0, 1].
        low: [B, C, h, w] in [0, 1].

    Returns:
        [B, C, H, W] in [0, 1].
    """
    for _ in range(_MAX_REPEATS):
        high = back_project(high, low)
        difference = resample(high, *low.shape[-2:]) - low
        if float(difference.square().mean().sqrt()) <= _AGREES:
            break
    return high
