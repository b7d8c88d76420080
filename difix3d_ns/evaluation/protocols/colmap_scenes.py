"""Scenes of Mip-NeRF 360 and LLFF: photos, reduced copies and a COLMAP model, every eighth photo held out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from difix3d_ns.evaluation.protocols.dataset_writer import placement_keys, shot_of, write_dataset
from difix3d_ns.evaluation.protocols.scene_source import Misfit, SceneSource, scene_folders, scene_name
from difix3d_ns.ns.dataparsers.scene_parser import describe


def find(folder: Path, reduced: int = 4, multiple: int = 4, every: int = 8) -> list[SceneSource]:
    """Find scenes.

    Args:
        folder: of the data set, or of one scene.
        reduced: factor by which the pictures that are compared are reduced: those of images_4, or else made of images.
        multiple: their sides are cut to multiples of this, in the middle.
        every: every so many-th photo by name is held out, from the first.

    Raises:
        Misfit: there are none, or their pictures are not there.
    """
    scenes = scene_folders(folder, "sparse/0", "poses_bounds.npy")
    for scene in scenes:
        if not (scene / f"images_{reduced}").is_dir() and not (scene / "images").is_dir():
            raise Misfit(f"{scene / f'images_{reduced}'} is missing")
    return [SceneSource(scene_name(scene), partial(_write, scene, reduced, multiple, every)) for scene in scenes]


def _write(folder: Path, reduced: int, multiple: int, every: int, output: Path) -> None:
    scene = describe(NerfstudioDataParserConfig(data=folder, load_3D_points=True))
    shots = [
        shot_of(scene, frame, reduced, multiple, trained=index % every != 0, held_out=index % every == 0)
        for index, frame in enumerate(sorted(scene.frames, key=lambda frame: frame.image.name))
    ]
    write_dataset(output, shots, placement_keys(scene), scene.points)
