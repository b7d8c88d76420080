"""Fixers that are shown fewer photographs, to measure what photographs are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from difix3d_ns.priors.base import Fixer, FixRequest, FixResult


class Shown:
    """A fixer that sees only the first references of each request.

    Args:
        fixer: which.
        count: how many references.
    """

    def __init__(self, fixer: Fixer, count: int):
        self._fixer, self._count = fixer, count
        self.trained_references, self.generative = fixer.trained_references, fixer.generative

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``)."""
        return self._fixer.fix([replace(r, references=r.references[: self._count]) for r in requests])
