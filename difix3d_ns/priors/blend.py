"""The naive blend: references warped by median depth, weighted by visibility. No network; the baseline to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from difix3d_ns.geometry.warp import Warps, warp_references
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult, finite


def warp_request(request: FixRequest) -> Warps:
    """Warp the request's references into its view; all visibilities are 0 where the geometry is not known."""
    height, width = request.image.shape[:2]
    if request.camera is None or request.depth is None or request.alpha is None or not request.references:
        images = request.image.new_zeros(len(request.references), height, width, 3, dtype=torch.float32)
        return Warps(images, images[..., :1].clone())
    return warp_references(request.camera, request.depth, request.alpha, request.references)


def visible_in_any(visibility: Tensor) -> Tensor:
    """Confidence [...] that at least one reference shows the pixel, from visibilities [K, ...]."""
    return 1 - (1 - visibility).prod(0)


class BlendFixer(Fixer):
    """Visibility-weighted mean of the warped references; the render itself shows through where they do not see."""

    trained_references = None  # any number does
    generative = False
    aligns = True

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``)."""
        return [self._fix(finite(request)) for request in requests]

    @torch.no_grad()
    def _fix(self, request: FixRequest) -> FixResult:
        warps = warp_request(request)
        image = request.image.to(warps.images.dtype)
        total = warps.visibility.sum(0)
        mean = (warps.visibility * warps.images).sum(0) / total.clamp_min(1e-6)
        confidence = visible_in_any(warps.visibility)
        return FixResult(image=torch.lerp(image, mean, confidence).float(), confidence=confidence.float())


def load(
    weights: str | None = None, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> BlendFixer:
    """Create the blend, which has no weights; it works wherever its requests are."""
    return BlendFixer()
