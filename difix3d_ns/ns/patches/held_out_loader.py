"""nerfstudio's loader of photos for ns-render dataset: without any it ends in a sentence, and alpha is laid out."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from torch import Tensor

from difix3d_ns.ns.held_out_photos import none_held_out
from difix3d_ns.ns.photo_dataset import PhotoDataset

_init = FixedIndicesEvalDataloader.__init__
_get_camera = FixedIndicesEvalDataloader.get_camera
_backgrounds: list[Tensor] = []  # of the pipeline that was made last


def apply() -> None:
    """Replace the loader's initializer, and how it gets a photo."""
    FixedIndicesEvalDataloader.__init__ = _checked_init  # type: ignore[method-assign]
    FixedIndicesEvalDataloader.get_camera = _get_composed  # type: ignore[assignment,method-assign]


def compose_before(colour: Tensor) -> None:
    """Lay photos with alpha before a colour [3], as renders have it; nerfstudio shows four channels in false ones."""
    _backgrounds[:] = [colour]


def _checked_init(self: FixedIndicesEvalDataloader, input_dataset: Any, *args: Any, **kwargs: Any) -> None:
    if isinstance(input_dataset, PhotoDataset) and len(input_dataset) == 0:
        raise none_held_out("so there is none to render: add --split train for those trained on")
    _init(self, input_dataset, *args, **kwargs)


def _get_composed(self: FixedIndicesEvalDataloader, image_idx: int = 0) -> tuple[Cameras, dict[str, Any]]:
    camera, batch = _get_camera(self, image_idx)
    image = batch["image"]
    if isinstance(self.input_dataset, PhotoDataset) and image.shape[-1] == 4 and _backgrounds:
        colour = _backgrounds[0].to(image)
        batch["image"] = torch.lerp(colour.expand_as(image[..., :3]), image[..., :3], image[..., 3:])
    return camera, batch
