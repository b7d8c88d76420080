"""Depth files of a nerfstudio dataset as depth of its undistorted photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.depth_files import DEFAULT_UNIT, read_confidence, read_depth
from difix3d_ns.ns.photo_dataset import PhotoDataset
from difix3d_ns.views.protocols import PhotoDepth

_EDGE = 0.1
"""relative change of depth within three pixels: there a sensor mixes what is before and behind, and pixels of another
size lie beside the edge"""
_BEND = 0.05
"""relative second difference of inverse depth from which it is no plane that goes on"""
_ASPECT = 0.05
"""relative difference of sides' ratios up to which a map shows the same field of view: both are rounded, or cropped
by a few pixels"""
_LEVELS = 255


@dataclass(frozen=True)
class _Stored:
    """Depth of a photograph as it is kept, at its own size if that is the smaller one."""

    metres: Tensor  # [h, w, 1] float16: 0.05 % and 60 km are enough
    confidence: Tensor  # [h, w, 1] uint8


class PhotoDepths:
    """Depth that came with photographs, read when it is first needed and kept in the CPU's memory.

    Three bytes a pixel of the smaller of both sizes: all together take no more than the 8-bit photographs, which are
    kept as well.

    Args:
        dataset: whose ``metadata`` has ``depth_filenames`` (a file or None per photograph, or None),
            ``depth_confidence_filenames`` likewise, and ``depth_unit_scale_factor``.
        scale: scene units per metre.
        mask: of a photograph [H, W, 1] in [0, 1]; None: all of it is used.
    """

    def __init__(self, dataset: PhotoDataset, scale: float, mask: Callable[[int], Tensor | None]) -> None:
        self._dataset = dataset
        self._scale = scale
        self._mask = mask
        self._read: dict[int, _Stored] = {}

    @property
    def unit(self) -> float:
        """Metres per unit of the files."""
        return float(self._dataset.metadata.get("depth_unit_scale_factor") or DEFAULT_UNIT)

    @property
    def count(self) -> int:
        """Number of photographs that have a depth."""
        return sum(file is not None for file in self._files("depth_filenames"))

    def of(self, index: int, device: torch.device | str) -> PhotoDepth | None:
        """Return the depth of a photograph, undistorted; None if it has none.

        Raises:
            UserError: its files cannot be read, or show another field of view.
        """
        if self._file("depth_filenames", index) is None:
            return None
        if index not in self._read:
            self._read[index] = self._load(index)
        stored = self._read[index]
        confidence = stored.confidence.to(device).float() / _LEVELS
        return PhotoDepth(stored.metres.to(device).float() * self._scale, confidence)

    def _files(self, key: str) -> list[Path | None]:
        return list(self._dataset.metadata.get(key) or [])

    def _file(self, key: str, index: int) -> Path | None:
        files = self._files(key)
        return Path(file) if files and (file := files[index]) is not None else None

    def _load(self, index: int) -> _Stored:
        path = self._file("depth_filenames", index)
        assert path is not None
        depth = torch.from_numpy(read_depth(path, self.unit))[..., None]
        self._check_aspect(path, depth, index)
        confidence = (depth > 0).float() * ~_edges(depth)
        if (trusted := self._file("depth_confidence_filenames", index)) is not None:
            values = torch.from_numpy(read_confidence(trusted))[..., None]
            self._check_aspect(trusted, values, index)
            confidence *= _nearest(values, depth.shape[0], depth.shape[1])
        depth, confidence = (self._undistorted(values, index) for values in (depth, confidence))
        if (mask := self._mask(index)) is not None:
            confidence *= _nearest(mask.cpu(), depth.shape[0], depth.shape[1])
        confidence[depth > torch.finfo(torch.float16).max] = 0
        return _Stored(
            depth.clamp(max=torch.finfo(torch.float16).max).half(), (confidence * _LEVELS).round().to(torch.uint8)
        )

    def _undistorted(self, values: Tensor, index: int) -> Tensor:
        """Take values [h, w, 1] of the picture to the pinhole's, by nearest neighbours: depth is not mixed."""
        lens, (width, height) = self._dataset.undistortion(index), self._dataset.stored_size(index)
        if lens is not None:
            full = _nearest(values, height, width)
            return torch.from_numpy(np.ascontiguousarray(lens.nearest(full.numpy())))
        rows, columns = values.shape[:2]
        factor = min(1.0, max(height, width) / max(rows, columns))
        return _nearest(values, max(1, round(rows * factor)), max(1, round(columns * factor)))

    def _check_aspect(self, path: Path, values: Tensor, index: int) -> None:
        width, height = self._dataset.stored_size(index)
        rows, columns = values.shape[:2]
        if abs((columns * height) / (rows * width) - 1) > _ASPECT:
            raise UserError(
                f"{path} has {columns} x {rows} pixels, but its photo {width} x {height}: depth must show what the "
                "photo shows, upright or lying as it does; crop or turn it, or remove its entry from transforms.json"
            )


def _nearest(values: Tensor, height: int, width: int) -> Tensor:
    return resized(values, height, width, "nearest-exact")


def _edges(depth: Tensor) -> Tensor:
    """Pixels [h, w, 1] bool where depth jumps; unknown ones around do not count, and neither does a plane's slope."""
    maps = depth.permute(2, 0, 1)[None]
    known = maps > 0
    farthest = F.max_pool2d(maps, 3, 1, 1)
    nearest = -F.max_pool2d((-maps).where(known, -torch.inf), 3, 1, 1)
    jumps = farthest > (1 + _EDGE) * nearest
    inverse = (1 / maps).where(known, torch.nan)  # linear along a plane; a comparison with NaN is false
    bent = torch.zeros_like(maps)
    for axis in (2, 3):
        if (inner := maps.shape[axis] - 2) < 1:
            continue
        before, here, after = (inverse.narrow(axis, start, inner) for start in range(3))
        bent.narrow(axis, 1, inner).add_(((before + after - 2 * here).abs() > _BEND * here).float())
    return (jumps & (F.max_pool2d(bent, 3, 1, 1) > 0))[0].permute(1, 2, 0)
