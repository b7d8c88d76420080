"""One object of a picture, cut out, centred and checked, as orbits are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.cut_outs import before_plain_background
from difix3d_ns.io.images import read_picture

FILLED = 0.75
"""share of the square picture that the object's longer side has: of what orbits are made of in training, .73 to .78"""
MIN_PIXELS = 48
"""of the object's longer side"""
_SPECK = 0.02  # of the largest part: what is smaller is left out
_OTHER = 0.15  # of the largest part: what is larger is another object
_OPAQUE = 0.5
_SHAPE_SIDE = 96  # pixels of the square at which shapes are made of silhouettes
_MIN_LENGTH = 0.5  # share of the longer side that has to be left of a silhouette at that size
CUT = "difix3d image-to-3d {} --cut LEFT TOP RIGHT BOTTOM"


@dataclass(frozen=True)
class CutObject:
    """An object in the middle of a square picture."""

    image: Tensor  # [S, S, 4] in [0, 1]
    by_alpha: bool  # else by a background of one colour


def read_object(path: Path, side: int) -> CutObject:
    """Read the one object of a picture, cut out by its alpha, or before a background of one colour.

    Args:
        path: grey, CMYK, 16 bits, of any format that Pillow reads, turned upright.
        side: of the square, at most; smaller if the object has fewer pixels.

    Raises:
        UserError: there is no object, or more than one, or not all of one, or it is too small or too thin; with the
            remedy.
    """
    picture = read_picture(path)
    alpha = picture.alpha
    by_alpha = alpha is not None and bool((alpha < _OPAQUE).any())
    if alpha is None or not by_alpha:
        alpha = _before_background(picture.image, path)
    alpha = _one_object(alpha, path)
    image = centred(torch.cat([picture.image, alpha], -1), side)
    _check_thickness(image[..., 3:], path)
    return CutObject(image, by_alpha)


def centred(picture: Tensor, side: int, filled: float = FILLED) -> Tensor:
    """Cut a square around an object.

    Args:
        picture: [H, W, 4] in [0, 1], of which alpha says where the object is.
        side: of the square, at most.
        filled: share of the square that the object's longer side has.

    Returns:
        [S, S, 4]; where the square is larger than the picture, transparent.
    """
    rows, columns = (picture[..., 3] > _OPAQUE).numpy().nonzero()
    low, high = np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()]) + 1
    window = round(float((high - low).max()) / filled)
    top, left = (int(start) for start in np.round((low + high - window) / 2))
    square = torch.zeros(window, window, 4)
    height, width = picture.shape[:2]
    inside = slice(max(top, 0), min(top + window, height)), slice(max(left, 0), min(left + window, width))
    square[inside[0].start - top : inside[0].stop - top, inside[1].start - left : inside[1].stop - left] = picture[
        inside
    ]
    if window <= side:
        return square
    # colours weighed by alpha, so that no background bleeds in
    small = resampled(torch.cat([square[..., :3] * square[..., 3:], square[..., 3:]], -1), side, side)
    return torch.cat([(small[..., :3] / small[..., 3:].clamp_min(1e-3)).clamp(0, 1), small[..., 3:]], -1)


def _before_background(image: Tensor, path: Path) -> Tensor:
    pixels = (image * 255).round().byte().numpy()
    found = before_plain_background(pixels)
    if found is None:
        raise UserError(
            f"{path} has no alpha, and its background has several colours: cut the object out and save it as PNG with "
            f"alpha, or have it cut out within a box of pixels: {CUT.format(path)}"
        )
    # the outline's pixels have some of the background's colour
    solid = ndimage.binary_erosion(found[..., 0], iterations=1) if found.any() else found[..., 0]
    return torch.from_numpy(solid).float()[..., None]


def _one_object(alpha: Tensor, path: Path) -> Tensor:
    """The alpha [H, W, 1] of the one object, without specks."""
    labels, count = ndimage.label(alpha[..., 0].numpy() > _OPAQUE, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if count == 0:
        raise UserError(f"{path} shows no object: all of it is background or transparent; give another picture")
    order = np.argsort(-sizes)
    if count > 1 and sizes[order[1]] > _OTHER * sizes[order[0]]:
        raise UserError(
            f"{path} shows more than one object, and one alone is made: cut the others off the picture, or have one "
            f"cut out within a box of pixels: {CUT.format(path)}"
        )
    solid = np.isin(labels, 1 + np.nonzero(sizes > _SPECK * sizes.max())[0])
    near = ndimage.binary_dilation(solid, iterations=2)  # with the soft outline
    rows, columns = solid.nonzero()
    height, width = solid.shape
    if rows.min() == 0 or columns.min() == 0 or rows.max() == height - 1 or columns.max() == width - 1:
        raise UserError(
            f"{path}: the object touches the border of the picture, so that a part of it may be missing; give a "
            "picture with all of it, and some room around"
        )
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    if longer < MIN_PIXELS:
        raise UserError(
            f"{path}: the object has {longer} pixels along its longer side, and {MIN_PIXELS} are needed; give a larger "
            "picture"
        )
    return alpha * torch.from_numpy(near).float()[..., None]


def _check_thickness(alpha: Tensor, path: Path) -> None:
    """Raise a UserError if little is left of a silhouette [S, S, 1] at the size at which it becomes a shape."""
    side = min(alpha.shape[0], _SHAPE_SIDE)
    solid = resized(alpha, side, side)[..., 0] > _OPAQUE
    length = max(int(solid.any(axis).sum()) for axis in (0, 1))
    if length < _MIN_LENGTH * FILLED * side:
        raise UserError(
            f"{path}: the object is so thin that next to nothing of its silhouette is left at {side} pixels; give a "
            "picture of it from a side from which it is wider, or of a part of it"
        )
