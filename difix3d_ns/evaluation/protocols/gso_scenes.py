"""Objects of Google Scanned Objects as SyncDreamer renders them (Liu et al., arXiv 2309.03453): 16 views of an orbit.

``blender_script.py --camera_type fixed`` writes OBJECT/000.png to 015.png: the object, its longest side 1, at the
origin, seen from 1.5 away by a lens of 35 on a sensor of 32, azimuths i x 22.5 degrees, z up, background transparent.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from difix3d_ns.data.procedural.trajectories import look_at
from difix3d_ns.evaluation.protocols.dataset_writer import Shot, write_dataset
from difix3d_ns.evaluation.protocols.scene_source import Misfit, SceneSource, scene_folders, scene_name
from difix3d_ns.ns.dataparsers.described_scene import Lens
from difix3d_ns.ns.dataparsers.picture_files import read_header

VIEWS = 16
_DISTANCE, _FOCAL = 1.5, 35 / 32  # of the camera; of the lens, over the width of the sensor


def find(folder: Path, photos: int = 1, elevation: float = 30.0) -> list[SceneSource]:
    """Find objects.

    Args:
        folder: of the renders, or of one object.
        photos: number of views to train on, evenly around from the first; all views are compared.
        elevation: of the cameras, in degrees.

    Raises:
        Misfit: there are none, or views are missing.
    """
    objects = scene_folders(folder, "000.png")
    for place in objects:
        if missing := [view for view in range(VIEWS) if not (place / f"{view:03d}.png").is_file()]:
            raise Misfit(f"{place / f'{missing[0]:03d}.png'} is missing")
    return [SceneSource(scene_name(place), partial(_write, place, photos, elevation)) for place in objects]


def orbit_pose(view: int, elevation: float) -> np.ndarray:
    """Camera-to-world [4, 4] of a view, OpenGL axes; elevation in degrees."""
    azimuth, above = 2 * math.pi * view / VIEWS, math.radians(elevation)
    way = [math.cos(azimuth) * math.cos(above), math.sin(azimuth) * math.cos(above), math.sin(above)]
    return look_at(_DISTANCE * np.array(way), np.zeros(3)) @ np.diag([1.0, -1.0, -1.0, 1.0])


def _write(folder: Path, photos: int, elevation: float, output: Path) -> None:
    trained = {round(number * VIEWS / photos) for number in range(photos)}
    shots = []
    for view in range(VIEWS):
        file = folder / f"{view:03d}.png"
        width, height = read_header(file).size
        lens = Lens(width, height, _FOCAL * width, _FOCAL * width, width / 2, height / 2)
        shots.append(Shot(file.name, lens, orbit_pose(view, elevation), file, view in trained, held_out=True))
    write_dataset(output, shots, {"orientation_override": "none"})
