"""Nerfstudio's dataparser with initial points read without open3d."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.errors import UserError


def read_points(path: Path) -> tuple[Tensor, Tensor] | None:
    """Positions and colours of a PLY point cloud.

    Args:
        path: an ASCII or binary PLY with a ``vertex`` element.

    Returns:
        (positions [N, 3] float32, colours [N, 3] uint8; grey where the file has none), or None if there is no
        finite point in it.

    Raises:
        ValueError: the file is no readable PLY; the message names it.
    """
    from plyfile import PlyData, PlyParseError

    try:
        vertices = PlyData.read(str(path))["vertex"]
        positions = np.stack([np.asarray(vertices[axis], dtype=np.float32) for axis in "xyz"], axis=-1)
    except (PlyParseError, KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"cannot read the initial points in {path} ({error}); "
            "mend the file, or remove `ply_file_path` from transforms.json to start from random points"
        ) from error
    names = vertices.data.dtype.names or ()
    if {"red", "green", "blue"} <= set(names):
        channels = np.stack([np.asarray(vertices[name]) for name in ("red", "green", "blue")], axis=-1)
        scale = 255 if channels.dtype.kind == "f" else 1
        colours = (channels * scale).round().clip(0, 255).astype(np.uint8) if channels.dtype != np.uint8 else channels
    else:
        colours = np.full(positions.shape, 128, dtype=np.uint8)
    finite = np.isfinite(positions).all(axis=-1)
    if not finite.any():
        return None
    return torch.from_numpy(positions[finite]), torch.from_numpy(np.ascontiguousarray(colours[finite]))


class PlyfileNerfstudio(Nerfstudio):
    """``nerfstudio-data`` on machines where open3d cannot be imported (it needs libusb)."""

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        if not sys.stdin.isatty():  # nerfstudio asks whether to convert COLMAP's points; nobody could answer
            self.prompted_user, self.create_pc = True, False
        return super()._generate_dataparser_outputs(split)

    def _load_3D_points(
        self, ply_file_path: Path, transform_matrix: Tensor, scale_factor: float
    ) -> dict[str, Any] | None:
        if not Path(ply_file_path).exists():
            CONSOLE.log(f"[yellow]No initial points: {ply_file_path} is missing; starting from random points.")
            return None
        try:
            points = read_points(Path(ply_file_path))
        except ValueError as error:
            raise UserError(str(error)) from error
        if points is None:
            CONSOLE.log(f"[yellow]No initial points: {ply_file_path} is empty; starting from random points.")
            return None
        positions, colours = points
        homogeneous = torch.cat([positions, torch.ones_like(positions[:, :1])], dim=-1)
        return {"points3D_xyz": (homogeneous @ transform_matrix.T) * scale_factor, "points3D_rgb": colours}
