"""A scene of a few small pictures on disk, for tests of what reads one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from difix3d_ns.ns.datamanager import SceneDatamanager, SceneDatamanagerConfig


def look_at(position: Sequence[float]) -> np.ndarray:  # [4, 4] camera-to-world, OpenGL axes
    """A camera at ``position`` that looks at the origin, z up."""
    backward = np.asarray(position, dtype=float)
    backward = backward / np.linalg.norm(backward)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(backward, right), backward], axis=1)
    pose[:3, 3] = position
    return pose


def ring(count: int) -> list[np.ndarray]:
    """Camera-to-world matrices [4, 4] on an arc about the origin."""
    angles = [math.radians(60 * i / max(1, count - 1)) for i in range(count)]
    return [look_at((2 * math.cos(a), 2 * math.sin(a), 0.4 + 0.1 * i)) for i, a in enumerate(angles)]


def write_ply(path: Path, count: int = 60) -> None:
    """An ASCII point cloud about the origin."""
    points = np.random.default_rng(0).normal(0, 0.3, (count, 3))
    write_ply_of(path, points, np.tile(np.array([200, 100, 50], np.uint8), (count, 1)))


def write_ply_of(path: Path, points: np.ndarray, colours: np.ndarray) -> None:
    """An ASCII point cloud of positions [N, 3], all digits kept, and colours [N, 3] uint8."""
    header = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    header += [f"property double {axis}" for axis in "xyz"]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")] + ["end_header"]
    lines = [f"{x!r} {y!r} {z!r} {r} {g} {b}" for (x, y, z), (r, g, b) in zip(points.tolist(), colours, strict=True)]
    path.write_text("\n".join(header + lines) + "\n")


def write_scene(
    folder: Path,
    count: int = 6,
    size: tuple[int, int] = (40, 30),
    sizes: Sequence[tuple[int, int]] | None = None,
    poses: Sequence[np.ndarray] | None = None,
    mode: str = "RGB",
    masks: bool = False,
    points: bool = True,
    change: Callable[[dict[str, Any]], None] | None = None,
    **intrinsics: Any,
) -> Path:
    """Write pictures and transforms.json.

    Args:
        folder: made if needed.
        count: pictures; the last but one is held out.
        size: (width, height) of all.
        sizes: of each, instead of ``size``.
        poses: [4, 4] camera-to-world of each.
        mode: of the pictures, as PIL names it.
        masks: whether each picture gets a mask that hides its left half.
        points: whether there is a point cloud.
        change: edits the transforms before they are written.
        intrinsics: more of them: k1, camera_model, ...
    """
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(1)
    frames, names = [], []
    for index, pose in enumerate(poses if poses is not None else ring(count)):
        width, height = sizes[index] if sizes is not None else size
        name = f"images/frame_{index:03d}.png"
        channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
        coarse = random.integers(0, 256, (5, 6, channels), dtype=np.uint8)
        picture = Image.fromarray(coarse.squeeze(), mode).resize((width, height), Image.Resampling.BILINEAR)
        picture.save(folder / name)
        frame: dict[str, Any] = {"file_path": name, "transform_matrix": np.asarray(pose).tolist()}
        frame |= {"w": width, "h": height, "fl_x": 0.9 * max(size), "fl_y": 0.92 * max(size)}
        frame |= {"cx": width / 2 + 1.25, "cy": height / 2 - 0.75}
        if masks:
            mask = np.full((height, width), 255, dtype=np.uint8)
            mask[:, : width // 2] = 0
            (folder / "masks").mkdir(exist_ok=True)
            frame["mask_path"] = f"masks/frame_{index:03d}.png"
            Image.fromarray(mask).save(folder / frame["mask_path"])
        frames.append(frame)
        names.append(name)
    held_out = names[-2:-1] if len(names) > 2 else names[-1:]
    train = [name for name in names if name not in held_out] or names
    meta: dict[str, Any] = {"camera_model": "OPENCV", **intrinsics, "frames": frames}
    meta |= {"train_filenames": train, "val_filenames": held_out, "test_filenames": held_out}
    if points:
        write_ply(folder / "points.ply")
        meta["ply_file_path"] = "points.ply"
    if change is not None:
        change(meta)
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def datamanager(folder: Path, device: str = "cpu", **settings: Any) -> SceneDatamanager:
    """The method's datamanager."""
    config = SceneDatamanagerConfig(
        data=folder,
        dataparser=NerfstudioDataParserConfig(load_3D_points=True),
        cache_images_type="uint8",
        **settings,
    )
    return SceneDatamanager(config, device=torch.device(device))
