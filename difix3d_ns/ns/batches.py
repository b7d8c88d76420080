"""Training views as nerfstudio's cameras and batches, and photographs as training views."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.views.view import TrainView


def to_batch(view: TrainView) -> tuple[Cameras, dict[str, Any]]:
    """Convert a view to what nerfstudio trains a step on: a camera on the CPU, and maps where the view's are.

    A view that stands for a photograph has its index, so that its exposure, pose correction and bilateral grid apply;
    any other has none, and they stay out of it.
    """
    camera = to_cameras(view.camera)
    batch: dict[str, Any] = {"image": view.image}
    if view.valid is not None:
        batch["mask"] = view.valid
    if view.photo is not None:
        camera.metadata = {"cam_idx": view.photo}
        batch["image_idx"] = view.photo
    return camera, batch


def unit_range(image: Tensor) -> Tensor:
    """Convert a cached picture, which may have 8 bits, to numbers in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def photo_view(batch: dict[str, Any], camera: Pinhole, image: Tensor) -> TrainView:
    """Return a photograph that nerfstudio drew.

    Args:
        batch: as its datamanager made it.
        camera: undistorted, at the pose of the scene.
        image: [H, W, 3] its picture; a cut-out object stands before the background of the step's render.
    """
    index = int(batch["image_idx"])
    valid = batch["mask"].to(image) if "mask" in batch else None
    return TrainView(f"photo/{index:04d}", camera, image, photo=index, valid=valid)
