"""Checks of a scene's folder, with messages that come before nerfstudio stumbles over it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from difix3d_ns.errors import UserError

_CAMERA_MODELS = ("OPENCV", "OPENCV_FISHEYE", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "FISHEYE624")


def check_transforms(data: Path | None, scaled: bool = True, opened: bool = True) -> None:
    """Check ``transforms.json`` for what cannot be trained on.

    Args:
        data: a folder with transforms.json, or such a file.
        scaled: whether poses are scaled to a common size, which cameras at one place cannot be.
        opened: whether the first picture will be, to choose a resolution.

    Raises:
        UserError: the message names file and frame, and the remedy.
    """
    path = _transforms_path(data)
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; make it again with ns-process-data") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames:
        raise UserError(
            f"{path} has no images: its list `frames` is missing or empty; make it again with ns-process-data"
        )
    if meta.get("camera_model", "OPENCV") not in _CAMERA_MODELS:
        raise UserError(
            f"{path}: splats cannot be trained on camera_model {meta['camera_model']!r}, only on "
            f"{', '.join(_CAMERA_MODELS)}; convert the pictures (ns-process-data images --camera-type equirectangular "
            "cuts panoramas up)"
        )
    positions = np.stack([_position(frame, path) for frame in frames])
    if scaled and np.ptp(positions, axis=0).max() == 0:
        what = "there is only one image" if len(frames) == 1 else f"all {len(frames)} cameras are at one place"
        raise UserError(f"{path}: {what}, which shows no depth; add images from other places")
    if opened and not (path.parent / frames[0]["file_path"]).exists():
        _check_present([path.parent / frame["file_path"] for frame in frames], path, "images")


def check_views(outputs: DataparserOutputs, data: Path, split: str, opened: bool = True) -> None:
    """Check what the dataparser made of one split.

    Args:
        outputs: of the dataparser.
        data: the scene, for messages.
        split: train or eval.
        opened: whether the pictures will be.

    Raises:
        UserError: pictures are missing, there is none to train on, or a pose is not finite.
    """
    if split == "train" and not outputs.image_filenames:
        raise UserError(f"{data} has no training images; list some under train_filenames in transforms.json")
    if opened:
        _check_present(outputs.image_filenames, data, "images")
        _check_present(outputs.mask_filenames or [], data, "masks")
    bad = (~np.isfinite(outputs.cameras.camera_to_worlds.numpy()).all(axis=(-2, -1))).nonzero()[0]
    if len(bad):
        name = Path(outputs.image_filenames[bad[0]]).name
        raise UserError(f"the pose of {name} in {data} is not finite ({len(bad)} such frames); remove or fix it")


def explain_unreadable(dataset: InputDataset, error: Exception) -> str:
    """Explain which picture of a dataset cannot be used, and why; ``error`` ended the reading of all of them."""
    masks = dataset._dataparser_outputs.mask_filenames
    for index, path in enumerate(dataset.image_filenames):
        for file in [path, *([masks[index]] if masks else [])]:
            try:
                with Image.open(file) as picture:
                    picture.load()
            except (OSError, ValueError, SyntaxError) as reason:
                return f"{file} cannot be read ({reason}); replace it, or remove its frame from transforms.json"
        try:
            height, width = dataset.get_numpy_image(index).shape[:2]
        except (AssertionError, ValueError) as reason:
            return f"{path} cannot be used ({reason}); save it with 8 bits per channel as RGB, RGBA or grey"
        camera = dataset.cameras[index]
        expected = (int(camera.width), int(camera.height))
        if (width, height) != expected:
            return (
                f"{path} has {width} x {height} pixels where transforms.json says {expected[0]} x {expected[1]} "
                "(both after scaling); correct w and h of its frame, with the focal length and principal point for it"
            )
    return f"the images cannot be prepared: {error}; check size and intrinsics in transforms.json"


def _transforms_path(data: Path | None) -> Path:
    if data is None:
        raise UserError("no scene given: add --data FOLDER (a folder with transforms.json and images)")
    if not data.exists():
        raise UserError(f"--data {data} does not exist; give a folder with transforms.json and images")
    path = data if data.suffix == ".json" else data / "transforms.json"
    if not path.exists():
        hint = f"run `ns-process-data images --data {data} --output-dir SCENE` first and train on SCENE"
        if (data / "colmap" / "sparse").exists() or (data / "sparse").exists():
            hint = f"read the COLMAP model with `ns-train difix3d-splatfacto --data {data} colmap`"
        raise UserError(f"{path} is missing: {hint}")
    return path


def _position(frame: Any, path: Path) -> np.ndarray:  # [3]
    if not isinstance(frame, dict) or "file_path" not in frame:
        raise UserError(f"{path}: a frame has no file_path; add it or remove the frame")
    name = frame["file_path"]
    try:
        pose = np.array(frame["transform_matrix"], dtype=float)
    except (KeyError, TypeError, ValueError):
        pose = np.zeros(0)
    if pose.shape != (4, 4):
        raise UserError(f"{path}: the transform_matrix of {name} is missing or not 4 x 4; fix it or remove the frame")
    if not np.isfinite(pose).all():
        raise UserError(f"{path}: the pose of {name} is not finite; fix its transform_matrix or remove the frame")
    return pose[:3, 3]


def _check_present(paths: Iterable[Path], data: Path, what: str) -> None:
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} {what} named in {data} are missing, the first is {missing[0]}; "
            "put them there, or remove their frames from transforms.json"
        )
