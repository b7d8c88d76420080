"""Checks of a scene's folder, with messages that come before nerfstudio stumbles over it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.poses import camera_spacing
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame

_USABLE = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.FISHEYE624)
MAX_LOST_SPACINGS = 1e-3  # camera spacings that positions may lose as float32


@contextmanager
def scene_errors(data: Path | None, ours: bool) -> Iterator[None]:
    """Raise what goes wrong while a scene is read as a UserError, if it tells of the scene.

    Args:
        data: the scene.
        ours: whether ``SceneParser`` reads it, which says itself what is wrong with a scene: any other error is a fault
            of the package and stays what it is. A dataparser of somebody else's may raise anything.
    """
    try:
        yield
    except (FileNotFoundError, AssertionError, RuntimeError, LookupError, ValueError, ArithmeticError) as error:
        if ours or isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{data} cannot be read as a scene: {reason}; make it again with ns-process-data") from error
    except OSError as error:
        raise UserError(f"{data} cannot be read: {error}") from error


def check_scene(scene: DescribedScene, scaled: bool = True) -> None:
    """Check a capture for what cannot be trained on.

    Args:
        scene: as described by its files.
        scaled: whether poses are scaled to a common size, which cameras at one place cannot be.

    Raises:
        UserError: the message names file and frame, and the remedy.
    """
    if not scene.frames:
        raise UserError(f"{scene.source} has no images; make it again with ns-process-data")
    for frame in scene.frames:
        if not np.isfinite(frame.pose).all():
            raise UserError(
                f"{scene.source}: the pose of {frame.name} is not finite; fix its transform_matrix or remove the frame"
            )
        _check_lens(frame, scene.source)
    _check_one_model(scene)
    positions = np.stack([frame.pose[:3, 3] for frame in scene.frames])
    if scaled and np.ptp(positions, axis=0).max() == 0:
        count = len(scene.frames)
        what = "there is only one image" if count == 1 else f"all {count} cameras are at one place"
        raise UserError(f"{scene.source}: {what}, which shows no depth; add images from other places")


def _check_lens(frame: Frame, source: Path) -> None:
    lens = frame.lens
    if lens.camera_type not in _USABLE:
        name = lens.camera_type.name
        raise UserError(
            f"{source}: splats cannot be trained on {frame.name}, whose camera_model is {name}, only on perspective "
            "and fisheye pictures; convert the pictures (ns-process-data images --camera-type equirectangular cuts "
            "panoramas up)"
        )
    remedy = f"correct it in {source.name}, or remove the frame"
    for key, value in (("focal length fl_x", lens.fx), ("focal length fl_y", lens.fy)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{source}: the {key} of {frame.name} is {value:g}, and has to be above 0; {remedy}")
    if lens.width < 1 or lens.height < 1:
        raise UserError(f"{source}: the size of {frame.name} is {lens.width} x {lens.height} pixels; {remedy}")
    if not (math.isfinite(lens.cx) and math.isfinite(lens.cy)):
        raise UserError(f"{source}: the principal point cx, cy of {frame.name} is {lens.cx:g}, {lens.cy:g}; {remedy}")
    if not np.isfinite(lens.distortion).all():
        raise UserError(f"{source}: the distortion of {frame.name} is not finite; {remedy}")
    if lens.crop_radius is not None and not lens.crop_radius > 0:
        raise UserError(
            f"{source}: fisheye_crop_radius of {frame.name} is {lens.crop_radius:g}, and has to be above 0; {remedy}"
        )
    if lens.camera_type is CameraType.PERSPECTIVE and lens.distortion[3] != 0:
        raise UserError(
            f"{source}: the 4th distortion parameter (k4) of {frame.name}, a perspective picture, cannot be undone, "
            f"only k1, k2, k3, p1 and p2; {remedy}, or undistort the pictures first"
        )
    if lens.camera_type is CameraType.FISHEYE and any(lens.distortion[4:]):
        raise UserError(
            f"{source}: p1 and p2 of {frame.name}, a fisheye picture, cannot be undone, only k1 to k4; {remedy}, or "
            "undistort the pictures first"
        )


def _check_one_model(scene: DescribedScene) -> None:
    found: dict[CameraType, Frame] = {}
    for frame in scene.frames:
        found.setdefault(frame.lens.camera_type, frame)
    if len(found) > 1:
        kinds = ", ".join(f"{frame.name} is {kind.name.lower()}" for kind, frame in found.items())
        raise UserError(
            f"{scene.source} mixes cameras of several kinds ({kinds}), and splats are trained on one kind at a time; "
            "remove the frames of the others, or undistort their pictures and state the new intrinsics"
        )


def check_precision(outputs: DataparserOutputs) -> None:
    """Check that float32 has left a dataparser's poses as they are.

    Args:
        outputs: of a dataparser that does not centre in float64.

    Raises:
        UserError: coordinates are too far from the origin; the message has the remedy.
    """
    poses = outputs.cameras.camera_to_worlds.double()
    transform = outputs.dataparser_transform.double()
    scale = outputs.dataparser_scale or 1.0
    if len(poses) < 2:
        return
    positions = poses[:, :3, 3].numpy() / scale
    offset = (torch.linalg.pinv(transform[:, :3]) @ transform[:, 3]).numpy()  # subtracted from the file's
    lost = lost_spacings(positions, float(np.abs(positions).max() + np.abs(offset).max()))
    if lost > MAX_LOST_SPACINGS:
        raise UserError(
            f"the camera positions are so far from the origin (about {np.abs(positions - offset).max():.0f}) that "
            f"this dataparser rounds them by {lost:.2g} camera spacings; convert the scene to transforms.json or a "
            "COLMAP model, which are centred without loss, or subtract an offset from its coordinates"
        )


def lost_spacings(positions: np.ndarray, magnitude: float) -> float:
    """Error of coordinates of a magnitude as float32, in camera spacings; 0 where it can be no matter."""
    extent = float(np.ptp(positions, axis=0).max()) if len(positions) else 0.0
    if magnitude <= 4 * extent or extent == 0:
        return 0.0
    poses = torch.eye(4, dtype=torch.float64).repeat(len(positions), 1, 1)
    poses[:, :3, 3] = torch.from_numpy(positions - positions.mean(0))
    spacing = camera_spacing(poses)
    return magnitude * 2.0**-24 / spacing if spacing > 0 else math.inf


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
        raise UserError(
            f"{data} has no training images: its lists hold all out; list some under train_filenames in transforms.json"
        )
    if opened:
        check_pictures(outputs.image_filenames, data, "images")
        check_pictures([mask for mask in outputs.mask_filenames or [] if mask is not None], data, "masks")
        for key in ("depth_filenames", "depth_confidence_filenames"):
            check_pictures([path for path in outputs.metadata.get(key) or [] if path is not None], data, "depth maps")
    bad = (~np.isfinite(outputs.cameras.camera_to_worlds.numpy()).all(axis=(-2, -1))).nonzero()[0]
    if len(bad):
        name = Path(outputs.image_filenames[bad[0]]).name
        raise UserError(f"the pose of {name} in {data} is not finite ({len(bad)} such frames); remove or fix it")


def check_pictures(paths: Iterable[Path], data: Path, what: str = "images") -> None:
    """Check that files are there.

    Raises:
        UserError: some are missing; the message has their number and names the first.
    """
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} {what} named in {data} are missing, the first is {missing[0]}; "
            "put them there, or remove their frames from the scene"
        )
