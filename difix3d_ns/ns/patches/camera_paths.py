"""Camera paths of nerfstudio: types that cannot be rendered are refused, and so are paths between no photos."""

from __future__ import annotations

import math
import sys
from typing import Any

from nerfstudio.cameras import camera_paths
from nerfstudio.cameras.cameras import Cameras

from difix3d_ns.errors import UserError

_get_path_from_json = camera_paths.get_path_from_json
_get_interpolated_poses_many = camera_paths.get_interpolated_poses_many
_splats: list[bool] = []  # whether a splat has been loaded to be rendered
_COMMANDS = ("nerfstudio.scripts.render", "__main__")
"""modules that have taken the function by name before this one is imported, as ns-render does"""


def apply() -> None:
    """Let ns-render end with a sentence where it would render something else than was requested, or fail."""
    camera_paths.get_path_from_json = _path_from_json
    camera_paths.get_interpolated_poses_many = _interpolated_poses
    for name in _COMMANDS:
        module: Any = sys.modules.get(name)
        if getattr(module, "get_path_from_json", None) is _get_path_from_json:
            module.get_path_from_json = _path_from_json


def expect_splats() -> None:
    """Refuse types that only rays can render, from now on: what is rendered next is a splat."""
    _splats.append(True)


def _path_from_json(camera_path: dict[str, Any]) -> Cameras:
    from difix3d_ns.ns.panoramas import RENDERED, refusal

    kind = str(camera_path.get("camera_type", "perspective")).lower()
    of_rays = ("omnidirectional", "vr180")  # fields of radiance are rendered so
    if kind not in RENDERED and (
        _splats or kind not in of_rays
    ):  # nerfstudio takes what it does not know for perspective
        raise refusal(kind)
    cameras = _get_path_from_json({**camera_path, "camera_type": kind})
    if kind == "fisheye":
        _widen(cameras, [float(entry["fov"]) for entry in camera_path["camera_path"]])
    return cameras


def _widen(cameras: Cameras, degrees: list[float]) -> None:
    """Correct focal lengths of fisheyes for which nerfstudio's, a pinhole's, would show more than there is."""
    for index, fov in enumerate(degrees):
        if fov >= 180 or math.tan(math.radians(fov) / 2) > math.pi:
            if not 0 < fov <= 360:
                raise UserError(f"a camera path's fov of {fov:g} degrees: give at most 360 in --camera-path-filename")
            cameras.fx[index] = cameras.fy[index] = cameras.height[index] / math.radians(fov)


def _interpolated_poses(poses: Any, *args: Any, **kwargs: Any) -> Any:
    if len(poses) < 2:
        from difix3d_ns.ns.held_out_photos import HOLD_SOME_OUT

        what = "no photo was" if len(poses) == 0 else "only one photo was"
        raise UserError(
            f"there is no way from one held-out photo to the next, since {what} held out: add --pose-source train to "
            f"move between the photos trained on. {HOLD_SOME_OUT}"
        )
    return _get_interpolated_poses_many(poses, *args, **kwargs)
