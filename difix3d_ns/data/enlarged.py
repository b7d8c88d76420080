"""A scene as it would be known from smaller photographs: enlarged again, or small as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from difix3d_ns.data.capture import Capture
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.point_depth import point_depth
from difix3d_ns.geometry.resampling import back_project, resample, resampled


def enlarged(capture: Capture, factor: int) -> Capture:
    """The capture with photographs that were reduced by a factor and enlarged again, by back-projection."""
    return replace(capture, images=[_enlarged(image, factor) for image in capture.images])


def reduced(capture: Capture, factor: int) -> Capture:
    """The capture with photographs that were reduced by a factor, and their cameras."""
    images = [_reduced(image, factor) for image in capture.images]
    cameras = [
        camera.resized(image.shape[1], image.shape[0]) for camera, image in zip(capture.cameras, images, strict=True)
    ]
    masks = None if capture.masks is None else [_reduced(mask, factor) for mask in capture.masks]
    return replace(capture, images=images, cameras=cameras, masks=masks, depths=None)


ENLARGEMENTS: dict[str, Callable[[Capture], Capture]] = {
    "enlarged_4": partial(enlarged, factor=4),
    "enlarged_2": partial(enlarged, factor=2),
    "reduced_4": partial(reduced, factor=4),
}
"""Units of the strategy ``enlarged``: what their splats are trained on."""


@dataclass(frozen=True)
class Stills:
    """Pictures in place of a splat."""

    cameras: list[Pinhole]
    images: list[Tensor]
    points: Tensor | None = None  # [P, 3] world, for sparse depth

    @classmethod
    def enlarged(cls, capture: Capture, factor: int = 4) -> Stills:
        """The photographs of a capture, reduced by a factor and enlarged again."""
        return cls(capture.cameras, enlarged(capture, factor).images)

    @property
    def means(self) -> Tensor:
        """No Gaussians, [0, 3]."""
        return torch.zeros(0, 3)

    def render(self, camera: Pinhole) -> tuple[Tensor, Tensor, Tensor]:
        """Image [H, W, 3] of one of the cameras, depth [H, W, 1] of points (0: unknown), alpha [H, W, 1]."""
        image = next(image for own, image in zip(self.cameras, self.images, strict=True) if own is camera)
        depth = torch.zeros_like(image[..., :1]) if self.points is None else point_depth(self.points, camera)
        return image, depth, torch.ones_like(image[..., :1])


def _reduced(image: Tensor, factor: int) -> Tensor:
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    return resampled(image, height, width).contiguous()


def _enlarged(image: Tensor, factor: int) -> Tensor:
    low = _reduced(image, factor).permute(2, 0, 1)[None]
    high = back_project(resample(low, *image.shape[:2]).clamp(0, 1), low)
    return high[0].permute(1, 2, 0).contiguous()
