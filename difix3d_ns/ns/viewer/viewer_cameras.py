"""Cameras between viser's scene, which is ten times as large, and nerfstudio's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import viser
import viser.transforms as vtf
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole

_MIN_SIDE = 64  # pixels of a side that a fixer can work with


def pinhole_of(wxyz: np.ndarray, position: np.ndarray, fov: float, aspect: float, long_side: int) -> Pinhole:
    """Convert a camera of viser's scene.

    Args:
        wxyz: [4] orientation, OpenCV axes.
        position: [3] in viser's scene.
        fov: vertical, radians.
        aspect: width over height.
        long_side: of the picture, pixels.
    """
    width = long_side if aspect >= 1 else max(1, round(long_side * aspect))
    height = max(1, round(long_side / aspect)) if aspect >= 1 else long_side
    pose = np.eye(4)
    pose[:3, :3] = vtf.SO3(np.asarray(wxyz, float)).as_matrix()
    pose[:3, 3] = np.asarray(position, float) / VISER_NERFSTUDIO_SCALE_RATIO
    focal = 0.5 * height / math.tan(fov / 2)
    intrinsics = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
    return Pinhole(torch.tensor(pose).float(), torch.tensor(intrinsics).float(), width, height)


def client_pinhole(client: viser.ClientHandle, long_side: int) -> Pinhole:
    """Return the camera of a browser tab; see ``pinhole_of``.

    Raises:
        UserError: its window is too narrow for a picture.
    """
    camera = client.camera
    if not (_MIN_SIDE / long_side <= camera.aspect <= long_side / _MIN_SIDE):  # false for NaN as well
        raise UserError("This window is too narrow for a picture: make it wider, or higher.")
    return pinhole_of(camera.wxyz, camera.position, camera.fov, camera.aspect, long_side)


def stand_at(client: viser.ClientHandle, position: np.ndarray, wxyz: np.ndarray) -> None:
    """Move a browser tab's camera to a place of viser's scene.

    Args:
        client: of the tab.
        position: [3].
        wxyz: [4] orientation, OpenCV axes.
    """
    with client.atomic():
        client.camera.position = position
        client.camera.wxyz = wxyz


def placed(camera: Pinhole) -> dict[str, Any]:
    """Return arguments of ``add_camera_frustum``: fov (vertical, radians), aspect, wxyz, position in viser's scene."""
    pose = camera.camera_to_world.cpu().double().numpy()
    return {
        "fov": 2 * math.atan(camera.height / 2 / float(camera.intrinsics[1, 1])),
        "aspect": camera.width / camera.height,
        "wxyz": vtf.SO3.from_matrix(pose[:3, :3]).wxyz,
        "position": pose[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO,
    }
