"""Factor by which photographs are enlarged: what a device can train on."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.io.device_memory import free_memory

FACTORS = (4.0, 3.0, 2.0, 1.5)
"""tried in this order, unless one is given"""
PARTS = 4
"""a factor is a multiple of one fourth, so that at most three rows or columns of a photo are cropped"""
CPU_LONG_SIDE = 1600
"""pixels of an upscaled photo: a step takes some half a second at that size"""
_CUDA_LONG_SIDE = 4096
STEP_BYTES = 500
"""bytes of a step for each pixel, an estimate: maps and losses of two sizes, both ways (280 measured for one, and
the photos' own size has less than half as many), and a quarter more"""
_CUDA_SHARE = 0.4
"""of the free memory, for a step; the splat grows, and upscalers want their own"""


def choose_factor(
    longest: int, long_side: int | None, device: torch.device, given: float | None, aspect: float = 1.5
) -> float:
    """Choose the largest factor whose pictures the device can train on.

    Args:
        longest: pixels of the longest side of all photographs.
        long_side: most pixels of an upscaled one; None: by the device and its memory.
        device: of training.
        given: the factor that the user wants, or None.
        aspect: longer side over shorter.

    Raises:
        UserError: not even the smallest fits, or the given one does not fit what is given.
    """
    bound = _default_long_side(device, aspect) if long_side is None else long_side
    if given is not None and (long_side is None or enlarged_side(longest, Fraction(given)) <= bound):
        return given
    fitting = next((factor for factor in FACTORS if enlarged_side(longest, Fraction(factor)) <= bound), None)
    if given is None and fitting is not None:
        return fitting
    smallest = FACTORS[-1] if given is None else given
    needed, share = enlarged_side(longest, Fraction(smallest)), math.floor(1000 * bound / smallest / longest) / 1000
    raise UserError(
        f"photos of {longest} px cannot be upscaled by {smallest:g}: that is {needed} px, and at most {bound} fit. "
        f"Allow more with --pipeline.guidance.long-side {needed}, train on smaller photos with "
        f"--pipeline.datamanager.camera-res-scale-factor {share:.3f} (times the one you give now, if you do), or use "
        "sparse-splatfacto, which trains at the photos' own size"
    )


def enlarged_side(pixels: int, factor: Fraction) -> int:
    """Pixels of a side that is cropped to where the factor makes whole pixels of it."""
    return int(pixels // factor.denominator * factor.denominator * factor)


def _default_long_side(device: torch.device, aspect: float) -> int:
    free = free_memory(device)
    if free is None:
        return CPU_LONG_SIDE
    return min(_CUDA_LONG_SIDE, int((free * _CUDA_SHARE / STEP_BYTES * aspect) ** 0.5))
