"""Scenes whose photos have a true larger size, for methods that enlarge: `difix3d bench --recipe 3dsr`.

    python benchmarks/enlarged_scenes.py captures/* procedural-seed:0 procedural-seed:1 procedural-seed:2 --output DIR

A capture's photos are reduced to the long side, antialiased and bicubic, and cropped to multiples of 16 pixels, so that
a quarter of them is whole pixels in every camera; poses, points, masks, and which photos are held out stay. A
procedural scene has 24 photos along a path and 8 held out, made of what no prior is trained on, and its exact depth in
``depths/`` (float32 along z in units of the poses). Its poses are exact, or with ``--pose-error`` as wrong as those of
captures. With ``--near 0.5`` every second photo is taken from half the distance. What is there already stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from scipy.spatial.transform import Rotation

from difix3d_ns.data.procedural import World, demo_world, photograph_world, write_views
from difix3d_ns.data.procedural.ray_scene import SceneBuilder
from difix3d_ns.data.procedural.trajectories import CameraPath
from difix3d_ns.data.procedural.worlds import facade, tabletop
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.protocols.dataset_writer import (
    CAMERA_MODELS,
    Box,
    cropped_lens,
    frame_entry,
    middle_box,
    placement_keys,
)
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.atomic import write_text
from difix3d_ns.io.images import read_mask, read_stored
from difix3d_ns.io.point_files import write_points
from difix3d_ns.ns.dataparsers.picture_files import choose_copy
from difix3d_ns.ns.dataparsers.scene_parser import describe
from difix3d_ns.ns.dataparsers.splits import split_scene

BLOCK = 16
"""pixels of which sides are multiples: a quarter of them, and what networks halve twice, is whole"""
PROCEDURAL = "procedural-seed:"
PHOTOS, HELD_OUT = 24, 8
_STREAM = 23  # of random numbers: no prior is trained on it


def reduced_size(width: int, height: int, long_side: int) -> tuple[tuple[int, int], Box]:
    """Size of a reduced picture, and the part of it whose sides are multiples of ``BLOCK``, in the middle.

    Raises:
        ValueError: it would be enlarged, or nothing is left.
    """
    factor = long_side / max(width, height)
    size = round(width * factor), round(height * factor)
    if factor > 1 or min(size) < BLOCK:
        raise ValueError(f"{width} x {height} px cannot be reduced to a long side of {long_side}")
    return size, middle_box(size, BLOCK)


def write_capture(capture: Path, output: Path, long_side: int) -> Path:
    """Write a capture reduced and cropped, as a nerfstudio dataset; returns ``output``.

    Raises:
        UserError: it cannot be read, a photo is smaller than the long side, or its lens is no pinhole or fisheye.
    """
    config = NerfstudioDataParserConfig(data=capture, load_3D_points=True)
    scene = describe(config)
    split = split_scene(scene, config)
    folder = scene.source if scene.source.is_dir() else scene.source.parent
    frames: list[dict[str, Any]] = []
    for index, frame in enumerate(scene.frames):
        if frame.lens.camera_type not in CAMERA_MODELS or frame.lens.crop_radius is not None:
            raise UserError(f"{frame.image}: only pinholes and whole fisheyes are reduced; undistort the photos first")
        path = choose_copy(frame.image, 1, folder)
        pixels = Image.fromarray(read_stored(path))
        try:
            size, box = reduced_size(*pixels.size, long_side)
        except ValueError as error:
            raise UserError(f"{path}: {error}; give a smaller --long-side") from error
        name = f"images/frame_{index + 1:05d}.png"
        _save(pixels.resize(size, Image.Resampling.BICUBIC).crop(box), output / name)
        written = frame_entry(name, cropped_lens(frame.lens, size, box), frame.pose)
        if frame.mask is not None:
            mask = Image.fromarray(read_mask(frame.mask, size)[..., 0]).crop(box)
            written["mask_path"] = name.replace("images/", "masks/")
            _save(mask.convert("L"), output / written["mask_path"])
        frames.append(written)
    meta: dict[str, Any] = {"frames": frames, **placement_keys(scene)}
    for kind in ("train", "val", "test"):
        meta[f"{kind}_filenames"] = [frames[index]["file_path"] for index in split.of(kind)]
    if scene.points is not None:
        meta["ply_file_path"] = "sparse_pc.ply"
        write_points(scene.points.positions.astype(np.float64), scene.points.colours, output / "sparse_pc.ply")
    write_text(output / "transforms.json", json.dumps(meta, indent=1))  # last: half a scene has none
    return output


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _living_room(seed: int) -> World:
    return replace(demo_world(seed), spread=0.05)


def _of(world: Callable[[SceneBuilder], World]) -> Callable[[int], World]:
    return lambda seed: world(SceneBuilder(np.random.default_rng([_STREAM, seed]), "demo"))


KINDS: Sequence[Callable[[int], World]] = (_living_room, _of(facade), _of(tabletop))
"""worlds that take turns by seed; all from what is kept for the demo"""


def write_procedural(
    seed: int,
    output: Path,
    long_side: int,
    photos: int = PHOTOS,
    held_out: int = HELD_OUT,
    label: str | None = "Photos",
    pose_error: float = 0.0,
    near: float = 1.0,
) -> Path:
    """Write a procedural scene as a nerfstudio dataset with its exact depth; returns ``output``.

    Every second photo is taken from ``near`` times the distance of the others to what they look at.

    Poses of training photos are turned about the camera's x and y axes so far that the picture's middle moves by
    ``pose_error`` pixels along each (standard deviation).
    """
    rng = np.random.default_rng([_STREAM + 1, seed])
    width, height = long_side // BLOCK * BLOCK, round(long_side * 2 / 3 / BLOCK) * BLOCK
    world = KINDS[seed % len(KINDS)](seed)
    views = photograph_world(
        replace(world, path=nearer_by_turns(world.path, near, photos)),
        rng,
        width=width,
        height=height,
        train_views=photos,
        test_views=held_out,
        beyond=0.0,
        label=label,
    )
    if pose_error:
        views = [
            replace(view, camera=turned(view.camera, pose_error, rng)) if view.training else view for view in views
        ]
    return write_views(views, output, rng, image_format="png", depths=True)


def nearer_by_turns(path: CameraPath, near: float, photos: int) -> CameraPath:
    """A path whose every second photo is at ``near`` times its distance to what it looks at."""
    gap = 1 / (photos if path.closed else photos - 1)

    def position(s: float) -> np.ndarray:
        share = near if round(s / gap) % 2 else 1.0
        return path.target(s) + (path.position(s) - path.target(s)) * share

    return path if near == 1.0 else replace(path, position=position)


def turned(camera: Pinhole, pixels: float, rng: np.random.Generator) -> Pinhole:
    """Return a camera turned by random angles that move the middle of its picture by ``pixels`` along x and y."""
    focal = camera.intrinsics[[1, 0], [1, 0]].double().numpy()  # about x by pixels along y
    angles = rng.normal(scale=pixels, size=2) / focal
    turn = torch.from_numpy(Rotation.from_rotvec([*angles, 0.0]).as_matrix()).to(camera.camera_to_world)
    pose = camera.camera_to_world.clone()
    pose[:3, :3] = pose[:3, :3] @ turn
    return replace(camera, camera_to_world=pose)


def main(
    scenes: Annotated[list[str], tyro.conf.Positional],
    output: Path,
    long_side: int = 480,
    photos: int = PHOTOS,
    pose_error: float = 0.0,
    near: float = 1.0,
) -> None:
    """Write scenes.

    Args:
        scenes: captures, or procedural-seed:S for a procedural one.
        output: folder; a folder for each.
        long_side: of the pictures in pixels.
        photos: of a procedural scene, beside those that are held out.
        pose_error: of a procedural scene's training photos in pixels (standard deviation).
        near: distance of every second photo of a procedural scene, as a share of the others'.
    """
    for scene in scenes:
        if scene.startswith(PROCEDURAL):
            seed = int(scene.removeprefix(PROCEDURAL))
            folder = output / f"procedural-{seed}"
            if photos != PHOTOS:
                folder = folder.with_name(f"{folder.name}-{photos}")
            if pose_error:
                folder = folder.with_name(f"{folder.name}-off-{pose_error:g}")
            if near != 1.0:
                folder = folder.with_name(f"{folder.name}-near-{near:g}")
        else:
            folder = output / Path(scene).resolve().name
        if (folder / "transforms.json").is_file():
            print(f"{folder} is there already")
        elif scene.startswith(PROCEDURAL):
            print(write_procedural(seed, folder, long_side, photos, pose_error=pose_error, near=near))
        else:
            print(write_capture(Path(scene), folder, long_side))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
