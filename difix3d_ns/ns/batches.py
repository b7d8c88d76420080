"""Training views as nerfstudio's cameras and batches, and photographs as training views."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.views.view import TrainView


def to_batch(view: TrainView, device: torch.device) -> tuple[Cameras, dict[str, Any]]:
    """What nerfstudio trains a step on.

    A view that stands for a photograph has its index, so that its exposure, pose correction and bilateral grid apply;
    any other has none, and they stay out of it.
    """
    camera = to_cameras(view.camera, device)
    batch: dict[str, Any] = {"image": view.image}
    if view.valid is not None:
        batch["mask"] = view.valid
    if view.photo is not None:
        camera.metadata = {"cam_idx": view.photo}
        batch["image_idx"] = view.photo
    return camera, batch


def photo_view(batch: dict[str, Any], camera: Pinhole, background: Tensor) -> TrainView:
    """A photograph that nerfstudio drew.

    Args:
        batch: as its datamanager made it.
        camera: undistorted, at the pose of the scene.
        background: [3] of the step's render, behind a cut-out object.
    """
    image = batch["image"]
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    if image.shape[-1] == 4:
        image = image[..., :3] * image[..., 3:] + background.to(image) * (1 - image[..., 3:])
    index = int(batch["image_idx"])
    valid = batch["mask"].to(image) if "mask" in batch else None
    return TrainView(f"photo/{index:04d}", camera, image, photo=index, valid=valid)
