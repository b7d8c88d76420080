"""Pictures inside a page, small enough for it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import flip_evaluator
import numpy as np
import torch
from PIL import Image
from torch import Tensor

_QUALITY = 82
_BYTES_PER_PIXEL = 0.35
"""of a detailed picture of 480 x 320 at that quality, in base64"""


@dataclass(frozen=True)
class Picture:
    """A picture in a page."""

    address: str  # data:image/webp;base64,...
    width: int  # pixels
    height: int  # pixels


def picture(values: Tensor | np.ndarray, long_side: int | None = None, quality: int = _QUALITY) -> Picture:
    """Encode a picture as WebP.

    Args:
        values: [H, W, 3], floats in [0, 1] (others are clamped) or uint8.
        long_side: pixels at most; None keeps the size.
        quality: of WebP, 0 to 100.
    """
    image = Image.fromarray(pixels(values))
    if long_side is not None and max(image.size) > long_side:
        image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=quality, method=4)
    address = "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()
    return Picture(address, image.width, image.height)


def error_map(prediction: Tensor, truth: Tensor) -> np.ndarray:
    """LDR-FLIP (Andersson et al. 2020, at 67 pixels per degree) in its own colours: black is 0, light yellow is 1.

    Args:
        prediction: [H, W, 3] in [0, 1], sRGB.
        truth: [H, W, 3] in [0, 1], sRGB.

    Returns:
        [H, W, 3] in [0, 1].
    """
    first, second = (t.detach().to("cpu", torch.float32).clamp(0, 1).contiguous() for t in (prediction, truth))
    colours: np.ndarray
    colours, _, _ = flip_evaluator.evaluate(second.numpy(), first.numpy(), "LDR", inputsRGB=True, applyMagma=True)
    return colours


def long_side_for(count: int, width: int, height: int, budget: float, minimum: int = 240) -> int:
    """The largest long side at which ``count`` pictures fit.

    Args:
        count: of pictures.
        width: of one, pixels.
        height: of one, pixels.
        budget: bytes for all of them.
        minimum: pixels; smaller ones show nothing.
    """
    scale = (budget / (_BYTES_PER_PIXEL * max(1, count) * width * height)) ** 0.5
    return max(minimum, int(min(1.0, scale) * max(width, height)))


def pixels(values: Tensor | np.ndarray) -> np.ndarray:
    """Bytes [H, W, 3] of a picture, of floats in [0, 1] (others are clamped) or uint8."""
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    return np.round(np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).astype(np.uint8)
