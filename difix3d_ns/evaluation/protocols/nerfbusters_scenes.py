"""Scenes of Nerfbusters (Warburg et al., ICCV 2023): two videos each, the first to train on, the second held out.

Photos of video 0 are ``frame_00001.png``, those of video 1 ``frame_1_00001.png``. Evaluation masks are what the data
set's ``scripts/launch_nerf.py render`` writes for the pseudo ground truth as ``visibility_median_count``: the number of
training photos that show a pixel, one picture for each held-out photo in the order of names.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from difix3d_ns.evaluation.protocols.dataset_writer import placement_keys, shot_of, write_dataset
from difix3d_ns.evaluation.protocols.scene_source import Misfit, SceneSource, scene_folders, scene_name
from difix3d_ns.io.images import pictures_below, read_mask
from difix3d_ns.ns.dataparsers.picture_files import reduction
from difix3d_ns.ns.dataparsers.scene_parser import describe

COUNTS = "visibility_median_count"


def find(folder: Path) -> list[SceneSource]:
    """Find scenes; their pictures are those that nerfstudio trains on, with a long side of 1600 pixels at most.

    Raises:
        Misfit: there are none, or some have masks and others have not.
    """
    scenes = scene_folders(folder, "transforms.json")
    without = [scene for scene in scenes if not (scene / COUNTS).is_dir()]
    if without and len(without) < len(scenes):
        raise Misfit(f"{without[0] / COUNTS} is missing, which other scenes have")
    return [SceneSource(scene_name(scene), partial(_write, scene)) for scene in scenes]


def video_of(name: str) -> int:
    """Return the number of the video that a photo is of, by its file name.

    Raises:
        Misfit: its name does not say.
    """
    parts = Path(name).stem.split("_")
    number = parts[1] if len(parts) == 3 else "0"
    if not (parts[0] == "frame" and len(parts) in (2, 3) and number.isdecimal()):
        raise Misfit(f"the name of {name} does not say which video it is of")
    return int(number)


def _write(folder: Path, output: Path) -> None:
    scene = describe(NerfstudioDataParserConfig(data=folder, load_3D_points=True))
    factor = reduction(max(max(frame.lens.width, frame.lens.height) for frame in scene.frames))
    shots = []
    for frame in sorted(scene.frames, key=lambda frame: frame.image.name):
        video = video_of(frame.image.name)
        if video in (0, 1):
            shots.append(shot_of(scene, frame, factor, trained=video == 0, held_out=video == 1))
    for video, example in enumerate(("frame_00001.png", "frame_1_00001.png")):
        if not any(shot.trained if video == 0 else shot.held_out for shot in shots):
            raise Misfit(f"{folder / 'images' / example} and others of video {video} are missing")
    held_out = [shot.name for shot in shots if shot.held_out]
    masks = None
    if (folder / COUNTS).is_dir():
        counts = pictures_below(folder / COUNTS)
        if len(counts) != len(held_out):
            raise Misfit(f"{folder / COUNTS} has {len(counts)} pictures for {len(held_out)} photos of video 1")
        masks = {name: read_mask(file) for name, file in zip(held_out, counts, strict=True)}
    write_dataset(output, shots, placement_keys(scene), scene.points, masks)
