"""Cameras that RealityCapture exports as CSV (`Internal/External camera parameters`)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.colmap_model import find_pictures
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame, Lens

_FILM = 36.0  # mm; focal lengths are those of 35 mm film


def is_realitycapture(path: Path) -> bool:
    """Return whether a CSV file has cameras of RealityCapture."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return any(line.startswith("#name,") and "heading" in line for _, line in zip(range(3), file, strict=False))


def read_realitycapture(path: Path, images: Path) -> DescribedScene:
    """Read poses and lenses as ns-process-data does: z is up, so no orientation is looked for.

    Args:
        path: the CSV file.
        images: the folder with the pictures, whose sizes the focal lengths refer to.

    Raises:
        UserError: the file cannot be read, or no picture is found.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in file if line.strip()]
        header = next(number for number, line in enumerate(lines) if line.startswith("#name"))
        rows = list(csv.DictReader(lines[header:]))
        names = [row["#name"] for row in rows]
        pictures = find_pictures(images, names)
        frames = []
        for row, name in zip(rows, names, strict=True):
            if name in pictures:
                with Image.open(pictures[name]) as picture:
                    size = picture.size
                values = {key: float(value) for key, value in row.items() if key != "#name" and key and value}
                frames.append(Frame(name, pictures[name], _pose(values), _lens(values, size)))
    except (ValueError, KeyError, TypeError, StopIteration, csv.Error, OSError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); export the cameras from RealityCapture again") from error
    if not frames:
        raise UserError(
            f"{path} has {len(rows)} cameras, and {images} no picture named like one ({', '.join(names[:3])}); "
            "put the pictures there"
        )
    notes = [f"{path} has no 3D points; training starts from random ones. RealityCapture's COLMAP export has them."]
    if len(frames) < len(rows):
        notes.append(f"{path}: {len(rows) - len(frames)} of {len(rows)} cameras have no picture in {images}.")
    frames.sort(key=lambda frame: frame.image)
    return DescribedScene(source=path, frames=frames, orientation="none", notes=notes)


def _lens(values: dict[str, float], size: tuple[int, int]) -> Lens:
    width, height = size
    longer = max(size)
    focal = values["f"] * longer / _FILM
    distortion = tuple(values.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "t1", "t2"))
    centre = (values.get("px", 0.0) * longer + width / 2, values.get("py", 0.0) * longer + height / 2)
    return Lens(width, height, focal, focal, *centre, distortion=distortion)


def _pose(values: dict[str, float]) -> np.ndarray:
    """Camera-to-world [4, 4] with OpenGL axes of a heading, pitch and roll in degrees."""
    yaw, pitch, roll = np.deg2rad([-values["heading"], values["pitch"], values["roll"]])
    about_x = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    about_y = [[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]]
    about_z = [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
    pose = np.eye(4)
    pose[:3, :3] = np.array(about_z) @ np.array(about_x) @ np.array(about_y)
    pose[:3, 3] = values["x"], values["y"], values["alt"]
    return pose
