"""The embedded fixer aligned by the splat alone, for the ablation.

--pipeline.guidance.fixer.name benchmarks.splat_depth
"""

from __future__ import annotations

import torch

from difix3d_ns.geometry.warp import warp_references
from difix3d_ns.priors import embedded
from difix3d_ns.priors.alignment.aligned_references import Aligned, select_references
from difix3d_ns.priors.base import FixRequest


class SplatDepth(embedded.EmbeddedFixer):
    """Its references lie where the splat says; nothing is searched for."""

    def _align(self, request: FixRequest) -> Aligned:
        if request.camera is None or request.depth is None or request.alpha is None or not request.references:
            return super()._align(request)
        known = (request.camera, request.image, request.depth, request.alpha)
        references = select_references(*known, request.references).references
        if not references:
            return super()._align(request)
        warps = warp_references(request.camera, request.depth, request.alpha, references)
        images, visibility = warps.images.permute(0, 3, 1, 2), warps.visibility.permute(0, 3, 1, 2)
        sure = (request.alpha.permute(2, 0, 1) > 0.5).float()
        return Aligned(images * (visibility > 0), visibility, request.depth, sure)


def load(
    weights: str | None = None, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> SplatDepth:
    """As the registry of fixers wants it."""
    return SplatDepth(embedded.load(weights, device or "cpu", dtype).chain)
