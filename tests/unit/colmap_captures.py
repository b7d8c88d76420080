"""Captures in the layouts of COLMAP and its relatives, tiny, for tests of what reads them."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from PIL import Image

from tests.unit.tiny_scene import ring

PINHOLE = ("PINHOLE", (36.0, 37.0, 20.5, 14.5))
SIZE = (40, 30)


def write_pictures(folder: Path, names: Sequence[str], size: tuple[int, int] = SIZE) -> None:
    """Write a picture per name, each of a colour of its own."""
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (20 * index % 256, 90, 200)).save(path)


def write_model(
    folder: Path,
    names: Sequence[str] = ("a.png", "b.png", "c.png"),
    end: str = ".bin",
    cameras: Sequence[tuple[str, Sequence[float]]] = (PINHOLE,),
    points: int | None = 5,
    observations: int = 0,
    offset: Sequence[float] = (0.0, 0.0, 0.0),
    size: tuple[int, int] = SIZE,
) -> list[np.ndarray]:
    """Write a COLMAP model; numbers of images fall while names rise.

    Args:
        folder: made if needed.
        names: of the images.
        end: .bin or .txt.
        cameras: (model, parameters); images have them in turn.
        points: how many; None: no such file.
        observations: per image.
        offset: added to all positions.
        size: (width, height) of all cameras.

    Returns:
        poses [4, 4] in COLMAP's world with OpenGL axes, one per name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lenses = {
        number: colmap.Camera(number, model, *size, np.array(values, dtype=float))
        for number, (model, values) in enumerate(cameras, start=1)
    }
    poses, images = [], {}
    for index, pose in enumerate(ring(len(names))):
        pose[:3, 3] += offset
        poses.append(pose)
        rotation = (pose[:3, :3] * [1, -1, -1]).T
        number = len(names) - index
        images[number] = colmap.Image(
            id=number,
            qvec=colmap.rotmat2qvec(rotation),
            tvec=-rotation @ pose[:3, 3],
            camera_id=1 + index % len(cameras),
            name=names[index],
            xys=np.full((observations, 2), 3.5),
            point3D_ids=np.full(observations, -1),
        )
    random = np.random.default_rng(0)
    given = {
        index + 1: colmap.Point3D(
            id=index + 1,
            xyz=random.normal(size=3) + offset,
            rgb=np.array([index, 2, 255]),
            error=0.5,
            image_ids=np.array([1, 2]),
            point2D_idxs=np.array([0, 0]),
        )
        for index in range(points or 0)
    }
    colmap.write_model(lenses, {} if end == ".bin" else images, given, str(folder), end)
    if end == ".bin":
        _write_images(folder / "images.bin", images.values())
    if points is None:
        (folder / f"points3D{end}").unlink()
    return poses


def _write_images(path: Path, images: Collection[colmap.Image]) -> None:
    """Write images.bin; nerfstudio's writer knows ASCII names alone."""
    data = struct.pack("<Q", len(images))
    for image in images:
        data += struct.pack("<I7dI", image.id, *image.qvec, *image.tvec, image.camera_id)
        data += image.name.encode() + b"\0" + struct.pack("<Q", len(image.xys))
        for (x, y), point in zip(image.xys, image.point3D_ids, strict=True):
            data += struct.pack("<ddq", x, y, point)
    path.write_bytes(data)
