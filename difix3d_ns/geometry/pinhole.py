"""A pinhole camera in the convention of gsplat and OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.io.transfers import sent


@dataclass(frozen=True)
class Pinhole:
    """Pose, intrinsics and size of a camera.

    Axes are OpenCV's (x right, y down, z forward); lengths are in scene units. Pixel centres lie at +0.5, so the
    ray of the pixel in column u, row v is ``K^-1 [u + 0.5, v + 0.5, 1]``.
    """

    camera_to_world: Tensor  # [4, 4]
    intrinsics: Tensor  # [3, 3], pixels
    width: int
    height: int

    @classmethod
    def of_state(cls, state: Sequence[Any]) -> Pinhole:
        """Return the camera of what ``state`` returned."""
        return cls(*state)

    def state(self) -> list[Any]:
        """Return what a checkpoint holds: pose and intrinsics in float32, width, height."""
        return [self.camera_to_world.float(), self.intrinsics.float(), self.width, self.height]

    @property
    def world_to_camera(self) -> Tensor:
        """World-to-camera matrix [4, 4]: the inverse of the rigid ``camera_to_world``."""
        rotation = self.camera_to_world[:3, :3].T
        inverse = torch.eye(4, dtype=rotation.dtype, device=rotation.device)
        inverse[:3, :3] = rotation
        inverse[:3, 3] = -rotation @ self.camera_to_world[:3, 3]
        return inverse

    @property
    def position(self) -> Tensor:
        """Centre of the camera [3], world."""
        return self.camera_to_world[:3, 3]

    @property
    def forward(self) -> Tensor:
        """Viewing direction [3], world, unit length."""
        return self.camera_to_world[:3, 2]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Pinhole:
        """Copy the camera with its tensors on ``device``."""
        return Pinhole(
            sent(self.camera_to_world.to(dtype=dtype), device),
            sent(self.intrinsics.to(dtype=dtype), device),
            self.width,
            self.height,
        )

    def resized(self, width: int, height: int) -> Pinhole:
        """Copy the camera with another number of pixels over the same field of view."""
        scale = torch.tensor(
            [width / self.width, height / self.height, 1.0],
            dtype=self.intrinsics.dtype,
            device=self.intrinsics.device,
        )
        return Pinhole(self.camera_to_world, self.intrinsics * scale[:, None], width, height)

    def within(self, long_side: int) -> Pinhole:
        """Shrink the camera to at most ``long_side`` pixels, aspect kept."""
        factor = min(1.0, long_side / max(self.width, self.height))
        return self.resized(max(1, round(self.width * factor)), max(1, round(self.height * factor)))
