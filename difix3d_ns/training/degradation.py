"""Photographs made a little worse, as cameras and files do."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from difix3d_ns.training.crops import integer, to_bytes, to_unit


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
