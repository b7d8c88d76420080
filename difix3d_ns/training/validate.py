"""Metrics of priors on scenes that were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from difix3d_ns.data.shards import Sample, keys_of, read_shards
from difix3d_ns.metrics.image import image_metrics, mean_metrics
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult

Metrics = dict[str, float]
Make = Callable[[Sample], Tensor]
"""What is compared with a sample's truth: a picture [H, W, 3] in [0, 1] made of the rest of it."""


def repairs(fixers: Mapping[str, Fixer]) -> dict[str, Make]:
    """Functions that repair a sample, one for each fixer."""
    return {name: partial(_repaired, fixer) for name, fixer in fixers.items()}


def _repaired(fixer: Fixer, sample: Sample) -> Tensor:
    return fixer.fix([sample.request])[0].image


class ShownOtherwise(Fixer):
    """Base of a fixer that is shown other requests than it is given.

    Args:
        fixer: which.
    """

    def __init__(self, fixer: Fixer):
        self._fixer = fixer

    @property
    def trained_references(self) -> int | None:
        """As of the fixer."""
        return self._fixer.trained_references

    @property
    def generative(self) -> bool:
        """As of the fixer."""
        return self._fixer.generative


class LimitReferences(ShownOtherwise):
    """A fixer that is shown only the first references of each request, to measure the gain by photographs.

    Args:
        fixer: which.
        count: how many references.
    """

    def __init__(self, fixer: Fixer, count: int):
        super().__init__(fixer)
        self._count = count

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``)."""
        return self._fixer.fix([replace(r, references=r.references[: self._count]) for r in requests])


class Row(NamedTuple):
    """Metrics of one sample."""

    scene: str
    strategy: str
    metrics: dict[str, Metrics]  # by variant


def choose_samples(shards: Sequence[Path], count: int, rank: int = 0, processes: int = 1) -> list[Sample]:
    """Read evenly spaced samples of all shards, this process' share of them."""
    keys = [(shard, key) for shard in shards for key in keys_of(shard)]
    count = min(count, len(keys))
    chosen = [keys[i * len(keys) // count] for i in range(count)][rank::processes]
    wanted = {key for _, key in chosen}
    needed = [shard for shard in shards if any(shard == home for home, _ in chosen)]
    return [sample for sample in read_shards(needed) if sample.key in wanted]


@torch.no_grad()
def measure(
    samples: Sequence[Sample],
    variants: Mapping[str, Make],
    on_sample: Callable[[Sample, dict[str, Tensor]], object] = lambda sample, pictures: None,
) -> list[Row]:
    """PSNR, SSIM and FLIP of every variant on every sample.

    Args:
        samples: with their truth.
        variants: by name.
        on_sample: called after each with the pictures [H, W, 3] by variant.
    """
    rows = []
    for sample in samples:
        pictures = {name: make(sample) for name, make in variants.items()}
        metrics = {name: image_metrics(picture, sample.truth) for name, picture in pictures.items()}
        scene, _, _ = sample.key.partition("/")
        rows.append(Row(scene, str(sample.provenance.get("strategy", "unknown")), metrics))
        on_sample(sample, pictures)
    return rows


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over all samples by variant, and the same per scene and per strategy.

    Returns:
        {variant: metrics, ..., "samples": count, "scenes": {scene: {variant: metrics}}, "strategies": alike}.
    """

    def means(of: Sequence[Row]) -> dict[str, Metrics]:
        return {name: mean_metrics([row.metrics[name] for row in of]) for name in of[0].metrics}

    def by(kind: Callable[[Row], str]) -> dict[str, dict[str, Metrics]]:
        return {group: means([row for row in rows if kind(row) == group]) for group in sorted({kind(r) for r in rows})}

    return {
        **means(rows),
        "samples": len(rows),
        "scenes": by(lambda row: row.scene),
        "strategies": by(lambda row: row.strategy),
    }
