"""The training photographs of a nerfstudio datamanager, as guidance and enhancer see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.initialization.estimated_depths import completed
from difix3d_ns.io.file_names import distinct_names
from difix3d_ns.io.transfers import sent
from difix3d_ns.ns.batches import unit_range
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.datamanager import SceneDatamanager
from difix3d_ns.ns.photo_depths import PhotoDepths
from difix3d_ns.views.protocols import PhotoDepth


class SceneModel(Protocol):
    """The part of a model that a scene uses."""

    @property
    def background_color(self) -> Tensor:
        """Colour [3]."""
        ...

    @property
    def camera_optimizer(self) -> CameraOptimizer:
        """Correction of the training poses."""
        ...

    @property
    def seed_points(self) -> tuple[Tensor, Tensor] | None:
        """Positions [N, 3] world, colours [N, 3] uint8."""
        ...

    @property
    def device(self) -> torch.device:
        """Device photographs are moved to."""
        ...

    def composite_with_background(self, image: Tensor, background: Tensor) -> Tensor:
        """Put a picture [H, W, 4] before a colour [3]; [H, W, 3] stays as it is."""
        ...


class TrainingScene:
    """Undistorted photographs with their true cameras; see ``views.protocols.Scene``.

    Pictures stay as the datamanager caches them (8 bits) until they are needed.

    Args:
        datamanager: whose undistorted cache is read, lazily.
        model: whose camera optimizer moves the poses if it is on, and whose background lies behind cut-out objects.
    """

    def __init__(self, datamanager: SceneDatamanager, model: SceneModel) -> None:
        self._datamanager = datamanager
        self._model = model
        self._unoptimized: dict[int, Pinhole] = {}
        scale = datamanager.train_dataparser_outputs.dataparser_scale
        self.depths = PhotoDepths(datamanager.train_dataset, scale, self.mask)
        self.estimates: Sequence[PhotoDepth] = []
        """depth of each photograph that a prior estimated, on the model's device; none if none did"""

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self._datamanager.train_dataset)

    def points(self) -> Tensor | None:
        """Points [P, 3] that training starts from, world; None if they are random."""
        return self._model.seed_points[0] if self._model.seed_points is not None else None

    def given_points(self) -> Tensor | None:
        """Points [P, 3] as the scene gives them, world; None if it has none."""
        return self._datamanager.train_dataparser_outputs.metadata.get("points3D_xyz")

    def names(self) -> list[str]:
        """File names of all photographs, with folders as far as they differ."""
        return distinct_names(self._datamanager.train_dataset.image_filenames)

    def generated(self, index: int) -> bool:
        """Return whether a photograph is none: a generator made it."""
        made = self._datamanager.train_dataparser_outputs.metadata.get("generated")
        return bool(made and made[index])

    def cameras(self) -> list[Pinhole]:
        """Cameras of all photographs, undistorted, at their optimised poses."""
        return [self.camera(index) for index in range(len(self))]

    def unoptimized_cameras(self) -> list[Pinhole]:
        """Cameras of all photographs, undistorted, at the poses of the scene."""
        return [self.unoptimized_camera(index) for index in range(len(self))]

    def unoptimized_camera(self, index: int) -> Pinhole:
        """Camera of a photograph, undistorted, at the pose of the scene."""
        if index not in self._unoptimized:
            self._unoptimized[index] = to_pinhole(self._datamanager.train_dataset.cameras[index : index + 1])
        return self._unoptimized[index]

    def evaluation_cameras(self) -> list[Pinhole]:
        """Cameras of the evaluation photographs; none if there are none."""
        if not self._datamanager.eval_dataset:
            return []
        cameras = self._datamanager.eval_dataset.cameras
        return [to_pinhole(cameras[i : i + 1]) for i in range(len(cameras))]

    def photo(self, index: int) -> PosedImage:
        """A photograph [H, W, 3] with its camera, and a mask [H, W, 1] if it has a mask or alpha."""
        image = unit_range(sent(self._datamanager.cached_train[index]["image"], self._model.device))
        image = self._model.composite_with_background(image, self.background)
        return PosedImage(image, self.camera(index), mask=self.mask(index))

    def mask(self, index: int) -> Tensor | None:
        """Mask of what a photograph shows [H, W, 1] in [0, 1], by its mask and its alpha; None: all of it."""
        mask, opacity = self.used(index), self.alpha(index)
        if mask is None or opacity is None:
            return opacity if mask is None else mask
        return mask * opacity

    def used(self, index: int) -> Tensor | None:
        """Pixels of a photograph that are used [H, W, 1] in [0, 1], transparent ones among them; None: all."""
        data = self._datamanager.cached_train[index]
        return data["mask"].to(self._model.device, torch.float32) if "mask" in data else None

    def alpha(self, index: int) -> Tensor | None:
        """Silhouette of a cut-out photograph [H, W, 1] in [0, 1]; None if it is not cut out."""
        image = self._datamanager.cached_train[index]["image"]
        return unit_range(image[..., 3:].to(self._model.device)) if image.shape[-1] == 4 else None

    @property
    def background(self) -> Tensor:
        """Colour [3] that cut-out photographs stand before."""
        return sent(self._model.background_color, self._model.device)

    def depth(self, index: int, share: float = 1.0) -> PhotoDepth | None:
        """Return the depth that came with a photograph, completed by its estimate, undistorted; None if it has neither.

        Args:
            index: of the photograph.
            share: of its confidence that an estimate gets.
        """
        measured = self.depths.of(index, self._model.device)
        if not self.estimates or share <= 0:
            return measured
        one = self.estimates[index]
        estimate = PhotoDepth(one.depth, share * one.confidence)
        return estimate if measured is None else completed(measured, estimate)

    def camera(self, index: int) -> Pinhole:
        """Camera of a photograph at its optimised pose."""
        optimizer = self._model.camera_optimizer
        if optimizer.config.mode == "off":
            return self.unoptimized_camera(index)
        camera = self._datamanager.train_dataset.cameras[index : index + 1]
        camera.metadata = {"cam_idx": index}
        with torch.no_grad():
            return to_pinhole(camera, optimizer.apply_to_camera(camera)[0])
