"""Bicubic enlargement, made to agree with the photograph: what any other upscaler has to beat."""

from __future__ import annotations

import torch

from difix3d_ns.geometry.resampling import BACK_PROJECTIONS
from difix3d_ns.priors.bicubic import BicubicUpscaler, refuse_weights


def load(
    weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> BicubicUpscaler:
    """Create it; it computes in float32.

    Raises:
        ValueError: weights were given, and it has none.
    """
    refuse_weights("backprojection", weights)
    return BicubicUpscaler(torch.device(device), BACK_PROJECTIONS)
