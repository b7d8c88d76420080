"""nerfstudio's exports, with the way back to the capture's own coordinates, which its files lack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError
from difix3d_ns.ns.splat_frame import SplatFrame

_COMMANDS = ("nerfstudio.scripts.exporter", "__main__")
_UTILS = "nerfstudio.exporter.exporter_utils"


def write_frame_beside(frame: SplatFrame) -> None:
    """Let ns-export gaussian-splat write a frame beside the splat, and ns-export cameras original poses.

    Called with each pipeline that is made: ns-export has loaded its modules by then, and other commands do not need
    what those import.
    """
    for name in _COMMANDS:
        exporter = getattr(sys.modules.get(name), "ExportGaussianSplat", None)
        if exporter is not None:
            write_ply = getattr(exporter.write_ply, "original", exporter.write_ply)
            exporter.write_ply = staticmethod(_with_frame(write_ply, frame))
    utils: Any = sys.modules.get(_UTILS)
    if utils is not None:
        collect = utils.collect_camera_poses_for_dataset
        utils.collect_camera_poses_for_dataset = _in_both_frames(getattr(collect, "original", collect))


def _with_frame(write_ply: Callable[..., None], frame: SplatFrame) -> Callable[..., None]:
    def write_both(filename: str, count: int, *args: Any, **kwargs: Any) -> None:
        if count == 0:
            raise UserError(
                f"{filename} was not written: no Gaussian is left. The box of --obb-center, --obb-rotation and "
                "--obb-scale holds none; it is in the coordinates of training, as the viewer's crop box"
            )
        write_ply(filename, count, *args, **kwargs)
        path = Path(filename).with_name(f"{Path(filename).stem}_frame.json")
        frame.write(path)
        x, y, z = frame.offset
        CONSOLE.print(
            f"{filename} is in the coordinates of training; the way back to those of the capture (offset {x:.10g} "
            f"{y:.10g} {z:.10g}, scale, rotation) is in {path}",
            soft_wrap=True,
        )

    write_both.original = write_ply  # type: ignore[attr-defined]
    return write_both


def _in_both_frames(collect: Callable[..., list[dict[str, Any]]]) -> Callable[..., list[dict[str, Any]]]:
    def collect_both(dataset: Any, camera_optimizer: Any = None) -> list[dict[str, Any]]:
        if dataset is not None and dataset.cameras.metadata is None:
            dataset.cameras.metadata = {}  # nerfstudio asserts that there is a place for the index of a camera
        frames = collect(dataset, camera_optimizer)
        if frames:
            frame = SplatFrame.of(dataset._dataparser_outputs)
            for entry in frames:
                pose = np.asarray(entry["transform"], np.float64)[:3]
                entry["original_transform"] = frame.original_pose(pose).tolist()
        return frames

    collect_both.original = collect  # type: ignore[attr-defined]
    return collect_both
