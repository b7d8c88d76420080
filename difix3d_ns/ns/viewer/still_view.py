"""A picture of what a browser tab shows: a camera path of one camera that stands still, and the command for it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.atomic import write_json
from difix3d_ns.io.transforms_frames import OPENGL

LONG_SIDE = 1920
"""pixels of the picture"""
_FOLDER = "still_views"


def write_still_view(camera: Pinhole, training: Path, outputs: Sequence[str]) -> str:
    """Write a camera path of one camera, and return the command that renders it.

    Args:
        camera: in nerfstudio's scene.
        training: folder, in which the path is written to ``still_views/view_N.json``.
        outputs: names of what is rendered.

    Raises:
        OSError: the path cannot be written.
    """
    folder = training / _FOLDER
    path = next(file for number in count(1) if not (file := folder / f"view_{number}.json").exists())
    pose = camera.camera_to_world.cpu().double().numpy() @ OPENGL
    fov = 2 * math.degrees(math.atan(camera.height / 2 / float(camera.intrinsics[1, 1])))
    entry = {"camera_to_world": pose.flatten().tolist(), "fov": fov, "aspect": camera.width / camera.height}
    write_json(
        path,
        {
            "camera_type": "perspective",
            "render_width": camera.width,
            "render_height": camera.height,
            "fps": 1,
            "seconds": 1,
            "is_cycle": False,
            "smoothness_value": 0,
            "camera_path": [entry],
        },
    )
    words = ["ns-render", "camera-path", "--load-config", training / "config.yml", "--camera-path-filename", path]
    words += ["--rendered-output-names", *outputs, "--output-format", "images", "--output-path", path.with_suffix("")]
    return shlex.join(map(str, words))
