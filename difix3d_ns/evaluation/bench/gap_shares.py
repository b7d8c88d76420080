"""Gains as shares of a gap: how much of what another method gains one method gains over the same base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from difix3d_ns.evaluation.bench.bench_recipe import Comparison
from difix3d_ns.evaluation.bench.paired_gains import COMPARED, Gain, differences
from difix3d_ns.evaluation.bench.rows import Row

Key = tuple[str, int]  # scene, seed


@dataclass(frozen=True)
class Shares:
    """Shares by scene, and their mean over those whose gap is worth dividing by."""

    gap: tuple[str, str]
    """the methods whose difference is the gap"""
    scenes: dict[str, dict[str, float]] = field(default_factory=dict)
    """scene -> metric -> share; without a metric in which there is no gap"""
    gaps: dict[str, float] = field(default_factory=dict)
    """scene -> gap in dB of PSNR"""
    mean: dict[str, Gain] = field(default_factory=dict)
    """metric -> over the counted scenes"""
    undecided: list[str] = field(default_factory=list)
    """scenes that are shown, not counted: their gap is too small"""


def gap_shares(
    rows: Mapping[str, Mapping[Key, Row]], comparison: Comparison, counted: Sequence[str], undecided_gap: float
) -> Shares | None:
    """Divide the gains of a comparison by the gap that it names.

    Args:
        rows: of the comparison's methods and of those of the gap, by scene and seed. Gains and gaps are means over the
            seeds that all of them have.
        comparison: with ``share_of``.
        counted: scenes that count if their gap is large enough.
        undecided_gap: dB of PSNR.

    Returns:
        None where no scene has all these methods. The standard error of a mean is that of the scenes' shares.
    """
    gap = comparison.share_of
    if gap is None:
        return None
    names = (comparison.method, comparison.against, gap.method, gap.against)
    shared = sorted(set.intersection(*(set(rows[name]) for name in names)))
    found = Shares((gap.method, gap.against))
    for scene in dict.fromkeys(scene for scene, _ in shared):
        first, second, better, base = (
            [rows[name][key]["metrics"] for key in shared if key[0] == scene] for name in names
        )
        gains, gaps = list(zip(first, second, strict=True)), list(zip(better, base, strict=True))
        shares = {}
        for metric in COMPARED:
            gained, possible = differences(gains, metric), differences(gaps, metric)
            if gained and possible and fmean(possible) > 0:
                shares[metric] = fmean(gained) / fmean(possible)
        found.scenes[scene], found.gaps[scene] = shares, fmean(differences(gaps, "psnr"))
    if not found.scenes:
        return None
    found.undecided.extend(scene for scene, size in found.gaps.items() if size < undecided_gap)
    enough = [found.scenes[scene] for scene in counted if scene in found.scenes and scene not in found.undecided]
    for metric in COMPARED:
        if values := [shares[metric] for shares in enough if metric in shares]:
            found.mean[metric] = Gain.of(values)
    return found


def share_verdicts(shares: Shares | None, bars: Mapping[str, float]) -> list[str]:
    """Sentences on bars that are shares of the gap."""
    verdicts = []
    for metric, bar in bars.items():
        mean = shares.mean.get(metric) if shares is not None else None
        verdict = "not measured" if mean is None else "met" if mean.mean >= bar else "missed"
        if mean is not None and mean.count < 2:
            verdict += ", one scene"
        if mean is not None and mean.is_near(bar):
            verdict += ", within its standard error"
        verdicts.append(f"{metric} {bar:.0%} of the gap: {verdict}")
    return verdicts
