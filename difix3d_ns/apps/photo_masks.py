"""Masks of posed photos and frames: found by name, one for each frame, or one for all; brought to the scene."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import replacing
from difix3d_ns.io.file_names import natural
from difix3d_ns.io.images import open_picture, picture_errors, pictures_below, read_mask
from difix3d_ns.io.video_frames import is_video, read_frames, video_length

FOLDER = "colmap/masks"
"""in the scene, apart from a folder of masks that somebody else put there"""
_ON_ITS_SIDE = range(5, 9)  # of its values
_ASPECT = 0.01  # relative difference of sides' ratios up to which a mask has the photo's field of view


def check_masks(masks: Path, video: Path | None) -> None:
    """Check masks before any work: they can be read and, for a video, have its shape, and are one for each frame.

    Args:
        masks: picture, or folder or video of masks.
        video: that is posed; None for photos.

    Raises:
        UserError: they cannot be used; the message says what can.
    """
    if not masks.exists():
        raise UserError(f"--masks {masks} does not exist: give one picture for all photos, or a folder of masks")
    if video is None:
        if is_video(masks):
            raise UserError(
                f"--masks {masks} is a video: give one picture, black where no photo is to be used; or a folder with a "
                "mask named as its photo for each"
            )
        if masks.is_dir():
            return
    if not is_video(masks) and masks.is_file() and not read_mask(masks).any():
        raise UserError(f"--masks: {masks} is black all over, so that nothing would be used: make white what is")
    if video is not None:
        _check_frames(masks, video)


def _check_frames(masks: Path, video: Path) -> None:
    """Raise a UserError if masks do not fit the frames of a video."""
    frame, used = next(read_frames(video), None), next(masks_of_frames(masks), None)
    if used is None:
        raise UserError(f"--masks {masks} has no pictures: give one for each frame of {video}, or one for all")
    if frame is None:
        return  # said where it is read
    (height, width), (rows, columns) = frame[1].shape[:2], used.shape
    if not _same_shape((columns, rows), (width, height)):
        raise UserError(
            f"--masks: {masks} has {columns} x {rows} pixels, the frames of {video} {width} x {height}: draw it on a "
            "frame"
        )
    if masks.is_file() and not is_video(masks):
        return
    length = len(mask_files(masks)) if masks.is_dir() else video_length(masks)
    if length == video_length(video):
        return
    # heads may be wrong
    length = length if masks.is_dir() else sum(1 for _ in read_frames(masks))
    frames = sum(1 for _ in read_frames(video))
    if length != frames:
        raise UserError(
            f"--masks: {masks} has {length} masks, {video} {frames} frames: give one for each frame, in their order, "
            "or one picture for all"
        )


def mask_files(masks: Path) -> list[Path]:
    """Return the pictures of a folder of masks in the order of the numbers in their names; of a file, itself."""
    return sorted(pictures_below(masks), key=lambda file: natural(str(file))) if masks.is_dir() else [masks]


def masks_of_frames(masks: Path) -> Iterator[np.ndarray]:
    """Yield what is used of each frame of a video, [H, W] bool, in order: without end if all frames have one mask.

    Args:
        masks: a picture for all frames, or a folder or a video with one for each. Of a video, whose compression leaves
            no black as it was, the brighter half is used.
    """
    if is_video(masks):
        yield from (frame.max(-1) > 127 for _, frame in read_frames(masks))
    elif masks.is_dir():
        yield from (read_mask(file)[..., 0] for file in mask_files(masks))
    else:
        yield from itertools.repeat(read_mask(masks)[..., 0])


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
