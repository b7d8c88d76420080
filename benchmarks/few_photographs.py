"""Scenes of two to six photos, for methods that need no more: `difix3d bench --recipe few-photographs`.

    python benchmarks/few_photographs.py captures/fox captures/castle object-seed:0 --photos 3 --output DIR

Of a capture's training photos those with the farthest azimuths are kept, around the point its cameras look at; all
others are held out, 16 of them evenly. Poses are the capture's; of its points those stay that lie in two of the kept
photos or more. An object on ground, plain or textured by turns, is photographed along a quarter of a circle; no prior
is trained on it. Its exact depth lies in ``depths/`` (float32 along z), its silhouette in ``silhouettes/``. What is
there already is left as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image

from benchmarks.enlarged_scenes import write_capture
from difix3d_ns.data.procedural import photograph_world, write_views
from difix3d_ns.data.procedural.dataset import View
from difix3d_ns.data.procedural.ray_scene import SceneBuilder
from difix3d_ns.data.procedural.trajectories import look_at
from difix3d_ns.data.procedural.worlds import PLAIN, TEXTURED, grounded_object
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.orbits import look_at_point
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import in_view, unproject
from difix3d_ns.io.atomic import write_text
from difix3d_ns.io.point_files import write_points

OBJECT = "object-seed:"
HELD_OUT = 16
_ALONG = 13  # places on the quarter of a circle, at which an object is photographed
_STREAM = 31  # of random numbers: no prior is trained on it
_ON_SURFACE = 0.004  # metres
_REACH = 80.0  # metres of ground around an object: no sky is seen, which no method knows and half of all error would be


def farthest_azimuths(cameras: Sequence[Pinhole], count: int) -> list[int]:
    """Choose cameras far from each other by azimuth around the point they look at, the first two farthest apart."""
    point = look_at_point(cameras).numpy()
    positions = np.stack([camera.position.double().numpy() for camera in cameras]) - point
    up = -np.mean([camera.camera_to_world[:3, 1].double().numpy() for camera in cameras], axis=0)
    up /= np.linalg.norm(up)
    flat = positions - (positions @ up)[:, None] * up
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    angles = np.arccos(np.clip(flat @ flat.T, -1, 1))
    chosen = [int(value) for value in np.unravel_index(angles.argmax(), angles.shape)]
    while len(chosen) < min(count, len(cameras)):
        chosen.append(int(angles[:, chosen].min(1).argmax()))
    return sorted(chosen[:count])


def write_few(capture: Path, output: Path, photos: int, long_side: int) -> Path:
    """Write a capture with few of its photos for training; returns ``output``."""
    write_capture(capture, output, long_side)
    path = output / "transforms.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    frames = {frame["file_path"]: camera_of_frame(frame) for frame in meta["frames"]}
    training = meta["train_filenames"]
    kept = [training[i] for i in farthest_azimuths([frames[name] for name in training], photos)]
    others = [name for name in frames if name not in kept]
    held_out = [others[round(i)] for i in np.linspace(0, len(others) - 1, min(HELD_OUT, len(others)))]
    meta |= {"train_filenames": kept, "val_filenames": held_out, "test_filenames": held_out}
    if "ply_file_path" in meta:
        import open3d

        cloud = open3d.io.read_point_cloud(str(output / meta["ply_file_path"]))
        points, colours = np.asarray(cloud.points), np.asarray(cloud.colors)
        placed = torch.from_numpy(points).float()
        seen = sum(in_view(placed, frames[name])[0].long() for name in kept)
        shown = (seen >= 2).numpy()
        write_points(points[shown], (colours[shown] * 255).round().astype(np.uint8), output / meta["ply_file_path"])
    write_text(path, json.dumps(meta, indent=1))
    return output


def camera_of_frame(frame: dict) -> Pinhole:
    """Camera of a frame of transforms.json."""
    pose = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
    if pose.shape == (3, 4):
        pose = np.vstack([pose, [0, 0, 0, 1]])
    lens = [[frame["fl_x"], 0, frame["cx"]], [0, frame["fl_y"], frame["cy"]], [0, 0, 1]]
    return Pinhole(torch.from_numpy(pose).float(), torch.tensor(lens).float(), frame["w"], frame["h"])


def object_views(seed: int, photos: int, long_side: int) -> tuple[list[View], list[np.ndarray]]:
    """Photograph an object on ground; its views, and where each shows the object, [H, W] bool."""
    ground = (PLAIN, TEXTURED)[seed % 2]
    world = grounded_object(SceneBuilder(np.random.default_rng([_STREAM, seed]), "demo"), ground, _REACH)
    rng = np.random.default_rng([_STREAM, seed, 1])
    middle, first = world.path.target(0.0), world.path.position(0.0)
    radius = float(np.linalg.norm(first - middle))
    start = math.atan2(first[1] - middle[1], first[0] - middle[0])
    places = [*np.linspace(0, 1, photos), *(rng.uniform(-0.1, 1.1) for _ in range(_ALONG - photos))]
    poses = []
    for number, place in enumerate(places):
        azimuth = start + math.radians(90) * place
        elevation = max(0.4, 0.5 + rng.normal(0, 0.03 if number < photos else 0.12))  # below, sky is seen
        way = [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
        poses.append((look_at(middle + radius * np.array(way), middle + rng.normal(0, 0.03, 3)), number < photos))
    height = round(long_side * 3 / 4 / 16) * 16
    views = photograph_world(world, rng, width=long_side, height=height, poses=poses, label=None)
    assert world.solid is not None
    shown = []
    for view in views:
        surface = unproject(view.depth.double(), view.camera).reshape(-1, 3).numpy()
        apart = world.solid.distance(surface).reshape(view.depth.shape[:2])
        shown.append((np.abs(apart) < _ON_SURFACE) & (view.depth[..., 0].numpy() > 0))
    return views, shown


def write_object(seed: int, output: Path, photos: int, long_side: int) -> Path:
    """Write an object's photos, exact depth and silhouettes; returns ``output``."""
    views, shown = object_views(seed, photos, long_side)
    (output / "silhouettes").mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(shown, start=1):
        Image.fromarray((255 * one).astype(np.uint8)).save(output / f"silhouettes/frame_{number:05d}.png")
    return write_views(views, output, np.random.default_rng([_STREAM, seed, 2]), image_format="png", depths=True)


def main(
    scenes: Annotated[list[str], tyro.conf.Positional], output: Path, photos: int = 3, long_side: int | None = None
) -> None:
    """Write scenes.

    Args:
        scenes: captures, or object-seed:S for an object on ground.
        output: folder; a folder for each.
        photos: for training.
        long_side: of the pictures in pixels (unset: 320 of a capture, 192 of an object).
    """
    for scene in scenes:
        procedural = scene.startswith(OBJECT)
        name = f"object-{scene.removeprefix(OBJECT)}" if procedural else Path(scene).resolve().name
        folder = output / f"{name}-{photos}"
        if (folder / "transforms.json").is_file():
            print(f"{folder} is there already")
        elif procedural:
            print(write_object(int(scene.removeprefix(OBJECT)), folder, photos, long_side or 192))
        else:
            print(write_few(Path(scene), folder, photos, long_side or 320))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
