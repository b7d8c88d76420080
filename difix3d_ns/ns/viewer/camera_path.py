"""The camera path that is being made in nerfstudio's Render tab."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import viser
from nerfstudio.viewer import render_panel

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.viewer.poses import pinhole_of

_PATHS: WeakKeyDictionary[viser.ViserServer, _Remembered] = WeakKeyDictionary()


class _Remembered(render_panel.CameraPath):
    """nerfstudio's, which otherwise only the Render tab's own callbacks can reach."""

    def __init__(self, server: viser.ViserServer, *arguments: Any, **options: Any) -> None:
        super().__init__(server, *arguments, **options)
        _PATHS[server] = self


def remember_camera_paths() -> None:
    """Make ``path_cameras`` possible for viewers that are opened from now on."""
    setattr(render_panel, "CameraPath", _Remembered)  # noqa: B010  (it is a type to mypy)


def path_cameras(server: viser.ViserServer, count: int, long_side: int) -> list[Pinhole]:
    """Cameras evenly spread in time along the path of the Render tab.

    Args:
        server: the viewer's.
        count: how many.
        long_side: of their pictures, pixels.

    Raises:
        UserError: the path has fewer than two cameras.
    """
    path = _PATHS.get(server)
    if path is None or len(path._keyframes) < 2:
        raise UserError("The path has fewer than two cameras: add some in the tab Render (Add Keyframe).")
    aspect = path.get_aspect()
    cameras = []
    for t in np.linspace(0, 1, count, endpoint=not path.loop):
        sample = path.interpolate_pose_and_fov_rad(float(t))
        assert sample is not None  # there are two keyframes
        pose, fov = sample[0], sample[1]
        cameras.append(pinhole_of(pose.rotation().wxyz, pose.translation(), fov, aspect, long_side))
    return cameras
