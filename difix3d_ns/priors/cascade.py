"""Any fixer, then ``aligned-blend``: what the first makes up gives way to what the photographs show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from difix3d_ns.priors.base import Fixer, FixRequest, FixResult
from difix3d_ns.priors.registry import fixer_of, load_fixer

Reference = TypeVar("Reference")


class CascadeFixer(Fixer):
    """Fixers in a row, each repairing the picture of the one before.

    The first is shown no more references than in its training, the most useful ones; the second all of them.
    """

    def __init__(self, first: Fixer, second: Fixer):
        self.first, self.second = first, second

    aligns = True  # the second does

    @property
    def trained_references(self) -> int | None:
        """Maximum over both: the other was then shown fewer."""
        known = [n for n in (self.first.trained_references, self.second.trained_references) if n is not None]
        return max(known, default=None)

    @property
    def default_references(self) -> int:
        """Maximum over both."""
        return max(self.first.default_references, self.second.default_references)

    def describe(self, references: int) -> str:
        """Sentence on what the first does with its share of them (see ``Fixer``)."""
        return self.first.describe(len(self._of_first(range(references))))

    @property
    def generative(self) -> bool:
        """True if either is: what the first makes up stays where no photograph shows anything."""
        return self.first.generative or self.second.generative

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``); the confidence of a finite pixel is the larger of theirs."""
        before = self.first.fix(
            [replace(request, references=self._of_first(request.references)) for request in requests]
        )
        after = self.second.fix(
            [replace(request, image=result.image) for request, result in zip(requests, before, strict=True)]
        )
        return [
            replace(last, confidence=torch.maximum(last.confidence, result.confidence) * _is_finite(request))
            for request, result, last in zip(requests, before, after, strict=True)
        ]

    def _of_first(self, references: Sequence[Reference]) -> Sequence[Reference]:
        return references[: self.first.trained_references]


def _is_finite(request: FixRequest) -> Tensor:
    """Mask [H, W, 1] of finite pixels: elsewhere the second would be confident of what the first put there."""
    return request.image.isfinite().all(-1, keepdim=True)


def load(
    weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> CascadeFixer:
    """Create the cascade, whose first fixer ``weights`` names: the folder or hub id of Difix weights, or a fixer.

    Raises:
        ValueError: it is not given, or is ``cascade`` itself.
    """
    if weights in (None, "cascade"):
        raise ValueError(
            "the fixer cascade needs --pipeline.guidance.fixer.weights (or --weights): what runs before aligned-blend, "
            "such as nvidia/difix_ref"
        )
    name, inner = fixer_of(str(weights))
    where = str(device)
    return CascadeFixer(load_fixer(name, inner, where, dtype), load_fixer("aligned-blend", None, where, dtype))
