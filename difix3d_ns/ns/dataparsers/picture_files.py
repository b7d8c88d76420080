"""Files of photos as scenes name them, their reduced copies, and the size a camera has at the one that is used."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags

from difix3d_ns.errors import UserError
from difix3d_ns.io.images import open_picture, picture_errors
from difix3d_ns.ns.dataparsers.described_scene import Frame, Lens

MAX_LONG_SIDE = 1600  # pixels, nerfstudio's: larger photos are trained on reduced
COPIES = (2, 4, 8)
"""factors of reduced copies: images_2, images_4, images_8"""
_ENDINGS = (".png", ".jpg", ".jpeg", ".JPG", ".PNG", ".JPEG", ".webp", ".tif", ".tiff", ".heic", ".HEIC")
_DEPTH = 3  # folders above a photo that may have reduced siblings: images/left/camera_1
TURN = (
    'python -c "import sys; from PIL import Image, ImageOps; '
    '[ImageOps.exif_transpose(Image.open(f)).save(f, quality=95) for f in sys.argv[1:]]" FILES'
)
"""command that turns pixels as EXIF says and drops the tag"""
UNTAG = (
    'python -c "import sys; from PIL import Image; '
    "[(p.load(), p.getexif().clear(), p.save(f, quality=95, exif=b'')) "
    'for f in sys.argv[1:] for p in [Image.open(f)]]" FILES'
)
"""command that drops the tag alone"""


class Header(NamedTuple):
    """Size and orientation of a picture by its header."""

    size: tuple[int, int]  # width and height as stored
    orientation: int  # EXIF's: 1 upright, 5 to 8 on its side


def read_header(path: Path) -> Header:
    """Read size and orientation of a picture; pixels are not decoded.

    Raises:
        UserError: it is no picture.
    """
    with open_picture(path, decode=False) as picture, picture_errors(path):
        # PNG would be decoded for a tag that may come last
        tags = picture.getexif() if picture.format != "PNG" or "exif" in picture.info else {}
        return Header(picture.size, int(tags.get(ExifTags.Base.Orientation, 1) or 1))


def find_picture(folder: Path, name: str) -> Path:
    """Find the file that a scene names.

    Args:
        folder: that ``name`` is relative to.
        name: also with backslashes, ``./``, composed or decomposed umlauts, or without ending.

    Returns:
        The file; where only reduced copies of it are there, the original that they are of; else as it is named.
    """
    spellings = [folder / spelled for spelled in _spellings(name)]
    for path in spellings:
        if path.is_file():
            return path
    for path in spellings:
        for ending in _ENDINGS:
            if (complete := path.with_name(path.name + ending)).is_file():
                return complete
    for path in spellings:
        for factor in COPIES:
            if (copy := find_copy(path, factor, folder)) is not None:
                known = path.suffix.lower() in {ending.lower() for ending in _ENDINGS}
                return path if known else path.with_name(path.name + copy.suffix)
    return spellings[0]


def _spellings(name: str) -> Iterator[str]:
    slashed = name.strip().replace("\\", "/")
    yield from dict.fromkeys([slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")), name])


def find_copy(original: Path, factor: int, scene: Path, prefix: str = "images") -> Path | None:
    """Find the copy of a picture that is reduced by a factor; None if there is none.

    Args:
        original: need not exist.
        factor: 2 for images_2.
        scene: folder that no copy lies outside of, if ``original`` is in it.
        prefix: of nerfstudio's folder for copies, where they do not lie beside the original's.
    """
    top = Path(os.path.commonpath([scene.absolute(), original.absolute()]))
    for level in list(original.parents)[:_DEPTH]:
        if level.absolute() == top or not level.name:
            break
        folder = level.with_name(f"{level.name}_{factor}")
        if (found := _in_folder(folder, original.relative_to(level), prefix == "images")) is not None:
            return found
    return _in_folder(top / f"{prefix}_{factor}", Path(original.name), True)


def find_full_size(picture: Path) -> Path:
    """Find the picture that a reduced copy was made of; ``picture`` itself if it is no copy, or its original is gone.

    Args:
        picture: a file, as images_4/a.jpg or left/images_2/a.jpg, whose original is images/a.jpg or left/images/a.jpg.

    Raises:
        UserError: one of them is no picture.
    """
    for level in list(picture.parents)[:_DEPTH]:
        name, _, number = level.name.rpartition("_")
        if not (name and number.isdecimal() and int(number) > 1):
            continue
        found = _in_folder(level.with_name(name), picture.relative_to(level), True)
        if found is None:
            continue
        sizes = zip(read_header(found).size, read_header(picture).size, strict=True)
        # camera_2 beside camera is no copy of it
        if all(abs(whole - int(number) * part) <= int(number) + 0.02 * whole for whole, part in sizes):
            return found
    return picture


def _in_folder(folder: Path, name: Path, any_ending: bool) -> Path | None:
    """Find a file by name; beside photos a mask or depth of another ending is another file."""
    if not folder.is_dir():
        return None
    if (path := folder / name).is_file():
        return path
    if not any_ending:
        return None
    others = [path.with_suffix(ending) for ending in _ENDINGS] if path.suffix else []
    others += [path.with_name(path.name + ending) for ending in _ENDINGS]
    return next((other for other in others if other.is_file()), None)


def choose_copy(original: Path, factor: int, scene: Path, prefix: str = "images") -> Path:
    """Choose the file to read for a picture that is wanted reduced by ``factor``.

    Returns:
        The most reduced one that is not smaller; if there is none, the largest; ``original`` if there is no file.
    """
    if factor == 1 and original.is_file():
        return original
    found = {1: original} if original.is_file() else {}
    for number in {*COPIES, factor} - {1}:
        if (copy := find_copy(original, number, scene, prefix)) is not None:
            found[number] = copy
    if not found:
        return original
    larger = [number for number in found if number <= factor]
    return found[max(larger) if larger else min(found)]


def reduction(long_side: float) -> int:
    """Find the factor, a power of two, by which nerfstudio reduces photos of a size in pixels."""
    return 2 ** max(0, math.ceil(math.log2(long_side / MAX_LONG_SIDE))) if long_side > 0 else 1


class UsedPicture(NamedTuple):
    """File of a photo that is read, and how."""

    path: Path
    lens: Lens  # at the size that it is used at
    turned: bool = False  # whether EXIF says to turn it, which is not done: cameras are found on pixels as stored


def used_picture(frame: Frame, factor: int, scene: Path) -> UsedPicture:
    """Find the file of a photo that is read, and its lens at the size that it is used at.

    Args:
        frame: of the scene.
        factor: by which photos are to be reduced.
        scene: its folder.

    Returns:
        The file (larger than the lens says if it has yet to be reduced), the lens.

    Raises:
        UserError: the file is no picture, or its size is not that of the frame, reduced or not.
    """
    path = choose_copy(frame.image, factor, scene)
    stated = (frame.lens.width, frame.lens.height)
    target = (max(1, stated[0] // factor), max(1, stated[1] // factor))
    if not path.is_file():
        return UsedPicture(path, resized_lens(frame.lens, target))
    found = read_header(path)
    _check_size(path, found, stated)
    fits = all(pixels <= wanted + 1 for pixels, wanted in zip(found.size, target, strict=True))
    return UsedPicture(path, resized_lens(frame.lens, found.size if fits else target), found.orientation != 1)


def unopened_picture(frame: Frame, factor: int, scene: Path, ratio: tuple[float, float]) -> UsedPicture:
    """Find the file of a held-out photo, and its lens, without opening it: evaluation alone does.

    Args:
        frame: of the scene.
        factor: by which photos are to be reduced.
        scene: its folder.
        ratio: width and height of training photos to those stated.
    """
    width, height = (max(1, round(pixels * part)) for pixels, part in zip(_stated(frame.lens), ratio, strict=True))
    return UsedPicture(choose_copy(frame.image, factor, scene), resized_lens(frame.lens, (width, height)))


def _stated(lens: Lens) -> tuple[int, int]:
    return lens.width, lens.height


def resized_lens(lens: Lens, size: tuple[int, int]) -> Lens:
    """Intrinsics of a lens for pictures of another size (width, height), each axis by itself."""
    x, y = size[0] / lens.width, size[1] / lens.height
    return replace(
        lens,
        width=size[0],
        height=size[1],
        fx=lens.fx * x,
        fy=lens.fy * y,
        cx=lens.cx * x,
        cy=lens.cy * y,
        crop_radius=None if lens.crop_radius is None else lens.crop_radius * math.sqrt(x * y),
    )


def _check_size(path: Path, found: Header, stated: tuple[int, int]) -> None:
    pixels = f"{path} has {found.size[0]} x {found.size[1]} pixels"
    turned = found.size[::-1]
    if _explained(found.size, stated):
        if found.orientation != 1 and found.size == turned:
            raise UserError(
                f"{path} is square and its EXIF tag says to turn it (orientation {found.orientation}): its size does "
                "not show whether its pose was found before turning or after. If your pose estimation read the pixels "
                f"as stored, as COLMAP does, drop the tag: {UNTAG}; if it turned them, turn the pixels: {TURN}"
            )
        return
    states = f"{pixels} where its camera says {stated[0]} x {stated[1]}"
    if not _explained(turned, stated):
        raise UserError(f"{states}; correct w and h of its frame, with the focal length and principal point for it")
    if found.orientation in (5, 6, 7, 8):
        raise UserError(
            f"{states}: its EXIF tag (orientation {found.orientation}) says to turn it, which whatever found its pose "
            f"did and training does not; turn the pixels and drop the tag: {TURN}"
        )
    raise UserError(
        f"{states}: width and height are exchanged, as after a rotation by EXIF whose tag is lost; turn the picture "
        "as it was when its pose was found, or find the poses again from the pictures as they are"
    )


def _explained(found: tuple[int, int], stated: tuple[int, int]) -> bool:
    """Return whether one factor, and rounding either side by a pixel, makes one size of the other."""
    smaller, larger = sorted([found, stated])
    low = max((pixels - 1) / whole for pixels, whole in zip(smaller, larger, strict=True))
    high = min((pixels + 1) / whole for pixels, whole in zip(smaller, larger, strict=True))
    return low <= high
