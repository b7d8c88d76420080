"""Picture files in and out: 8 and 16 bits, grey, alpha, upright, colour profile kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import replacing

_ORIENTATION = 0x0112  # EXIF
_NO_PICTURES = {"MPEG", "BUFR", "GRIB", "HDF5", "WMF", "PDF", "PALM"}
_WITH_ALPHA = {".png", ".apng", ".webp", ".tif", ".tiff", ".avif", ".avifs", ".tga", ".jp2", ".j2k", ".qoi", ".dds"}
_WITH_16_BITS = {".png", ".tif", ".tiff"}
Image.init()
READABLE = frozenset(s for s, f in Image.registered_extensions().items() if f in Image.OPEN and f not in _NO_PICTURES)
WRITABLE = frozenset(s for s, f in Image.registered_extensions().items() if f in Image.SAVE and f not in _NO_PICTURES)


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


def read_picture(path: Path | str) -> Picture:
    """Read any format that Pillow reads, turned upright; of several frames the first.

    Raises:
        UserError: no such file, no picture, half a picture, or a picture of NaN.
    """
    path = Path(path)
    try:
        with Image.open(path) as file:
            deep = file.mode in ("RGB", "RGBA") and ";16" in str(file.tile)  # Pillow would drop the lower 8 bits
            exif = file.getexif()
            if deep:
                pixels = _upright(_read_16_bits(path), exif.get(_ORIENTATION, 1))
            else:
                pixels = _numbers(ImageOps.exif_transpose(file))
            exif.pop(_ORIENTATION, None)
            if file.format == "TIFF":  # there EXIF is mixed with the tags that say how pixels are stored
                exif.clear()
            keep = {"icc_profile": file.info.get("icc_profile"), "exif": exif.tobytes() if len(exif) else None}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is larger than any picture should be: {error}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no picture that can be read: {error}") from error
    deep = pixels.dtype != np.uint8
    if pixels.dtype.kind != "f":
        pixels = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    values = torch.from_numpy(pixels.astype(np.float32))
    if not values.isfinite().all():
        raise UserError(f"{path} has pixels that are no numbers (NaN or infinity); repair it first")
    values = values.clamp(0, 1)
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
    if picture.mode.startswith("I;16"):
        return np.array(picture).astype(np.uint16)[..., None]
    if picture.mode == "I":
        return np.array(picture).clip(0, 65535).astype(np.uint16)[..., None]
    if picture.mode == "F":
        return np.array(picture)[..., None]
    alpha = "A" in picture.getbands() or "transparency" in picture.info
    grey = picture.mode in ("1", "L", "LA", "La")
    pixels = np.array(picture.convert(("LA" if alpha else "L") if grey else ("RGBA" if alpha else "RGB")))
    return pixels[..., None] if pixels.ndim == 2 else pixels


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
