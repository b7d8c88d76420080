"""Cameras of nerfstudio (OpenGL axes) as pinholes (OpenCV axes), and back."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole

_FLIP = torch.tensor([1.0, -1.0, -1.0])  # OpenGL camera axes to OpenCV


def opencv_pose(pose: Tensor) -> Tensor:
    """Turn a camera-to-world [3, 4] of nerfstudio into a [4, 4] with OpenCV axes, float32."""
    square = torch.eye(4, device=pose.device)
    square[:3, :3] = pose[:3, :3] * _FLIP.to(pose.device)
    square[:3, 3] = pose[:3, 3]
    return square


def to_pinhole(camera: Cameras, camera_to_world: Tensor | None = None) -> Pinhole:
    """One nerfstudio camera (OpenGL axes) as a Pinhole (OpenCV axes) on the CPU.

    Args:
        camera: a Cameras with one camera, undistorted; shape () or (1,).
        camera_to_world: [3, 4] to use instead of the camera's own (an optimised pose).
    """
    camera = camera.reshape((1,))
    pose = camera_to_world if camera_to_world is not None else camera.camera_to_worlds[0]
    square = opencv_pose(pose.detach().cpu())
    intrinsics = Cameras.get_intrinsics_matrices(camera)[0].detach().cpu().float()
    return Pinhole(square, intrinsics, int(camera.width[0]), int(camera.height[0]))


def to_cameras(pinhole: Pinhole) -> Cameras:
    """A Pinhole as nerfstudio Cameras of shape (1,) on the CPU, without a camera index."""
    pose = pinhole.camera_to_world[:3].float().cpu().clone()
    pose[:, :3] = pose[:, :3] * _FLIP
    k = pinhole.intrinsics.float().cpu()
    return Cameras(
        camera_to_worlds=pose[None],
        fx=k[0, 0].reshape(1, 1),
        fy=k[1, 1].reshape(1, 1),
        cx=k[0, 2].reshape(1, 1),
        cy=k[1, 2].reshape(1, 1),
        width=torch.tensor([[pinhole.width]]),
        height=torch.tensor([[pinhole.height]]),
        camera_type=CameraType.PERSPECTIVE,
    )
