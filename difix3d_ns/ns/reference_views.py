"""The training photographs as reference views: undistorted pictures, true cameras, and the splat seen from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.poses import pose_distances, spacing, stack_poses
from difix3d_ns.views.shared_references import share_references

if TYPE_CHECKING:
    from difix3d_ns.ns.datamanager import SceneDatamanager
    from difix3d_ns.ns.model import SplatModel

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


@dataclass(frozen=True)
class _Seen:
    """What the splat shows at a photograph's pose; half precision is 100 times finer than what a warp tolerates."""

    step: int
    camera: Pinhole
    depth: Tensor  # [H, W, 1] float16
    alpha: Tensor  # [H, W, 1] float16
    mask: Tensor | None  # [H, W, 1] float16


class ReferenceViews:
    """Training photographs as references; what the splat shows at their poses is rendered anew when it has changed.

    Pictures stay as the datamanager caches them (8 bits) until they are chosen; four bytes a pixel are added.

    Args:
        datamanager: whose undistorted cache is read, lazily.
        model: whose splat is rendered, and whose camera optimizer moves the poses if it is on.
        max_age: training steps after which the splat's depth at the photographs counts as outdated. Between rounds the
            geometry moves little, and rendering all photographs costs as much as that many training steps.
        nearest: how many photographs, the nearest by pose, are looked at for a view. What a further one could add, one
            of 32 nearer ones shows as well, and large captures cost no more than small ones.
    """

    def __init__(self, datamanager: SceneDatamanager, model: SplatModel, max_age: int = 200, nearest: int = 32) -> None:
        self._datamanager = datamanager
        self._model = model
        self._max_age = max_age
        self._nearest = nearest
        self._seen: dict[int, _Seen] = {}
        self._fixed: list[Pinhole] | None = None

    def cameras(self) -> list[Pinhole]:
        """Cameras of all photographs, at their optimised poses."""
        assert self._datamanager.cached_train is not None  # undistorting fixes the intrinsics
        if self._fixed is not None:
            return self._fixed
        cameras = [self._camera(index) for index in range(len(self._datamanager.train_dataset))]
        if self._model.camera_optimizer.config.mode == "off":
            self._fixed = cameras
        return cameras

    def given_cameras(self) -> list[Pinhole]:
        """Cameras of all photographs, at the poses of the scene."""
        assert self._datamanager.cached_train is not None  # undistorting fixes the intrinsics
        return [self._given_camera(index) for index in range(len(self._datamanager.train_dataset))]

    def pictures(self, long_side: int) -> list[PosedImage]:
        """All photographs as they were taken, undistorted, at most ``long_side`` pixels; nothing is rendered."""
        pictures = []
        for index, camera in enumerate(self.cameras()):
            image, mask = self._image(index)
            pictures.append(PosedImage(image, camera, mask=mask).within(long_side))
        return pictures

    def prepare(self, cameras: Sequence[Pinhole], most: int) -> bool:
        """Render some of what choosing references for ``cameras`` needs.

        Args:
            cameras: of the views that are going to need references.
            most: how many photographs to render at; call again in the next training step for the others.

        Returns:
            Whether there was nothing left to render.
        """
        needed = dict.fromkeys(index for camera in cameras for index in self._candidates(camera))
        outdated = [index for index in needed if not self._is_fresh(index)]
        for index in outdated[:most]:
            self._look(index)
        return not outdated

    def choose(
        self,
        camera: Pinhole,
        depth: Tensor,
        alpha: Tensor,
        count: int,
        rendering: AbstractContextManager[Any] | None = None,
    ) -> list[PosedImage]:
        """The photographs that together show most of what is seen from ``camera``, most useful first.

        Args:
            camera: of the view.
            depth: [H, W, 1] median depth rendered there.
            alpha: [H, W, 1] opacity rendered there.
            count: how many.
            rendering: held during each single rendering of the splat.
        """
        return [self.reference(index) for index in self.choose_indices(camera, depth, alpha, count, rendering)]

    def choose_indices(
        self,
        camera: Pinhole,
        depth: Tensor,
        alpha: Tensor,
        count: int,
        rendering: AbstractContextManager[Any] | None = None,
        former: Sequence[int] = (),
    ) -> list[int]:
        """Positions in the training dataset of what ``choose`` returns, see there; ``former`` ones stay if they serve.

        Args:
            camera, depth, alpha, count, rendering: as there.
            former: positions chosen for the frame before, see ``share_references``.
        """
        if count < 1:
            return []
        candidates = self._candidates(camera)
        for index in candidates:
            if not self._is_fresh(index):
                with rendering or nullcontext():
                    self._look(index)
        seen = [self._seen[index] for index in candidates]
        kept = [candidates.index(index) for index in former if index in candidates]
        return [candidates[position] for position in share_references(camera, depth, alpha, seen, count, kept)]

    def standpoints(self) -> dict[str, Pinhole]:
        """Cameras of all photographs by name, as the scene gives them; no picture is opened, nothing undistorted."""
        cameras = self._datamanager.train_dataset.cameras
        return {name: to_pinhole(cameras[index]) for index, name in enumerate(self.names())}

    def names(self) -> list[str]:
        """File names of all photographs, with folders as far as they differ."""
        files = [str(path.absolute()) for path in self._datamanager.train_dataset.image_filenames]
        shared = Path(os.path.commonpath(files)) if len(files) > 1 else Path(files[0]).parent
        return [Path(file).relative_to(shared).as_posix() for file in files]

    def reference(self, index: int) -> PosedImage:
        """One photograph, with the splat's median depth and opacity at its pose, as they were last rendered."""
        if index not in self._seen:
            self._look(index)
        seen = self._seen[index]
        image, mask = self._image(index)
        return PosedImage(image, seen.camera, seen.depth.float(), seen.alpha.float(), mask)

    def forget(self) -> None:
        """Render anew at the next use."""
        self._seen.clear()

    def _candidates(self, camera: Pinhole) -> list[int]:
        """The nearest photographs by pose, in the order of the dataset."""
        cameras = self.cameras()
        if len(cameras) <= self._nearest:
            return list(range(len(cameras)))
        poses = stack_poses(cameras)
        distances = pose_distances(stack_poses([camera]), poses, spacing(poses))[0]
        return sorted(distances.topk(self._nearest, largest=False).indices.tolist())

    def _is_fresh(self, index: int) -> bool:
        return index in self._seen and 0 <= self._model.step - self._seen[index].step <= self._max_age

    def _look(self, index: int) -> None:
        mask = self._mask(self._datamanager.cached_train[index])  # first: undistorting fixes the intrinsics
        camera = self._camera(index)
        depth, alpha = self._model.median_depth(camera.camera_to_world, camera.intrinsics, camera.width, camera.height)
        largest = torch.finfo(torch.float16).max
        self._seen[index] = _Seen(
            self._model.step,
            camera,
            depth.clamp(max=largest).half(),
            alpha.half(),
            None if mask is None else mask.half(),
        )

    def _image(self, index: int) -> tuple[Tensor, Tensor | None]:  # [H, W, 3], [H, W, 1], in [0, 1]
        data = self._datamanager.cached_train[index]
        image = data["image"].to(self._model.device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        if image.shape[-1] == 4:
            image = self._model.composite_with_background(image, self._model.background_color.to(image))
        return image, self._mask(data)

    def _mask(self, data: dict[str, Tensor]) -> Tensor | None:  # [H, W, 1] in [0, 1]
        image = data["image"]
        mask = data["mask"].to(self._model.device, torch.float32) if "mask" in data else None
        if image.shape[-1] != 4:
            return mask
        opacity = image[..., 3:].to(self._model.device, torch.float32)
        opacity = opacity / 255 if image.dtype == torch.uint8 else opacity
        return opacity if mask is None else mask * opacity

    def _given_camera(self, index: int) -> Pinhole:
        return to_pinhole(self._datamanager.train_cameras[index : index + 1])

    def _camera(self, index: int) -> Pinhole:
        optimizer = self._model.camera_optimizer
        if optimizer.config.mode == "off":
            return self._given_camera(index)
        camera = self._datamanager.train_cameras[index : index + 1].to(self._model.device)
        camera.metadata = {"cam_idx": index}
        with torch.no_grad():
            return to_pinhole(camera, optimizer.apply_to_camera(camera)[0])
