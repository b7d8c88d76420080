"""Scenes of nerfstudio and instant-ngp: poses and intrinsics of all photos in transforms.json."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, CameraType

from difix3d_ns.errors import UserError
from difix3d_ns.io.depth_files import confidence_of
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame, Lens, PointsGiven
from difix3d_ns.ns.dataparsers.picture_files import COPIES, find_copy, find_picture, read_header
from difix3d_ns.ns.dataparsers.point_file import read_points

_COLMAP_TRANSFORM = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
"""what ns-process-data applied to COLMAP's poses before it wrote applied_transform"""
_BROWN = ("k1", "k2", "k3", "k4", "p1", "p2")  # in nerfstudio's order
_CONFIDENCE = ("depth_confidence_path", "depth_confidence_file_path", "confidence_file_path", "confidence_path")
_LISTS = ("train", "val", "test")


def read_transforms(path: Path, *, points: bool = True, ordered: bool = True) -> DescribedScene:
    """Read a transforms.json.

    Args:
        path: of the file.
        points: whether to read initial points if it names some.
        ordered: whether to sort frames by file name, as nerfstudio does; else they are as listed.

    Raises:
        UserError: the message names file and frame, and the remedy.
    """
    meta = load(path)
    folder = path.parent
    frames = [read_frame(frame, meta, path) for frame in listed_frames(meta, path)]
    if ordered:
        frames = sorted(frames, key=lambda frame: frame.image)
    found, notes = _points(meta, path) if points else (None, ())
    return DescribedScene(
        source=path,
        frames=frames,
        points=found,
        splits={
            split: _named(meta[f"{split}_filenames"], frames, split, path)
            for split in _LISTS
            if f"{split}_filenames" in meta
        },
        generated=_named(meta.get("generated_filenames", ()), frames, "generated", path),
        generated_about=str(meta.get("generated_about", "")),
        applied_transform=_applied_transform(meta, folder, path),
        applied_scale=_number(meta, "applied_scale", 1.0, path, "the scene"),
        orientation=_orientation(meta, path),
        depth_unit=_depth_unit(meta, path),
        notes=notes,
        factor=_factor(meta, path),
        box=0.5 * _number(meta, "aabb_scale", 1.0, path, "the scene") if "aabb_scale" in meta else None,
    )


def load(path: Path) -> dict[str, Any]:
    """Read a JSON file with an object, with or without a byte-order mark.

    Raises:
        UserError: it cannot be read.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; make it again with ns-process-data") from error
    return meta if isinstance(meta, dict) else {}


def listed_frames(meta: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Frames of a scene as its file lists them.

    Raises:
        UserError: there are none, or one is without a picture.
    """
    frames = meta.get("frames")
    if not isinstance(frames, list) or not frames:
        raise UserError(
            f"{path} has no images: its list `frames` is missing or empty; make it again with ns-process-data"
        )
    for frame in frames:
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise UserError(f"{path}: a frame has no file_path; add it or remove the frame")
    return frames


def read_frame(frame: Mapping[str, Any], meta: Mapping[str, Any], path: Path, *, image: Path | None = None) -> Frame:
    """Read one frame; whatever it states itself overrides what the scene states for all.

    Args:
        frame: of the file.
        meta: the file.
        path: of the file.
        image: the frame's picture; None: found by its name.
    """
    name = frame["file_path"]
    image = image or find_picture(path.parent, name)

    def file(keys: Iterable[str]) -> Path | None:
        named = next((frame[key] for key in keys if frame.get(key)), None)
        return find_picture(path.parent, str(named)) if named is not None else None

    depth = file(("depth_file_path", "depth_path"))  # the second is instant-ngp's
    return Frame(
        name=name,
        image=image,
        pose=_pose(frame, name, path),
        lens=_lens(frame, meta, image, path),
        mask=file(["mask_path"]),
        depth=depth,
        depth_confidence=file(_CONFIDENCE) or (confidence_of(depth) if depth is not None else None),
    )


