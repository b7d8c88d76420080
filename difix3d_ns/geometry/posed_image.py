"""A picture with its camera, and the splat's depth and opacity there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.transfers import moved


@dataclass(frozen=True)
class PosedImage:
    """A photograph and, where known, its camera and the splat seen from there.

    Without ``camera`` it can be shown to a network but not warped; ``depth`` and ``alpha`` come together or not at all.
    """

    image: Tensor  # [H_k, W_k, 3] in [0, 1]
    camera: Pinhole | None = None
    depth: Tensor | None = None  # [H_k, W_k, 1] median depth of the splat along z, 0 where there is nothing
    alpha: Tensor | None = None  # [H_k, W_k, 1] accumulated opacity in [0, 1]
    mask: Tensor | None = None  # [H_k, W_k, 1] in [0, 1]; 0 = these pixels of the photograph are not to be used

    @property
    def pose(self) -> Pinhole:
        """Camera of the picture.

        Raises:
            ValueError: it has none.
        """
        if self.camera is None:
            raise ValueError("a picture without a camera cannot be placed in the scene")
        return self.camera

    def to(self, device: torch.device | str) -> PosedImage:
        """Return the same picture with its maps on ``device``; its camera stays where it is."""
        return moved(self, device)

    def within(self, long_side: int) -> PosedImage:
        """Picture, mask and camera shrunk to at most ``long_side`` pixels, without depth and alpha.

        Raises:
            ValueError: it has no camera.
        """
        camera = self.pose.within(long_side)
        size = (camera.height, camera.width)
        mask = None if self.mask is None else resized(self.mask, *size)
        return PosedImage(resized(self.image, *size), camera, mask=mask)
