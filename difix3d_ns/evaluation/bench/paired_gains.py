"""Paired differences of the same scene and seed, counted so that more is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from difix3d_ns.evaluation.table import METRICS

COMPARED = ("psnr", "cc_psnr", "ssim", "flip", "lpips_alex", "lpips_vgg", "high_pass", "low_psnr", "agreement")


@dataclass(frozen=True)
class Gain:
    """A paired difference, counted so that more is better."""

    mean: float
    error: float | None  # standard error of the mean; None of a single value
    count: int  # of values it is the mean of

    @classmethod
    def of(cls, values: Sequence[float]) -> Gain:
        """Mean and standard error of differences that are independent of each other."""
        spread = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(fmean(values), spread, len(values))

    def is_near(self, bar: float) -> bool:
        """True if a bar lies within the standard error."""
        return self.error is not None and abs(self.mean - bar) < self.error


def differences(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], metric: str) -> list[float]:
    """Gains of the first over the second of each pair of metrics; none where one of them lacks the metric."""
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    if any(values.get(metric) is None for pair in pairs for values in pair):
        return []
    return [sign * (first[metric] - second[metric]) for first, second in pairs]