def _pose(frame: Mapping[str, Any], name: str, path: Path) -> np.ndarray:  # [4, 4]
    try:
        pose = np.array(frame["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        pose = np.zeros(0)
    if pose.shape == (3, 4):
        pose = np.concatenate([pose, [[0, 0, 0, 1]]])
    if pose.shape != (4, 4):
        raise UserError(f"{path}: the transform_matrix of {name} is missing or not 4 x 4; fix it or remove the frame")
    return pose


def _lens(frame: Mapping[str, Any], meta: Mapping[str, Any], image: Path, path: Path) -> Lens:
    name = frame["file_path"]
    stated = {**meta, **frame}  # each key by itself

    def number(key: str, default: float) -> float:
        return _number(stated, key, default, path, name)

    width, height = _size(stated, image, path)
    camera_type = _camera_type(stated, path)
    fx, fy = (_focal(frame, meta, axis, size, path) for axis, size in (("x", width), ("y", height)))
    if fx is None:
        raise UserError(
            f"{path}: {name} has no focal length: fl_x (pixels), camera_angle_x (radians) or x_fov (degrees) is "
            "missing; add it to the frame or to the file"
        )
    radius = number("fisheye_crop_radius", math.nan) if stated.get("fisheye_crop_radius") is not None else None
    return Lens(
        width=width,
        height=height,
        fx=fx,
        fy=fx if fy is None else fy,
        cx=number("cx", width / 2),
        cy=number("cy", height / 2),
        camera_type=camera_type,
        distortion=_distortion(frame, meta, camera_type, path),
        crop_radius=radius if camera_type in (CameraType.FISHEYE, CameraType.FISHEYE624) else None,
    )


def _number(stated: Mapping[str, Any], key: str, default: float, path: Path, name: str) -> float:
    value = stated.get(key, default)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {key} of {name} is {value!r}; a number is needed") from error


def _size(stated: Mapping[str, Any], image: Path, path: Path) -> tuple[int, int]:
    name = stated["file_path"]
    if "w" in stated and "h" in stated:
        sides = tuple(_number(stated, key, 0, path, name) for key in "wh")
        if not all(math.isfinite(side) and round(side) > 0 for side in sides):
            raise UserError(f"{path}: w and h of {name} are {sides[0]:g} and {sides[1]:g}; correct them to its pixels")
        return round(sides[0]), round(sides[1])
    if not image.is_file():
        reduced = next((c for n in COPIES if (c := find_copy(image, n, path.parent)) is not None), None)
        raise UserError(
            f"{path} states no size (w and h) for {name}, and there is no picture {image} to take it from; "
            + ("state the size of the originals" if reduced else "put it there, or remove its frame")
        )
    return read_header(image).size


def _focal(frame: Mapping[str, Any], meta: Mapping[str, Any], axis: str, size: int, path: Path) -> float | None:
    """Pixels of the focal length; instant-ngp may state an angle of view instead."""
    for stated in (frame, meta):
        if f"fl_{axis}" in stated:
            return _number(stated, f"fl_{axis}", 0, path, frame["file_path"])
        for key, unit in ((f"{axis}_fov", math.pi / 180), (f"camera_angle_{axis}", 1.0)):
            if key in stated:
                angle = _number(stated, key, 0, path, frame["file_path"]) * unit
                return 0.5 * size / math.tan(0.5 * angle) if angle else math.inf
    return None


def _camera_type(stated: Mapping[str, Any], path: Path) -> CameraType:
    name = stated["file_path"]
    model = stated.get("camera_model")
    fisheye = bool(stated.get("is_fisheye", False))  # instant-ngp
    if model is None:
        return CameraType.FISHEYE if fisheye else CameraType.PERSPECTIVE
    kind = CAMERA_MODEL_TO_TYPE.get(model)
    if kind is None:
        raise UserError(f"{path}: camera_model {model!r} of {name} is none of {', '.join(CAMERA_MODEL_TO_TYPE)}")
    if fisheye and kind is CameraType.PERSPECTIVE:
        raise UserError(
            f"{path}: {name} is_fisheye and of camera_model {model}, a contradiction; remove one of the two"
        )
    return kind


def _distortion(
    frame: Mapping[str, Any], meta: Mapping[str, Any], camera_type: CameraType, path: Path
) -> tuple[float, ...]:
    name = frame["file_path"]
    count = 12 if camera_type is CameraType.FISHEYE624 else 6
    given = [0.0] * count
    for stated in (meta, frame):  # the frame's last
        if (listed := stated.get("distortion_params")) is not None:
            try:
                given = [float(value) for value in listed]
            except (TypeError, ValueError):
                given = []
            if len(given) != count:
                raise UserError(
                    f"{path}: distortion_params of {name} has to be a list of {count} numbers"
                    + (" (k1, k2, k3, k4, p1, p2)" if count == 6 else " for FISHEYE624")
                )
        elif count == 6:
            for index, key in enumerate(_BROWN):
                given[index] = _number(stated, key, given[index], path, name)
        elif any(stated.get(key) for key in _BROWN):
            raise UserError(f"{path}: {name} is of camera_model FISHEYE624, which needs distortion_params, 12 numbers")
    return tuple(given)


def _named(names: Any, frames: Iterable[Frame], split: str, path: Path) -> list[str]:
    """Names of the frames that a split lists, in the order of ``frames``."""
    listed = {find_picture(path.parent, str(name)) for name in names}
    found = [frame for frame in frames if frame.image in listed]
    unmatched = listed - {frame.image for frame in found}
    if unmatched:
        raise UserError(
            f"{path}: {len(unmatched)} names in {split}_filenames are of no frame, the first is "
            f"{os.path.relpath(min(unmatched), path.parent)}; correct the list"
        )
    return [frame.name for frame in found]


def _applied_transform(meta: Mapping[str, Any], folder: Path, path: Path) -> np.ndarray | None:  # [3, 4]
    given = meta.get("applied_transform")
    if given is None:
        if not (folder / "colmap/sparse/0").exists():
            return None
        given = _COLMAP_TRANSFORM
    try:
        transform = np.array(given, dtype=np.float64)[:3]
    except (TypeError, ValueError, IndexError):
        transform = np.zeros(0)
    if transform.shape != (3, 4) or not np.isfinite(transform).all():
        raise UserError(f"{path}: applied_transform is not 3 x 4 numbers; fix or remove it")
    return transform


def _orientation(meta: Mapping[str, Any], path: Path) -> str | None:
    method = meta.get("orientation_override")
    if method not in (None, "pca", "up", "vertical", "none"):
        raise UserError(f"{path}: orientation_override {method!r} is none of pca, up, vertical and none; correct it")
    return method  # type: ignore[no-any-return]


def _factor(meta: Mapping[str, Any], path: Path) -> int | None:
    if "downscale_factor" not in meta:
        return None
    factor = _number(meta, "downscale_factor", 1, path, "the scene")
    if factor < 1 or factor != round(factor):
        raise UserError(f"{path}: downscale_factor {factor:g} is no whole number from 1 on; correct or remove it")
    return round(factor)


def _depth_unit(meta: Mapping[str, Any], path: Path) -> float:
    for key in ("depth_unit_scale_factor", "integer_depth_scale"):  # the second is instant-ngp's
        if key in meta:
            return _number(meta, key, 0, path, "the scene")
    return DescribedScene.depth_unit


def _points(meta: Mapping[str, Any], path: Path) -> tuple[PointsGiven | None, tuple[str, ...]]:
    named = meta.get("ply_file_path")
    if not named:
        return None, ()
    file = find_picture(path.parent, str(named))
    if not file.is_file():
        return None, (f"No initial points: {file} is missing; starting from random points.",)
    try:
        points = read_points(file)
    except ValueError as error:
        raise UserError(str(error)) from error
    if points is None:
        return None, (f"No initial points: {file} is empty; starting from random points.",)
    return points, ()
