"""Picture files in and out: 8 and 16 bits, grey, alpha, upright, colour profile kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import replacing

Reduction = Literal["bilinear", "bicubic"]
"""filter of a reduction, antialiased"""
_NO_PICTURES = {"MPEG", "BUFR", "GRIB", "HDF5", "WMF", "PDF", "PALM"}
_WITH_ALPHA = {".png", ".apng", ".webp", ".tif", ".tiff", ".avif", ".avifs", ".tga", ".jp2", ".j2k", ".qoi", ".dds"}
_WITH_16_BITS = {".png", ".tif", ".tiff"}
_FLOAT_RANGE = 2.0
"""maximum up to which a float picture is in [0, 1], brighter than white as it may be; else it is in [0, 255]"""
_OTHER_SPACES = {"CMYK", "YCbCr", "LAB", "HSV"}
"""modes that become RGB when they are read, which their colour profile is not of"""
_HEIF = {".heic", ".heif", ".hif"}
Image.init()
READABLE = frozenset(s for s, f in Image.registered_extensions().items() if f in Image.OPEN and f not in _NO_PICTURES)
WRITABLE = frozenset(s for s, f in Image.registered_extensions().items() if f in Image.SAVE and f not in _NO_PICTURES)


def pictures_below(folder: Path) -> list[Path]:
    """Return the pictures in a folder and those below, by their names' endings, sorted; hidden ones are left out."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in READABLE and path.is_file())
    return sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(folder).parts))


@dataclass(frozen=True)
class Picture:
    """Colours of a file and what else it should keep when it is written again."""

    image: Tensor  # [H, W, 3] in [0, 1]
    alpha: Tensor | None = None  # [H, W, 1] in [0, 1]
    grey: bool = False
    deep: bool = False  # 16 bits per channel
    keep: Mapping[str, Any] = field(default_factory=dict)  # colour profile and EXIF, as Pillow's save takes them

    def repaired(self, image: Tensor) -> Picture:
        """The same picture with other colours."""
        return replace(self, image=image.detach().cpu())


@contextmanager
def picture_errors(path: Path | str) -> Iterator[None]:
    """Raise what Pillow raises at a file as a UserError that names it; only for what reads a picture."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is larger than any picture should be: {error}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}; replace it") from error


@contextmanager
def open_picture(path: Path | str, decode: bool = True) -> Iterator[ImageFile.ImageFile]:
    """Open a picture of any format that Pillow reads, and HEIC if pillow-heif is installed.

    Args:
        path: its file.
        decode: read its pixels as well; else only what its header says is known, and what is read in the block can
            fail (see ``picture_errors``).

    Raises:
        UserError: no such file, no picture, or half a picture.
    """
    path = Path(path)
    heif = path.suffix.lower() in _HEIF
    if heif:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise UserError(
                f"{path} is a HEIC picture: `pip install pillow-heif` to read it, or convert it to JPEG"
            ) from error
        register_heif_opener()
    with picture_errors(path):
        opened = Image.open(path)
    with opened as file:
        if decode:
            with picture_errors(path):
                file.load()
        yield file


def read_stored(path: Path | str, size: tuple[int, int] | None = None, reduction: Reduction = "bilinear") -> np.ndarray:
    """Read the pixels of a photograph as they are stored: cameras are calibrated on these, whatever EXIF says.

    Args:
        path: palette, grey, CMYK, 16 bits, with alpha or without: whatever Pillow reads.
        size: (width, height) to resize it to; None: as it is.
        reduction: with which.

    Returns:
        [H, W, 3 or 4] uint8, colours or colours with alpha.

    Raises:
        UserError: see ``open_picture``; or a picture of NaN.
    """
    with open_picture(path) as file, picture_errors(path):
        if file.mode in ("RGB", "RGBA") and "transparency" not in file.info:
            picture: Image.Image = file
        else:
            picture = Image.fromarray(_as_colours(_normalised(_numbers(file), path)))
        if size is not None and size != picture.size:
            picture = picture.resize(size, resample=Image.Resampling[reduction.upper()])
        return np.array(picture, dtype=np.uint8)


def read_mask(path: Path | str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read which pixels of a photograph are used: those that are not 0 in its mask.

    Of a mask with alpha that varies, alpha counts; of any other with colours, whether one of them is not black. JPEG
    stores 0 as small numbers: there the brighter half counts.

    Args:
        path: of any mode.
        size: (width, height) to resize it to, without new values; None: as it is.

    Returns:
        [H, W, 1] bool.

    Raises:
        UserError: see ``open_picture``.
    """
    with open_picture(path) as file, picture_errors(path):
        lossy = file.format in ("JPEG", "MPO", "WEBP")
        values = _numbers(file)
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    plane = alpha if alpha is not None and np.ptp(alpha) > 0 else values[..., : 1 if values.shape[2] < 3 else 3].max(-1)
    used = plane > (127 if lossy and plane.max() > 127 else 0)
    mask = Image.fromarray(used)
    if size is not None and size != mask.size:
        mask = mask.resize(size, resample=Image.Resampling.NEAREST)
    return np.array(mask, dtype=bool)[..., None]


