"""Entries of ``frames`` in transforms.json, as nerfstudio and instant-ngp read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from difix3d_ns.geometry.pinhole import Pinhole

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""from a camera's axes in OpenGL (x right, y up, looks along -z) to OpenCV's (y down, looks along z), and back"""


def frame_entry(name: str, camera: Pinhole, pose: np.ndarray | None = None) -> dict[str, Any]:
    """Return the entry of a photo of a pinhole camera; keys for masks and depth may be added.

    Args:
        name: of its file, relative to transforms.json.
        camera: which took it.
        pose: [4, 4] camera-to-world, OpenCV axes, where the file has other coordinates; None: the camera's.
    """
    if pose is None:
        pose = camera.camera_to_world.cpu().double().numpy()
    return {
        "file_path": name,
        **dict(zip(("fl_x", "fl_y"), camera.intrinsics.diagonal().tolist(), strict=False)),
        **dict(zip(("cx", "cy"), camera.intrinsics[:2, 2].tolist(), strict=True)),
        **{"w": camera.width, "h": camera.height},
        "transform_matrix": (pose @ OPENGL).tolist(),
    }
