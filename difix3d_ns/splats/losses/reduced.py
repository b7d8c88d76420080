"""Loss between a render, reduced, and the smaller photograph it should show."""

from __future__ import annotations

from torch import Tensor

from difix3d_ns.geometry.resampling import resample
from difix3d_ns.splats.losses.ssim import FusedSSIM

D_SSIM = 0.2
"""share of 1 - SSIM, as in the loss at full size (Kerbl et al. 2023)"""


class ReducedLoss:
    """L1 and 1 - SSIM of a render that is reduced to the size of a photograph, antialiased and bicubic."""

    def __init__(self) -> None:
        self._ssim = FusedSSIM()

    def __call__(self, picture: Tensor, low: Tensor, used: Tensor | None = None) -> Tensor:
        """Compute the loss; where the picture is the smaller one, as early renders are, the photograph is reduced.

        Args:
            picture: [1, 3, H, W] in [0, 1], of which gradients are wanted.
            low: [1, 3, h, w] in [0, 1].
            used: [1, 1, h, w] in [0, 1]; where it is 0, the two are not compared.

        Returns:
            [] at least 0.
        """
        size = [min(sides) for sides in zip(picture.shape[-2:], low.shape[-2:], strict=True)]
        picture, low = resample(picture, *size), resample(low, *size)
        if used is not None:
            used = resample(used, *size).clamp(0, 1)
            picture, low = picture * used, low * used
        similarity: Tensor = self._ssim(low, picture)
        return (1 - D_SSIM) * (picture - low).abs().mean() + D_SSIM * (1 - similarity)
