"""The embedded fixer trusted everywhere, for the ablation.

--pipeline.guidance.fixer.name benchmarks.no_confidence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from difix3d_ns.priors import embedded
from difix3d_ns.priors.base import FixRequest, FixResult


class Trusting(embedded.EmbeddedFixer):
    """Its confidence is 1."""

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``, but for the confidence)."""
        return [replace(result, confidence=torch.ones_like(result.confidence)) for result in super().fix(requests)]


def load(weights: str | None = None, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Trusting:
    """As the registry of fixers wants it."""
    return Trusting(embedded.load(weights, device or "cpu", dtype).chain)
