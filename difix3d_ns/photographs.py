"""The training photographs as reference views: undistorted pictures, true cameras, and the splat seen from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.reference import Reference

if TYPE_CHECKING:
    from difix3d_ns.datamanager import Difix3DDatamanager
    from difix3d_ns.model import Difix3DModel

_FLIP = torch.tensor([1.0, -1.0, -1.0])  # OpenGL camera axes to OpenCV


def to_pinhole(camera: Cameras, camera_to_world: Tensor | None = None) -> Pinhole:
    """One nerfstudio camera (OpenGL axes) as a Pinhole (OpenCV axes) on the CPU.

    Args:
        camera: a Cameras with one camera, undistorted; shape () or (1,).
        camera_to_world: [3, 4] to use instead of the camera's own (an optimised pose).
    """
    camera = camera.reshape((1,))
    pose = (camera_to_world if camera_to_world is not None else camera.camera_to_worlds[0]).detach().cpu().float()
    square = torch.eye(4)
    square[:3, :3] = pose[:3, :3] * _FLIP
    square[:3, 3] = pose[:3, 3]
    intrinsics = Cameras.get_intrinsics_matrices(camera)[0].detach().cpu().float()
    return Pinhole(square, intrinsics, int(camera.width[0]), int(camera.height[0]))


def to_cameras(pinhole: Pinhole, device: torch.device | str) -> Cameras:
    """A Pinhole as nerfstudio Cameras of shape (1,), without a camera index."""
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
    ).to(device)


class Photographs:
    """Training photographs as references; what the splat shows at their poses is rendered anew when it has changed.

    Args:
        datamanager: whose undistorted cache is read, lazily.
        model: whose splat is rendered, and whose camera optimizer moves the poses if it is on.
        max_age: training steps after which the splat's depth at the photographs counts as outdated. Between rounds the
            geometry moves little, and rendering all photographs costs as much as that many training steps.
    """

    def __init__(self, datamanager: Difix3DDatamanager, model: Difix3DModel, max_age: int = 200) -> None:
        self._datamanager = datamanager
        self._model = model
        self._max_age = max_age
        self._rendered: list[Reference] | None = None
        self._rendered_at = -1

    def cameras(self) -> list[Pinhole]:
        """Cameras of all photographs, at their optimised poses."""
        assert self._datamanager.cached_train is not None  # undistorting fixes the intrinsics
        return [self._camera(index) for index in range(len(self._datamanager.train_dataset))]

    def references(self, refresh: bool = False) -> list[Reference]:
        """All photographs with the splat's median depth and opacity at their poses.

        Args:
            refresh: render now even if the last rendering is recent.
        """
        age = self._model.step - self._rendered_at
        if self._rendered is None or refresh or not 0 <= age <= self._max_age:
            self._rendered = [self._reference(index) for index in range(len(self._datamanager.train_dataset))]
            self._rendered_at = self._model.step
        return self._rendered

    def forget(self) -> None:
        """Render anew at the next use."""
        self._rendered = None

    def _camera(self, index: int) -> Pinhole:
        camera = self._datamanager.train_cameras[index : index + 1]
        optimizer = self._model.camera_optimizer
        if optimizer.config.mode == "off":
            return to_pinhole(camera)
        camera = camera.to(self._model.device)
        camera.metadata = {"cam_idx": index}
        with torch.no_grad():
            return to_pinhole(camera, optimizer.apply_to_camera(camera)[0])

    def _reference(self, index: int) -> Reference:
        data = self._datamanager.cached_train[index]
        image = data["image"].to(self._model.device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        mask = data["mask"].to(image) if "mask" in data else None
        if image.shape[-1] == 4:
            opacity = image[..., 3:]
            mask = opacity if mask is None else mask * opacity
            image = self._model.composite_with_background(image, self._model.background_color.to(image))
        camera = self._camera(index)
        depth, alpha = self._model.median_depth(camera.camera_to_world, camera.intrinsics, camera.width, camera.height)
        return Reference(image, camera, depth, alpha, mask)
