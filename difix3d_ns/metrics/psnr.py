"""Peak signal-to-noise ratio."""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_ERROR = 1e-10  # equal pictures get 100 dB: infinity is no JSON


def psnr(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """PSNR in dB of two pictures of one shape in [0, 1], 100 for equal ones.

    Args:
        prediction, truth: [H, W, C].
        mask: [H, W, 1] weight of each pixel; None: all count.
    """
    error = (prediction.double() - truth.double()).square()
    if mask is not None:
        error = (error * mask).sum((0, 1)) / mask.double().sum().clamp_min(1)
    return float(-10 * torch.log10(error.mean().clamp_min(_MIN_ERROR)))
