"""Masks of photos that are posed: found by name, and brought to the scene as COLMAP and nerfstudio read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import replacing
from difix3d_ns.io.images import open_picture, pictures_below, read_mask

FOLDER = "colmap/masks"
"""in the scene, apart from a folder of masks that somebody else put there"""
_ON_ITS_SIDE = range(5, 9)  # of its values
_ASPECT = 0.01  # relative difference of sides' ratios up to which a mask has the photo's field of view


def find_masks(masks: Path, photos: Path, files: Sequence[Path]) -> dict[Path, Path]:
    """Find the masks of photos: MASKS/a/b.png of PHOTOS/a/b.jpg, or MASKS/a/b.jpg.png as COLMAP has it.

    Args:
        masks: folder.
        photos: folder.
        files: the photos in it.

    Returns:
        Photo -> mask, of those that have one.

    Raises:
        UserError: a mask is of no photo or of several, or there is none; the message names it.
    """
    if not masks.is_dir():
        raise UserError(f"--masks {masks} is no folder: give one with a mask named as its photo for each")
    by_name: dict[str, list[Path]] = {}
    for file in files:
        place = file.relative_to(photos)
        for name in {place.as_posix(), place.with_suffix("").as_posix()}:
            by_name.setdefault(name, []).append(file)
    found: dict[Path, Path] = {}
    for mask in pictures_below(masks):
        place = mask.relative_to(masks)
        owners = by_name.get(place.with_suffix("").as_posix(), [])
        if len(owners) != 1:
            what = "several photos are" if owners else "no photo is"
            raise UserError(f"--masks: {mask}: {what} named so; name it as its photo: {place.stem}.png for one .jpg")
        if owners[0] in found:
            raise UserError(f"--masks: {mask} and {found[owners[0]]} are of one photo: remove one of them")
        found[owners[0]] = mask
    if not found:
        raise UserError(f"--masks {masks} has no pictures: give a folder with a mask named as its photo for each")
    return found


def bring_mask(mask: Path | None, photo: Path, target: Path) -> None:
    """Write a mask as 8 bits of grey, 0 where the photo is not used, at the size of the upright photo.

    Args:
        mask: of any mode and size; drawn on the photo upright, or as it is stored. None for one that uses all, which
            COLMAP needs where other photos have one.
        photo: as it was taken.
        target: a .png file.

    Raises:
        UserError: it does not fit the photo, or cannot be read.
    """
    with open_picture(photo) as picture:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        upright = ImageOps.exif_transpose(picture)
        stored, size = picture.size, upright.size
    if mask is None:
        with replacing(target) as part:
            Image.new("L", size, 255).save(part)
        return
    used = Image.fromarray(read_mask(mask)[..., 0].astype(np.uint8) * 255)
    if not _same_shape(used.size, size):
        if not (orientation in _ON_ITS_SIDE and _same_shape(used.size, stored)):
            raise UserError(
                f"--masks: {mask} has {used.width} x {used.height} pixels, its photo {size[0]} x {size[1]}: draw it on "
                "the photo, or leave it out"
            )
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        used.info["exif"] = exif.tobytes()
        used = ImageOps.exif_transpose(used)
    with replacing(target) as part:
        used.resize(size, Image.Resampling.NEAREST).save(part)


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) <= _ASPECT
