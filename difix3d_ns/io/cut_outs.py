"""Silhouettes of photographs: by a mask, by a background of one colour, or by a box around them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

CutOut = Literal["no", "masks", "plain"]
_TOLERANCE = 26  # of 255, in each channel, between a background's pixels and its colour
_MIN_SHARE = 0.6  # of the border's pixels that have it
_ROUNDS = 5  # of GrabCut
_MAX_BOX = 0.98  # of the picture


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


def within_box(pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Find what stands within a box before a background that is like the rest of the picture (OpenCV's GrabCut).

    Args:
        pixels: [H, W, 3] uint8.
        box: left, top, right, bottom in pixels; the object lies within.

    Returns:
        [H, W, 1] bool; all false where nothing is found.

    Raises:
        ValueError: the box is empty or not in the picture, or leaves nothing of the picture around it.
    """
    import cv2

    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"the box does not lie in the picture of {width} x {height} pixels")
    if (right - left) * (bottom - top) > _MAX_BOX * width * height:
        raise ValueError("the box leaves nothing of the background around it")
    labels = np.zeros((height, width), np.uint8)
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    cv2.grabCut(bgr, labels, (left, top, right - left, bottom - top), *models, _ROUNDS, cv2.GC_INIT_WITH_RECT)
    found: np.ndarray = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    found = ndimage.binary_opening(found, iterations=1)
    return ndimage.binary_fill_holes(found)[..., None] if found.any() else found[..., None]
