"""Panoramas of a splat: perspective faces rendered by splatfacto, and their outputs blended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.panorama import Face, Panorama, ray_lengths
from difix3d_ns.ns.cameras import opencv_pose

RENDERED = ("perspective", "fisheye", "equirectangular")
"""camera types of a path that splats can be rendered with"""
STEREO = ("omnidirectional", "vr180")
"""those in which rays of one picture start at many places"""


def is_perspective(camera: Cameras) -> bool:
    """Return whether splatfacto itself renders what a camera sees."""
    return bool((camera.camera_type == CameraType.PERSPECTIVE.value).all())


def panorama_of(camera: Cameras) -> Panorama | None:
    """Return the panorama that a camera takes, on its device; None if it is perspective.

    Args:
        camera: a Cameras with one camera; shape () or (1,).

    Raises:
        UserError: a splat cannot be rendered with its type.
    """
    if is_perspective(camera):
        return None
    camera = camera.reshape((1,))
    kind = CameraType(int(camera.camera_type[0]))
    lens = camera.distortion_params
    if kind not in (CameraType.FISHEYE, CameraType.EQUIRECTANGULAR):
        raise refusal(kind.name.lower())
    if kind is CameraType.FISHEYE and lens is not None and bool((lens != 0).any()):
        raise UserError("splats are rendered with fisheye cameras without distortion only: set its coefficients to 0")
    pose = opencv_pose(camera.camera_to_worlds[0])
    fx, fy, cx, cy = (float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
    return Panorama(
        "fisheye" if kind is CameraType.FISHEYE else "equirectangular",
        pose,
        fx,
        fy,
        cx,
        cy,
        int(camera.width),
        int(camera.height),
    )


def refusal(camera_type: str) -> UserError:
    """Return the error for a camera type that splats cannot be rendered with."""
    stereo = camera_type.split("_")[0] in ("omnidirectionalstereo", *STEREO)
    reason = "a splat is drawn from one place, and each column of a stereo panorama is seen from another"
    return UserError(
        f"camera_type {camera_type!r} cannot be rendered"
        + (f": {reason}" if stereo else "")
        + "; set camera_type in the file of --camera-path-filename to 'equirectangular' (360 degrees), 'fisheye' or "
        "'perspective'"
    )


def blend_outputs(panorama: Panorama, faces: Sequence[Face], outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Blend splatfacto's outputs of the faces of a panorama.

    Args:
        panorama: the panorama.
        faces: its faces.
        outputs: of each: rgb, depth along z, accumulation, background.

    Returns:
        The same outputs of the panorama; depth [H, W, 1] is the distance along the rays, whose directions differ.
    """
    rgb = panorama.blend(faces, [found["rgb"] for found in outputs]).clamp(0, 1)
    opacities = [found["accumulation"] for found in outputs]
    distances = [found["depth"] * ray_lengths(face.camera) for face, found in zip(faces, outputs, strict=True)]
    # a mean over what is seen: where a face sees nothing its depth is arbitrary
    sums = [torch.cat([alpha * far, alpha], -1) for alpha, far in zip(opacities, distances, strict=True)]
    weighted, accumulation = panorama.blend(faces, sums, "bilinear").split(1, -1)
    depth = weighted / accumulation.clamp_min(1e-10)
    background: Tensor = outputs[0]["background"]
    return {
        "rgb": rgb,
        "depth": depth.where(accumulation > 0, depth.max()),
        "accumulation": accumulation,
        "background": background.reshape(-1, 3)[0].expand(panorama.height, panorama.width, 3),
    }