def read_picture(path: Path | str) -> Picture:
    """Read any format that Pillow reads, turned upright; of several frames the first.

    Raises:
        UserError: no such file, no picture, half a picture, or a picture of NaN.
    """
    path = Path(path)
    with open_picture(path, decode=False) as file, picture_errors(path):
        deep = file.mode in ("RGB", "RGBA") and ";16" in str(file.tile)  # Pillow would drop the lower 8 bits
        exif = file.getexif()
        if deep:
            pixels = _upright(_read_16_bits(path), exif.get(ExifTags.Base.Orientation, 1))
        else:
            pixels = _numbers(ImageOps.exif_transpose(file))
        exif.pop(ExifTags.Base.Orientation, None)
        if file.format == "TIFF":  # there EXIF is mixed with the tags that say how pixels are stored
            exif.clear()
        profile = None if file.mode in _OTHER_SPACES else file.info.get("icc_profile")
        keep = {"icc_profile": profile, "exif": exif.tobytes() if len(exif) else None}
    deep = pixels.dtype != np.uint8
    values = torch.from_numpy(_normalised(pixels, path))
    colours = 1 if values.shape[2] <= 2 else 3
    alpha = values[..., colours:] if values.shape[2] > colours else None
    image = values[..., :colours].expand(-1, -1, 3).contiguous()
    return Picture(image, alpha, colours == 1, deep, {key: value for key, value in keep.items() if value})


def write_picture(path: Path | str, picture: Picture | Tensor) -> None:
    """Write whole or not at all; the format is that of the name.

    16 bits are kept in PNG and TIFF (without profile and EXIF), alpha where the format has it; elsewhere the picture is
    laid over black.

    Args:
        path: its folder is made if need be.
        picture: or [H, W, 3] in [0, 1].

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if isinstance(picture, Tensor):
        picture = Picture(picture.detach().cpu())
    values, alpha = picture.image.float().clamp(0, 1), picture.alpha
    if picture.grey:  # ITU-R BT.601, as Pillow does
        values = (values * torch.tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    if alpha is not None and suffix in _WITH_ALPHA:
        values = torch.cat([values, alpha.to(values)], -1)
    elif alpha is not None:
        values = values * alpha.to(values)
    deep = picture.deep and suffix in _WITH_16_BITS
    pixels = (values.numpy() * (65535 if deep else 255)).round().astype(np.uint16 if deep else np.uint8)
    try:
        with replacing(path) as part:
            if deep:
                _write_16_bits(part, pixels)
            else:
                options: dict[str, Any] = {"quality": 95, **picture.keep}
                if suffix in (".jpg", ".jpeg"):
                    options["subsampling"] = 0
                squeezed = pixels[..., 0] if pixels.shape[2] == 1 else pixels
                Image.fromarray(squeezed).save(part, **options)
    except (ValueError, KeyError) as error:
        raise OSError(f"{suffix} cannot hold this picture: {error}") from error


def _numbers(picture: Image.Image) -> np.ndarray:
    """[H, W, 1 to 4] uint8, uint16 or float32."""
    if picture.mode.startswith("I"):
        values = np.array(picture).clip(0, 65535)
        return values.astype(np.uint8 if values.max() <= 255 else np.uint16)[..., None]  # it may hold 8 bits
    if picture.mode == "F":
        return np.array(picture)[..., None]
    alpha = "A" in picture.getbands() or "transparency" in picture.info
    grey = picture.mode in ("1", "L", "LA", "La")
    pixels = np.array(picture.convert(("LA" if alpha else "L") if grey else ("RGBA" if alpha else "RGB")))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _normalised(pixels: np.ndarray, path: Path | str) -> np.ndarray:
    """[H, W, C] float32 in [0, 1] of what ``_numbers`` returns."""
    if pixels.dtype.kind != "f":
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if not np.isfinite(pixels).all():
        raise UserError(f"{path} has pixels that are no numbers (NaN or infinity); repair it first")
    return (pixels / (255 if pixels.max() > _FLOAT_RANGE else 1)).clip(0, 1).astype(np.float32)


def _as_colours(values: np.ndarray) -> np.ndarray:
    """[H, W, 3 or 4] uint8 of [H, W, 1 to 4] in [0, 1]."""
    order = {1: [0, 0, 0], 2: [0, 0, 0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[values.shape[2]]
    return np.ascontiguousarray((values * 255).round().astype(np.uint8)[..., order])


def _read_16_bits(path: Path) -> np.ndarray:
    import cv2

    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        raise OSError("its 16-bit pixels cannot be decoded")
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _write_16_bits(path: Path, pixels: np.ndarray) -> None:
    import cv2

    if pixels.shape[2] == 2:  # OpenCV knows no grey with alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    if not cv2.imwrite(str(path), np.ascontiguousarray(pixels[..., order])):
        raise OSError("its 16-bit pixels cannot be encoded")


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
