"""A fixer of somebody else's package, which knows no more of the contract than it needs: grain, drawn by the seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from difix3d_ns.priors.base import FixRequest, FixResult, finite
from difix3d_ns.priors.blend import visible_in_any, warp_request


class Grain:
    """Adds grain where a reference shows the surface. Says nothing about its training."""

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        return [self._fix(finite(request)) for request in requests]

    def _fix(self, request: FixRequest) -> FixResult:
        generator = torch.Generator().manual_seed(request.seed)
        grain = 0.1 * torch.randn(request.image.shape, generator=generator).to(request.image.device)
        seen = visible_in_any(warp_request(request).visibility)
        return FixResult((request.image.float() + seen * grain).clamp(0, 1), seen.float())


def load(weights: str | None = None, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Grain:
    return Grain()
