"""A U-Net that chooses, per pixel, among the render and its warped references."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difix3d_ns.priors.alignment.aligned_references import MAX_REFERENCES


def silence(layer: nn.Module) -> None:
    """Set weights and bias to zero, so that a residual layer begins as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        silence(self.second)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(F.silu(self.first(F.silu(hidden))))


class BlendNet(nn.Module):
    """Masked softmax over {render, warps}, plus a residual that starts at zero.

    At initialisation it is the visibility-weighted mean with the render counted once. Without normalisation layers, so
    that a crop and a whole picture are treated alike. The pictures stay in their own precision, whatever the network's.

    Args:
        widths: channels of the three levels.
    """

    def __init__(self, widths: tuple[int, int, int] = (48, 80, 128)):
        super().__init__()
        first, second, third = widths
        inputs = 4 * (4 + MAX_REFERENCES * 4)  # render and alpha, warps and visibilities; four pixels each
        self.enter = nn.Conv2d(inputs, first, 3, padding=1)
        self.down1 = nn.Conv2d(first, second, 2, stride=2)
        self.down2 = nn.Conv2d(second, third, 2, stride=2)
        self.level1 = _Block(first)
        self.level2 = _Block(second)
        self.level3 = nn.Sequential(_Block(third), _Block(third))
        self.up2 = nn.Conv2d(third, second * 4, 1)
        self.up1 = nn.Conv2d(second, first * 4, 1)
        self.after2 = _Block(second)
        self.after1 = _Block(first)
        self.leave = nn.Conv2d(first, 4 * (3 + 1 + MAX_REFERENCES), 3, padding=1)
        silence(self.leave)

    def forward(self, image: Tensor, alpha: Tensor, warps: Tensor, visibility: Tensor) -> tuple[Tensor, Tensor]:
        """Blend the render with its warped references.

        Args:
            image: [B, 3, H, W] in [0, 1], the render.
            alpha: [B, 1, H, W] in [0, 1].
            warps: [B, MAX_REFERENCES, 3, H, W] in [0, 1]; empty places have visibility 0.
            visibility: [B, MAX_REFERENCES, 1, H, W] in [0, 1].

        Returns:
            The blend [B, 3, H, W] (not clamped; exactly the render where nothing is visible) and the weights
            [B, 1 + MAX_REFERENCES, H, W] of render and warps, which sum to 1.
        """
        height, width = image.shape[-2:]
        # Differences to the render tell agreement at once; where a warp sees nothing the difference is zero.
        difference = (warps - image[:, None]) * visibility
        features = torch.cat([image - 0.5, alpha, difference.flatten(1, 2), visibility.flatten(1, 2)], 1)
        features = F.pixel_unshuffle(F.pad(features, (0, -width % 8, 0, -height % 8), mode="replicate"), 2)
        level1 = self.level1(self.enter(features.to(self.enter.weight.dtype)))
        level2 = self.level2(self.down1(level1))
        level3 = self.level3(self.down2(level2))
        level2 = self.after2(level2 + F.pixel_shuffle(self.up2(level3), 2))
        level1 = self.after1(level1 + F.pixel_shuffle(self.up1(level2), 2))
        out = F.pixel_shuffle(self.leave(F.silu(level1)), 2)[..., :height, :width].to(image.dtype)
        masks = torch.cat([torch.ones_like(alpha), visibility.flatten(1, 2)], 1)
        scores = out[:, 3:].clamp(-15, 15).exp() * masks
        weights = scores / scores.sum(1, keepdim=True)
        seen = visibility.amax(1)
        blend = image + (weights[:, 1:, None] * (warps - image[:, None])).sum(1) + out[:, :3] * seen
        return blend, weights
