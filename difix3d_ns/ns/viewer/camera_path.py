"""The camera path that is being made in nerfstudio's Render tab."""

from __future__ import annotations

import numpy as np
import viser

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.patches.render_panel import edited_path
from difix3d_ns.ns.viewer.viewer_cameras import pinhole_of


def path_cameras(server: viser.ViserServer, count: int, long_side: int) -> list[Pinhole]:
    """Return cameras evenly spaced in time along the path of the Render tab.

    Args:
        server: the viewer's.
        count: how many.
        long_side: of their pictures, pixels.

    Raises:
        UserError: the path has fewer than two cameras.
    """
    path = edited_path(server)
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
