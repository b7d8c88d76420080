"""Affine colour change of each photograph by its camera: exposure, white balance, a little contrast."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Exposures(nn.Module):
    """An affine colour change per training photograph (Kerbl et al., "A Hierarchical 3D Gaussian Representation").

    A render times a matrix plus an offset is compared with the photograph. The mean over all photographs of the
    matrices is exactly 1 and of the offsets 0: what all photographs share belongs to the splat, or its brightness
    would be undefined.
    """

    def __init__(self, photographs: int) -> None:
        """Start without any change.

        Args:
            photographs: their number.
        """
        super().__init__()
        self.residual = nn.Parameter(torch.zeros(photographs, 3, 4))  # change and offset, up to what all share

    def affine(self) -> Tensor:
        """Matrix and offset of each photograph [N, 3, 4]; their mean is the identity and no offset."""
        identity = torch.eye(3, 4, dtype=self.residual.dtype, device=self.residual.device)
        return identity + self.residual - self.residual.mean(0, keepdim=True)

    def forward(self, rgb: Tensor, photograph: int) -> Tensor:
        """Apply the exposure of a photograph to a render.

        Args:
            rgb: [H, W, 3] in [0, 1].
            photograph: its number in the training set.

        Returns:
            [H, W, 3], clamped to [0, 1] as photographs are.
        """
        affine = self.affine()[photograph]
        return (rgb @ affine[:, :3].T + affine[:, 3]).clamp(0, 1)

    def deviation(self) -> Tensor:
        """Mean over photographs [] of the squared difference from no change, in all twelve numbers."""
        return (self.residual - self.residual.mean(0, keepdim=True)).square().sum((1, 2)).mean()
