"""Pictures made worse: a little, as cameras and files do, and as generators of views do."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

from difix3d_ns.geometry.warp import displaced
from difix3d_ns.training.crops import integer, to_bytes, to_unit

_MOVED = 0.02
"""standard deviation of displacements of a generated view, as a share of its longer side"""
_UNEVEN = 0.08  # of its brightness from place to place
_BLUR = (0.5, 3.0)  # pixels


def degraded(low: Tensor, generator: Generator) -> Tensor:
    """A photograph [3, h, w] with a little blur, noise and JPEG, each by an even chance."""
    if integer(2, generator):
        share = 0.25 * torch.rand((), generator=generator)
        softened = F.avg_pool2d(low, 3, 1, 1, count_include_pad=False)
        low = torch.lerp(low, softened, share)
    if integer(2, generator):
        low = low + 0.015 * torch.rand((), generator=generator) * torch.randn(low.shape, generator=generator)
    if integer(2, generator):
        file = io.BytesIO()
        pixels = to_bytes(low.clamp(0, 1)).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, format="jpeg", quality=75 + integer(21, generator))
        with Image.open(file) as read:
            low = to_unit(torch.from_numpy(np.array(read)).permute(2, 0, 1))
    return low.clamp(0, 1)


def generated(
    image: Tensor, truth: Tensor, places: Tensor, seen: Tensor, generator: Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make of a view what a generator might: displaced, blurred, uneven in brightness, with detail that is not there.

    Args:
        image: [3, H, W] the view, or what was made of it already.
        truth: [3, H, W].
        places, seen: [K, 2, H, W] and [K, H, W] of the truth's pixels in photographs.

    Returns:
        The same; where the view as a whole is displaced, truth and places are displaced with it.
    """
    size = (image.shape[-2], image.shape[-1])
    if integer(2, generator):
        by = _MOVED * max(size) * torch.rand((), generator=generator) * smooth_field(size, 5, generator)
        count = len(places)
        maps = torch.cat([image, truth, places.flatten(0, 1), seen])
        image, truth, moved, seen = displaced(maps[None], by[None])[0].split([3, 3, 2 * count, count])
        places, seen = moved.unflatten(0, (count, 2)), (seen > 0.99).float()
    if integer(2, generator):  # a displacement that nothing tells
        image = displaced(image[None], torch.rand((), generator=generator) * smooth_field(size, 8, generator)[None])[0]
    kind = integer(5, generator)
    if kind in (0, 1):
        low, high = _BLUR
        image = _blurred(image, low + (high - low) * float(torch.rand((), generator=generator)))
    elif kind in (2, 3):
        factor = 1.5 + 3 * float(torch.rand((), generator=generator))
        small = [max(2, round(side / factor)) for side in size]
        reduced = F.interpolate(image[None], small, mode="area")
        image = F.interpolate(reduced, size, mode="bicubic" if kind == 2 else "bilinear")[0]
    if integer(3, generator) == 0:
        shift = [integer(side, generator) for side in size]
        detail = truth - _blurred(truth, 2.0)
        image = image + torch.rand((), generator=generator) * detail.roll(shift, (-2, -1))
    if integer(2, generator):
        image = image * (1 + _UNEVEN * smooth_field(size, 3, generator)[:1]) + 0.05 * (
            torch.rand(3, 1, 1, generator=generator) - 0.5
        )
    return degraded(image.clamp(0, 1), generator), truth, places, seen


def _blurred(image: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, sigma, sigma), mode="nearest"))


def smooth_field(size: tuple[int, int], cells: int, generator: Generator) -> Tensor:
    """Draw a field [2, H, W] of about unit variance that changes over a picture's side divided by ``cells``."""
    noise = torch.randn(1, 2, cells + 1, cells + 1, generator=generator)
    return F.interpolate(noise, size, mode="bicubic", align_corners=True)[0]
