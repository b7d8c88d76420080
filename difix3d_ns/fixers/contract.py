"""What a fixer is asked and what it answers (the contract every fixer keeps)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.reference import Reference

__all__ = ["FixRequest", "FixResult", "Fixer", "Reference"]


@dataclass(frozen=True)
class FixRequest:
    """A rendered picture to repair, what the splat knows about it, and photographs to lean on."""

    image: Tensor  # [H, W, 3] in [0, 1]
    references: Sequence[Reference] = ()
    camera: Pinhole | None = None
    depth: Tensor | None = None  # [H, W, 1] median depth of the splat along z, 0 where there is nothing
    alpha: Tensor | None = None  # [H, W, 1] accumulated opacity in [0, 1]
    seed: int = 0


@dataclass(frozen=True)
class FixResult:
    """The repaired picture and how far to trust it."""

    image: Tensor  # [H, W, 3] in [0, 1]
    confidence: Tensor  # [H, W, 1] in [0, 1]; 0 where no reference shows the pixel
    depth: Tensor | None = field(default=None)  # [H, W, 1] corrected depth, if the fixer has one


class Fixer(Protocol):
    """Repairs pictures. Any size, any number of references, deterministic under the request's seed."""

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch; results come in the order of the requests, on the requests' device, as float32."""
        ...
