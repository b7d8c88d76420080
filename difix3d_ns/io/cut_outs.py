"""Silhouettes of photographs: by a mask, or by a background of one colour."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

CutOut = Literal["no", "masks", "plain"]
_TOLERANCE = 26  # of 255, in each channel, between a background's pixels and its colour
_MIN_SHARE = 0.6  # of the border's pixels that have it


def with_silhouette(pixels: np.ndarray, silhouette: np.ndarray) -> np.ndarray:
    """Add a silhouette to a picture as its alpha.

    Args:
        pixels: [H, W, 3 or 4] uint8; what alpha it has stays as well.
        silhouette: [H, W, 1] bool.

    Returns:
        [H, W, 4] uint8.
    """
    alpha = np.where(silhouette, pixels[..., 3:] if pixels.shape[-1] == 4 else 255, 0).astype(np.uint8)
    return np.concatenate([pixels[..., :3], alpha], axis=-1)


def before_plain_background(pixels: np.ndarray) -> np.ndarray | None:
    """Find what stands before a background of one colour.

    Background is all that has about the border's median colour and is connected with the border.

    Args:
        pixels: [H, W, 3] uint8.

    Returns:
        [H, W, 1] bool; None where the border has no such colour.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(int)
    colour = np.median(border, axis=0)
    alike = (np.abs(pixels.astype(int) - colour) <= _TOLERANCE).all(-1)
    edge = np.concatenate([alike[0], alike[-1], alike[:, 0], alike[:, -1]])
    if edge.mean() < _MIN_SHARE:
        return None
    labels, _ = ndimage.label(alike)
    outer = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    found: np.ndarray = ~np.isin(labels, outer[outer > 0])
    return found[..., None]
