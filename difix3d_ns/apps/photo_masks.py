"""Masks of posed photos: found by name, or one for all, and brought to the scene as COLMAP and nerfstudio read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import replacing
from difix3d_ns.io.images import open_picture, picture_errors, pictures_below, read_mask
from difix3d_ns.io.video_frames import is_video, read_frames

FOLDER = "colmap/masks"
"""in the scene, apart from a folder of masks that somebody else put there"""
_ON_ITS_SIDE = range(5, 9)  # of its values
_ASPECT = 0.01  # relative difference of sides' ratios up to which a mask has the photo's field of view


def check_masks(masks: Path, video: Path | None, frames: Path) -> None:
    """Check masks before any work: a picture can be read and, for a video, has its shape.

    Args:
        masks: picture, or folder of masks.
        video: that is posed; None for photos.
        frames: folder that the frames of a video are written to.

    Raises:
        UserError: they cannot be used; the message says what can.
    """
    if not masks.exists():
        raise UserError(f"--masks {masks} does not exist: give one picture for all photos, or a folder of masks")
    if masks.is_dir() and video is None:
        return
    if masks.is_dir() or is_video(masks):
        other = (
            "a folder with a mask named as its photo for each"
            if video is None
            else f"pose the video without masks, draw some on {frames}, and pose that folder with --masks to another "
            "--output"
        )
        what = "is a video" if is_video(masks) else "is a folder, but frames have no names before they are chosen"
        raise UserError(f"--masks {masks} {what}: give one picture, black where no photo is to be used; or {other}")
    used = read_mask(masks)
    if not used.any():
        raise UserError(f"--masks: {masks} is black all over, so that nothing would be used: make white what is")
    if video is not None and (frame := next(read_frames(video), None)) is not None:
        height, width = frame[1].shape[:2]
        if not _same_shape((used.shape[1], used.shape[0]), (width, height)):
            raise UserError(
                f"--masks: {masks} has {used.shape[1]} x {used.shape[0]} pixels, the frames of {video} {width} x "
                f"{height}: draw it on a frame"
            )


def find_masks(masks: Path, photos: Path, files: Sequence[Path]) -> dict[Path, Path]:
    """Find the masks of photos: MASKS/a/b.png of PHOTOS/a/b.jpg, or MASKS/a/b.jpg.png as COLMAP has it.

    Args:
        masks: folder, or a picture that is the mask of all photos.
        photos: folder.
        files: the photos in it.

    Returns:
        Photo -> mask, of those that have one.

    Raises:
        UserError: a mask is of no photo or of several, or there is none; the message names it.
    """
    if masks.is_file():
        return dict.fromkeys(files, masks)
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
            raise UserError(
                f"--masks: {mask}: {what} named so; name it as its photo ({place.stem}.png for {place.stem}.jpg), or "
                f"give the file itself to use it for all photos: --masks {mask}"
            )
        if owners[0] in found:
            raise UserError(f"--masks: {mask} and {found[owners[0]]} are of one photo: remove one of them")
        found[owners[0]] = mask
    if not found:
        raise UserError(f"--masks {masks} has no pictures: give a folder with a mask named as its photo for each")
    return found


def bring_mask(mask: Path | None, photo: Path, target: Path, alone: bool = False) -> None:
    """Write a mask as 8 bits of grey, 0 where the photo is not used, at the size of the upright photo.

    Args:
        mask: of any mode and size; drawn on the photo upright, or as it is stored. None for one that uses all, which
            COLMAP needs where other photos have one.
        photo: as it was taken.
        target: a .png file.
        alone: whether it is the mask of all photos.

    Raises:
        UserError: it does not fit the photo, or cannot be read.
    """
    with open_picture(photo, decode=False) as picture, picture_errors(photo):
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
            whose, remedy = (
                (f"photo {photo}", "one mask serves photos of one shape; give a folder with a mask named as its photo")
                if alone
                else ("its photo", "draw it on the photo, or leave it out")
            )
            raise UserError(
                f"--masks: {mask} has {used.width} x {used.height} pixels, {whose} {size[0]} x {size[1]}: {remedy}"
            )
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        used.info["exif"] = exif.tobytes()
        used = ImageOps.exif_transpose(used)
    with replacing(target) as part:
        used.resize(size, Image.Resampling.NEAREST).save(part)


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) <= _ASPECT
