"""Nerfstudio's dataparser with initial points read without open3d."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras import camera_utils
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from nerfstudio.utils.io import load_from_json
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
            "fix the file, or remove `ply_file_path` from transforms.json to start from random points"
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

    def _get_fname(self, filepath: Path, data_dir: Path, downsample_folder_prefix: str = "images_") -> Path:
        if self.downscale_factor is None and self.config.downscale_factor is None:
            # nerfstudio opens the first picture for its size: let that be one for training
            sample = self._training_picture()
            if sample is not None and (data_dir / sample).exists():
                super()._get_fname(sample, data_dir, downsample_folder_prefix)
        return super()._get_fname(filepath, data_dir, downsample_folder_prefix)

    def _read_transforms(self) -> dict[str, Any]:
        data = self.config.data
        return load_from_json(data if data.suffix == ".json" else data / "transforms.json")

    def _training_picture(self) -> Path | None:
        meta = self._read_transforms()
        names = meta.get("train_filenames") or sorted(frame["file_path"] for frame in meta["frames"])
        if "train_filenames" not in meta and self.config.eval_mode == "interval":
            names = names[1:]  # the first is held out
        if "train_filenames" not in meta and self.config.eval_mode == "filename":
            names = [name for name in names if "train" in Path(name).name]
        return Path(names[0]) if names else None

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


class TrainFramedNerfstudio(PlyfileNerfstudio):
    """The same in a frame (up, centre, scale) found from the training poses alone.

    nerfstudio finds it from all poses, those of evaluation included.
    """

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        given = self.config
        method = self._orientation_method()
        self.config = dataclasses.replace(
            given, orientation_method="none", center_method="none", auto_scale_poses=False, scale_factor=1.0
        )
        try:
            outputs = super()._generate_dataparser_outputs(split)
            training = outputs if split == "train" else super()._generate_dataparser_outputs("train")
        finally:
            self.config = given
        theirs = _to_4x4(training.cameras.camera_to_worlds)
        poses, transform = camera_utils.auto_orient_and_center_poses(theirs, method, given.center_method)
        scale = given.scale_factor
        if given.auto_scale_poses:
            scale /= float(poses[:, :3, 3].abs().max())
        moved = transform @ _to_4x4(outputs.cameras.camera_to_worlds)
        moved[:, :3, 3] *= scale
        outputs.cameras.camera_to_worlds = moved[:, :3]
        applied = outputs.dataparser_scale  # that of the file, which nerfstudio lets points have too
        metadata = outputs.metadata
        if "points3D_xyz" in metadata:
            points = metadata["points3D_xyz"] / applied
            metadata["points3D_xyz"] = (points @ transform[:, :3].T + transform[:, 3]) * scale * applied
        outputs.dataparser_scale = scale * applied
        outputs.dataparser_transform = transform @ _to_4x4(outputs.dataparser_transform[None])[0]
        return outputs

    def _orientation_method(self) -> Literal["pca", "up", "vertical", "none"]:
        """Return the flag's method, unless the scene requests none at all, as captures that know where up is do.

        Raises:
            UserError: the scene requests another one, by which nerfstudio turns all poses before anybody can see them.
        """
        override = self._read_transforms().get("orientation_override")
        if override is None:
            return self.config.orientation_method
        if override != "none":
            raise UserError(
                "--pipeline.datamanager.pose-frame train: remove `orientation_override` from transforms.json "
                f"and end the command with `nerfstudio-data --orientation-method {override}`"
            )
        return "none"


def _to_4x4(poses: Tensor) -> Tensor:  # [N, 3, 4] -> [N, 4, 4]
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=poses.dtype).expand(len(poses), 1, 4)
    return torch.cat([poses[:, :3, :4], last], dim=1)
