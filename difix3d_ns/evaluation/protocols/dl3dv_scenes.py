"""Scenes of DL3DV-Benchmark (Ling et al., CVPR 2024): a walk with a camera, as nerfstudio has it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from scipy.cluster.vq import kmeans2

from difix3d_ns.evaluation.protocols.dataset_writer import placement_keys, shot_of, write_dataset
from difix3d_ns.evaluation.protocols.scene_source import Misfit, SceneSource, scene_folders, scene_name
from difix3d_ns.ns.dataparsers.scene_parser import describe

_INSIDE = "nerfstudio"


def find(folder: Path, reduced: int = 4, every: int = 0) -> list[SceneSource]:
    """Find scenes.

    Args:
        folder: of the data set, or of one scene.
        reduced: number of the folder of reduced pictures, images_4.
        every: hold out every so many-th photo, as the data set's own benchmark does; 0: the smaller of two clusters
            of camera positions, as Difix3D+ does.

    Raises:
        Misfit: there are none, or their pictures are not there.
    """
    found = []
    for scene in scene_folders(folder, f"{_INSIDE}/transforms.json", "transforms.json"):
        place = scene / _INSIDE if (scene / _INSIDE).is_dir() else scene
        if not (place / f"images_{reduced}").is_dir() and not (place / "images").is_dir():
            raise Misfit(f"{place / f'images_{reduced}'} is missing")
        name = scene_name(scene.resolve().parent if scene_name(scene) == _INSIDE else scene)
        found.append(SceneSource(name, partial(_write, place, reduced, every)))
    return found


def smaller_cluster(positions: Sequence[np.ndarray]) -> list[int]:
    """Indices of the smaller of two clusters of camera positions [3], which begin at the two farthest cameras."""
    points = np.stack(positions)
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    _, label = kmeans2(points, points[list(np.unravel_index(apart.argmax(), apart.shape))], minit="matrix")
    smaller = int(np.bincount(label, minlength=2).argmin())
    return [int(index) for index in np.flatnonzero(label == smaller)]


def _write(folder: Path, reduced: int, every: int, output: Path) -> None:
    scene = describe(NerfstudioDataParserConfig(data=folder, load_3D_points=True))
    frames = sorted(scene.frames, key=lambda frame: frame.image.name)
    positions = [frame.pose[:3, 3] for frame in frames]
    held_out = list(range(0, len(frames), every)) if every else smaller_cluster(positions)
    shots = [
        shot_of(scene, frame, reduced, trained=index not in held_out, held_out=index in held_out)
        for index, frame in enumerate(frames)
    ]
    write_dataset(output, shots, placement_keys(scene), scene.points)
