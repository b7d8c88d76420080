"""Scenes of NeRF's synthetic data: transforms_train.json, transforms_val.json, transforms_test.json."""

from __future__ import annotations

from pathlib import Path

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame, PointsGiven
from difix3d_ns.ns.dataparsers.point_file import read_points
from difix3d_ns.ns.dataparsers.transforms_file import listed_frames, load, read_frame

TRAIN_FILE = "transforms_train.json"


def read_blender(folder: Path, *, ply: Path | None = None) -> DescribedScene:
    """Read a folder with a transforms file per split.

    Args:
        folder: with transforms_train.json, and those of val and test as far as they are there.
        ply: initial points, relative to ``folder``.

    Raises:
        UserError: the message names file and frame, and the remedy.
    """
    if not (folder / TRAIN_FILE).is_file():
        raise UserError(f"{folder / TRAIN_FILE} is missing; blender-data reads folders with transforms_train.json")
    frames: dict[str, Frame] = {}
    splits: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        path = folder / f"transforms_{split}.json"
        if not path.is_file():
            continue
        meta = load(path)
        for entry in listed_frames(meta, path):
            frame = read_frame(entry, meta, path)
            frames.setdefault(frame.name, frame)
            splits.setdefault(split, []).append(frame.name)
    return DescribedScene(
        source=folder / TRAIN_FILE,
        frames=list(frames.values()),
        points=_points(folder / ply) if ply is not None else None,
        splits=splits if splits.keys() - {"train"} else {},
        background="white",
    )


def _points(path: Path) -> PointsGiven | None:
    if not path.is_file():
        raise UserError(f"--ply-path: {path} does not exist")
    try:
        return read_points(path)
    except ValueError as error:
        raise UserError(str(error)) from error
