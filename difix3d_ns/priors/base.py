"""What a fixer is asked and what it answers (the contract every fixer keeps)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage

__all__ = ["FixRequest", "FixResult", "Fixer", "PosedImage", "finite"]


@dataclass(frozen=True)
class FixRequest:
    """A rendered picture to repair, what the splat knows about it, and photographs to lean on."""

    image: Tensor  # [H, W, 3] in [0, 1]
    references: Sequence[PosedImage] = ()
    camera: Pinhole | None = None
    depth: Tensor | None = None  # [H, W, 1] median depth of the splat along z, 0 where there is nothing
    alpha: Tensor | None = None  # [H, W, 1] accumulated opacity in [0, 1]
    seed: int = 0


@dataclass(frozen=True)
class FixResult:
    """The repaired picture and how far to trust it."""

    image: Tensor  # [H, W, 3] in [0, 1]
    confidence: Tensor  # [H, W, 1] in [0, 1]; 0 where no reference shows the pixel
    depth: Tensor | None = None  # [H, W, 1] corrected depth along z, 0 where unknown, if the fixer has one
    depth_confidence: Tensor | None = None  # [H, W, 1] how far to trust the corrected depth; None: as the picture


class Fixer(Protocol):
    """Repairs pictures. Any size, any number of references, deterministic under the request's seed."""

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch; results come in the order of the requests, on the requests' device, as float32."""
        ...


def finite(request: FixRequest) -> FixRequest:
    """The request with black instead of NaN and infinity; nothing is seen there, and references are masked there."""
    gaps = ~request.image.isfinite().all(-1, keepdim=True)  # [H, W, 1]
    if bool(gaps.any()):
        alpha = None if request.alpha is None else request.alpha.masked_fill(gaps.to(request.alpha.device), 0)
        request = replace(request, image=request.image.masked_fill(gaps, 0), alpha=alpha)
    if all(bool(reference.image.isfinite().all()) for reference in request.references):
        return request
    return replace(request, references=[_finite(reference) for reference in request.references])


def _finite(reference: PosedImage) -> PosedImage:
    gaps = ~reference.image.isfinite().all(-1, keepdim=True)
    mask = torch.ones_like(reference.image[..., :1]) if reference.mask is None else reference.mask
    return replace(reference, image=reference.image.masked_fill(gaps, 0), mask=mask.masked_fill(gaps, 0))
