"""Photographs of a scene as training, evaluation and rendering see them: any file format, any lens, as a pinhole."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.cut_outs import CutOut, before_plain_background, with_silhouette
from difix3d_ns.io.images import Reduction, open_picture, read_mask, read_stored
from difix3d_ns.ns.dataparsers.picture_files import find_full_size
from difix3d_ns.ns.undistortion import Undistortion, undistortion_of


class PhotoDataset(InputDataset):
    """nerfstudio's dataset, undistorted: its cameras are those of its pictures, before any picture is opened.

    Args:
        dataparser_outputs: of any dataparser. Masks may be None for photographs without one.
        scale_factor: on the size of pictures.

    Raises:
        UserError: a lens that no pinhole can stand for; the message names the photograph.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        self._scale_crop_radius(scale_factor)
        self.lenses = self.cameras
        """cameras [N] of the pictures as they are stored, at the size of training"""
        self._undistortions = [self._undistortion(index) for index in range(len(self))]
        self.cameras = self._pinholes()
        self._noted_mask = False
        self.reduction: Reduction = "bilinear"
        """with which larger files are brought to the size of training"""
        self.cut_out: CutOut = "no"
        """what becomes the silhouette of a photograph: its alpha alone, its mask, or all but a plain background"""

    def _scale_crop_radius(self, factor: float) -> None:
        metadata = self.cameras.metadata or {}
        if (radius := metadata.get("fisheye_crop_radius")) is not None:
            self.cameras.metadata = metadata | {"fisheye_crop_radius": radius * factor}

    def _undistortion(self, index: int) -> Undistortion | None:
        try:
            return undistortion_of(self.lenses[index].reshape(()))
        except ValueError as error:
            raise UserError(
                f"{self.image_filenames[index]}: {error}; "
                "correct its lens in transforms.json or the COLMAP model, or undistort the photos"
            ) from error

    def _pinholes(self) -> Cameras:
        cameras, found = self.lenses, self._undistortions
        columns = {name: getattr(cameras, name).clone() for name in ("fx", "fy", "cx", "cy", "width", "height")}
        for index, undistortion in enumerate(found):
            if undistortion is None:
                continue
            matrix = undistortion.intrinsics
            values = (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], undistortion.width, undistortion.height)
            for name, value in zip(columns, values, strict=True):
                columns[name][index] = value
        metadata = {key: value for key, value in (cameras.metadata or {}).items() if key != "fisheye_crop_radius"}
        return Cameras(cameras.camera_to_worlds, **columns, camera_type=CameraType.PERSPECTIVE, metadata=metadata)

    def summary(self) -> str:
        """Number of photographs, their size as it is trained on, and what it was reduced from, as one phrase."""
        width, height = int(self.cameras.width.max()), int(self.cameras.height.max())
        same = bool((self.cameras.width == width).all() and (self.cameras.height == height).all())
        phrase = f"{len(self)} photos of {'' if same else 'up to '}{width} x {height} px"
        with suppress(UserError), open_picture(self.image_filenames[0], decode=False) as picture:
            if picture.width > 1.02 * self.stored_size(0)[0]:
                phrase += f", reduced from {picture.width} x {picture.height}"
        if any(undistortion is not None for undistortion in self._undistortions):
            phrase += ", undistorted"
        return phrase

    def undistortion(self, index: int) -> Undistortion | None:
        """Return how a photograph's lens is undone; None if it is a pinhole."""
        return self._undistortions[index]

    def stored_size(self, index: int) -> tuple[int, int]:
        """Width and height of a photograph at the size of training, before it is undistorted."""
        return int(self.lenses.width[index]), int(self.lenses.height[index])

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """Read a photograph [H, W, 3 or 4] uint8 at its camera's size, undistorted.

        Raises:
            UserError: it cannot be read, or its size is not explained by a reduction.
        """
        path = Path(self.image_filenames[image_idx])
        size = self.stored_size(image_idx)
        with open_picture(path, decode=False) as picture:
            found = picture.size
        self._check_size(path, found, size, image_idx)
        pixels = self._cut_out(read_stored(path, size, self.reduction), image_idx)
        undistortion = self._undistortions[image_idx]
        return pixels if undistortion is None else undistortion.picture(pixels)

    def _cut_out(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """Give a stored picture the silhouette that was asked for."""
        if self.cut_out == "masks":
            if (mask := self._mask_file(index)) is None:
                raise UserError(
                    f"{self.image_filenames[index]} has no mask: add one (mask_path in transforms.json), or leave out "
                    "--pipeline.datamanager.cut-out masks"
                )
            return with_silhouette(pixels, read_mask(mask, (pixels.shape[1], pixels.shape[0])))
        if self.cut_out == "plain":
            silhouette = before_plain_background(pixels[..., :3])
            if silhouette is None:
                raise UserError(
                    f"{self.image_filenames[index]}: no plain background, whose colour most of its border has: leave "
                    "out --pipeline.datamanager.cut-out plain, or draw masks and give --pipeline.datamanager.cut-out "
                    "masks"
                )
            return with_silhouette(pixels, silhouette)
        return pixels

    def _mask_file(self, index: int) -> Path | None:
        files = self._dataparser_outputs.mask_filenames
        return files[index] if files else None

    def original_size(self, index: int) -> tuple[int, int] | None:
        """Width and height of a photograph at the size of its file, undistorted; None if it is trained on at that.

        Where training reads a reduced copy (images_4), the file is that which the copy is of.

        Raises:
            UserError: it cannot be read.
        """
        _, found = self._original_file(index)
        stored, camera = self.stored_size(index), self.cameras[index]
        if not _is_reduction(found, stored) or min(f - s for f, s in zip(found, stored, strict=True)) < 1:
            return None
        width, height = (f / s for f, s in zip(found, stored, strict=True))
        return round(int(camera.width) * width), round(int(camera.height) * height)

    def original(self, index: int, size: tuple[int, int]) -> Tensor | None:
        """Read a photograph above the size of training, undistorted, with its mask's and its scene's colour.

        Args:
            index: which.
            size: (width, height) to reduce it to, antialiased and bicubic; it is never enlarged.

        Returns:
            [h, w, 3 or 4] in [0, 1], of ``original_size`` where that is smaller than ``size``; None where no file is
            larger than the photograph at the size of training.

        Raises:
            UserError: it cannot be read.
        """
        own = self.original_size(index)
        if own is None:
            return None
        undistortion = self._undistortions[index]
        pixels = self._cut_out(read_stored(self._original_file(index)[0]), index)
        if undistortion is not None:
            pixels = undistortion.larger_picture(pixels, self.stored_size(index))
        if size[0] < own[0] and size[1] < own[1]:
            pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        image = torch.from_numpy(pixels.astype(np.float32)) / 255
        behind = self._dataparser_outputs.alpha_color
        if behind is not None and image.shape[-1] == 4:
            image = image[..., :3] * image[..., 3:] + behind * (1 - image[..., 3:])
        used = self._mask(index) if self.mask_color else None
        if used is not None:
            used = resized(used.float(), image.shape[0], image.shape[1], "nearest-exact") > 0
            image = torch.where(used, image[..., :3], torch.tensor(self.mask_color))
        return image

    def _original_file(self, index: int) -> tuple[Path, tuple[int, int]]:
        path = find_full_size(Path(self.image_filenames[index]))
        with open_picture(path, decode=False) as picture:
            return path, picture.size

    def _check_size(self, path: Path, found: tuple[int, int], size: tuple[int, int], index: int) -> None:
        if not _is_reduction(found, size):
            stated = self._dataparser_outputs.cameras[index]
            raise UserError(
                f"{path} has {found[0]} x {found[1]} pixels where its camera says {int(stated.width)} x "
                f"{int(stated.height)}; correct w and h of its frame, with the focal length and principal point for it"
            )

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """Read a photograph with its mask [H, W, 1] bool, if it has one or its lens leaves out parts.

        Raises:
            UserError: picture or mask cannot be read.
        """
        read = {"uint8": self.get_image_uint8, "float32": self.get_image_float32}[image_type]
        data: dict[str, Any] = {"image_idx": image_idx, "image": read(image_idx)}
        mask = self._mask(image_idx)
        if mask is not None:
            data["mask"] = mask
            if self.mask_color:
                white = 255 if image_type == "uint8" else 1
                colour = (torch.tensor(self.mask_color) * white).to(data["image"].dtype)
                data["image"] = torch.where(mask, data["image"][..., :3], colour)
        return data | self.get_metadata(data)

    def _note_mask(self, path: Path, index: int) -> None:
        """Say once that masks are converted, which a wrong file would be as well."""
        if self._noted_mask:
            return
        photograph = self.image_filenames[index]
        with open_picture(path, decode=False) as mask, open_picture(photograph, decode=False) as photo:
            plain = mask.mode in ("1", "L") and mask.size == photo.size
            what = f"{mask.mode}, {mask.width} x {mask.height} px"
        if not plain:
            self._noted_mask = True
            CONSOLE.log(f"Masks are fitted to their photos, e.g. {path} ({what}): what is not black in them is used.")

    def _mask(self, index: int) -> Tensor | None:
        size, used = self.stored_size(index), None
        if self.cut_out != "masks" and (file := self._mask_file(index)) is not None:
            self._note_mask(file, index)
            used = read_mask(file, size)
        undistortion = self._undistortions[index]
        if undistortion is not None:
            used = undistortion.mask(used, size)
        return None if used is None else torch.from_numpy(used)


def _is_reduction(found: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether a picture of one size may have been reduced to another, both sides rounded."""
    factors = [s / f for s, f in zip(size, found, strict=True)]
    slack = [1.5 / f for f in found]
    return abs(factors[0] - factors[1]) <= sum(slack) and max(factors) <= 1 + max(slack)
