"""From finished jobs to means, spreads, the best of several methods and paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from difix3d_ns.evaluation.bench.bench_recipe import Comparison, Method, Recipe
from difix3d_ns.evaluation.bench.job import State

METRICS = ("psnr", "ssim", "flip", "lpips", "fid", "seconds", "gaussians", "peak_mb")
LOWER_IS_BETTER = frozenset({"flip", "lpips", "fid", "seconds", "gaussians", "peak_mb"})
COMPARED = ("psnr", "ssim", "flip", "lpips")
_CLOSE = 0.3
"""dB from a bar within which two seeds decide nothing"""
_ENOUGH_SEEDS = 3

Metrics = Mapping[str, float | None]
Key = tuple[str, int]  # scene, seed


@dataclass
class Scores:
    """All there is: part -> (scene, seed) -> metrics; a part is a method or one checkpoint of it (NAME@STEP)."""

    recipe: Recipe
    parts: dict[str, dict[Key, Metrics]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    """Of methods that are the best of several parts: which."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Parts such a choice could not consider: they lack scenes, or share no seed with the others."""

    @property
    def scenes(self) -> list[str]:
        """In the order they came in."""
        return list(dict.fromkeys(scene for rows in self.parts.values() for scene, _ in rows))

    @property
    def counted(self) -> list[str]:
        """Scenes that no weight was trained on; all where there are no others."""
        return [scene for scene in self.scenes if scene not in self.recipe.trained_on] or self.scenes

    def rows(self, method: str) -> dict[Key, Metrics]:
        """Metrics of a method by scene and seed; empty where it is not known yet."""
        return self.parts.get(self.chosen.get(method, method), {})

    def of_scene(self, method: str, scene: str) -> list[Metrics]:
        """One entry per seed."""
        return [metrics for (name, _), metrics in sorted(self.rows(method).items()) if name == scene]

    def shared_seeds(self, scene: str) -> list[int]:
        """Seeds that all methods known of the scene have; those that any has where they share none."""
        seeds = [_seeds(self.rows(method), scene) for method in self.recipe.methods]
        known = [each for each in seeds if each]
        return sorted(set.intersection(*known) or set.union(*known)) if known else []


def gather(recipe: Recipe, states: Iterable[State]) -> Scores:
    """Scores of finished jobs, with the best of several methods decided.

    Args:
        recipe: what was compared.
        states: of jobs, any number.
    """
    scores = Scores(recipe)
    for state in states:
        for name, part in state["parts"].items():
            if part["look"]["method"] in recipe.methods:
                scores.parts.setdefault(name, {})[state["scene"], state["seed"]] = part["metrics"]
    for method in recipe.methods.values():  # earlier checkpoints first: the best of several may have them in it
        if method.earlier:
            _choose(scores, method, [name for name in scores.parts if name.startswith(f"{method.name}@")])
    for method in recipe.methods.values():
        if method.best_of:
            _choose(scores, method, [scores.chosen.get(name, name) for name in method.best_of])
    return scores


def _choose(scores: Scores, method: Method, parts: Sequence[str]) -> None:
    """The part of the best PSNR, as the mean over counted scenes of the mean over seeds: one for all scenes.

    In each scene over the seeds that all parts have which can be chosen: a further seed of one of them decides nothing.
    """
    rows = {part: scores.parts.get(part, {}) for part in parts}
    union = {scene: set.union(set(), *(_seeds(found, scene) for found in rows.values())) for scene in scores.counted}
    shared = {scene: seeds for scene, seeds in union.items() if seeds}
    complete = []
    for part, found in rows.items():
        common = {scene: seeds & _seeds(found, scene) for scene, seeds in shared.items()}
        if common and all(common.values()):
            shared = common
            complete.append(part)
    if left_out := [part for part in parts if part not in complete]:
        scores.left_out[method.name] = left_out
    if complete:
        means = {part: _mean_psnr(rows[part], shared) for part in complete}
        scores.chosen[method.name] = max(complete, key=lambda part: means[part])


def _seeds(rows: Mapping[Key, Metrics], scene: str) -> set[int]:
    return {seed for name, seed in rows if name == scene}


def _mean_psnr(rows: Mapping[Key, Metrics], seeds: Mapping[str, set[int]]) -> float:
    by_scene = [[rows[scene, seed]["psnr"] for seed in sorted(chosen)] for scene, chosen in seeds.items()]
    return fmean(fmean(value for value in values if value is not None) for values in by_scene)


def results(scores: Scores) -> dict[str, dict[str, dict[str, float | None]]]:
    """{scene: {method: {metric: mean over seeds, metric_std: spread}}}.

    The spread is the standard deviation of the sample of seeds; None of a single seed. A metric is None where one of
    the seeds has none.
    """
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    for scene in scores.scenes:
        table[scene] = {}
        for method in scores.recipe.methods:
            seeds = scores.of_scene(method, scene)
            if not seeds:
                continue
            entry: dict[str, float | None] = {}
            for metric in METRICS:
                entry[metric], entry[f"{metric}_std"] = mean_and_spread([each[metric] for each in seeds])
            table[scene][method] = entry
    return table


def mean_and_spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """(mean, standard deviation of the sample); None where it is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return fmean(known), stdev(known) if len(known) > 1 else None


def mean_over_scenes(scores: Scores, method: str, metric: str) -> float | None:
    """Over the counted scenes that have the method, each the mean of the seeds that all methods have.

    None where it is not known.
    """
    rows, means = scores.rows(method), []
    for scene in scores.counted:
        if shared := [rows[scene, seed][metric] for seed in scores.shared_seeds(scene) if (scene, seed) in rows]:
            means.append(mean_and_spread(shared)[0])
    return mean_and_spread(means)[0]


@dataclass(frozen=True)
class Gain:
    """A paired difference, counted so that more is better."""

    mean: float
    error: float | None  # standard error of the mean; None of a single value
    count: int  # of values it is the mean of

    @classmethod
    def of(cls, values: Sequence[float]) -> Gain:
        """Of differences that are independent of each other."""
        spread = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(fmean(values), spread, len(values))


@dataclass(frozen=True)
class Compared:
    """One method against another."""

    comparison: Comparison
    scenes: dict[str, dict[str, Gain]]  # scene -> metric -> over its seeds
    whole: dict[str, Gain]  # metric -> over the counted scenes, each the mean of its seeds
    seconds: Gain | None  # of training, in those of the other: over the counted scenes, each the mean of its seeds
    verdicts: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {name: {m: vars(g) for m, g in gains.items()} for name, gains in self.scenes.items()}
        return {
            "method": self.comparison.method,
            "against": self.comparison.against,
            "scenes": told,
            "mean": {metric: vars(gain) for metric, gain in self.whole.items()},
            "seconds_ratio": None if self.seconds is None else vars(self.seconds),
            "verdicts": self.verdicts,
        }


def compare(scores: Scores, comparison: Comparison) -> Compared | None:
    """Differences of the same scene and seed; None where no pair is there.

    Over scenes, the standard error is that of the scenes' means: scenes differ more than seeds do. Of one scene it is
    that of its seeds.
    """
    first, second = (scores.rows(name) for name in comparison.needs)
    scenes: dict[str, dict[str, Gain]] = {}
    for scene in scores.scenes:
        pairs = [(first[key], second[key]) for key in sorted(first) if key in second and key[0] == scene]
        gains = {metric: _differences(pairs, metric) for metric in COMPARED}
        if pairs:
            scenes[scene] = {metric: Gain.of(values) for metric, values in gains.items() if values}
    counted = [scene for scene in scores.counted if scene in scenes]
    if not counted:
        return None
    whole = {}
    for metric in COMPARED:
        gains_of = [scenes[scene][metric] for scene in counted if metric in scenes[scene]]
        if gains_of:
            whole[metric] = Gain.of([gain.mean for gain in gains_of]) if len(gains_of) > 1 else gains_of[0]
    seconds = _time_ratio(first, second, counted)
    return Compared(comparison, scenes, whole, seconds, _verdicts(comparison, scenes, whole, seconds, counted))


def _differences(pairs: Sequence[tuple[Metrics, Metrics]], metric: str) -> list[float]:
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    values = []
    for first, second in pairs:
        a, b = first[metric], second[metric]
        if a is None or b is None:
            return []
        values.append(sign * (a - b))
    return values


def _time_ratio(first: Mapping[Key, Metrics], second: Mapping[Key, Metrics], scenes: Sequence[str]) -> Gain | None:
    ratios: dict[str, list[float]] = {}
    for key in sorted(first.keys() & second.keys()):
        a, b = first[key]["seconds"], second[key]["seconds"]
        if key[0] in scenes and a and b:
            ratios.setdefault(key[0], []).append(a / b)
    return Gain.of([fmean(of_scene) for of_scene in ratios.values()]) if ratios else None


def _verdicts(
    comparison: Comparison,
    scenes: Mapping[str, Mapping[str, Gain]],
    whole: Mapping[str, Gain],
    seconds: Gain | None,
    counted: Sequence[str],
) -> list[str]:
    told = []
    seeds = min((gains["psnr"].count for scene, gains in scenes.items() if scene in counted), default=0)
    for metric, bar in comparison.bars.items():
        if metric not in whole:
            told.append(f"{metric} {bar:+g}: not measured")
            continue
        mean = whole[metric].mean
        close = metric == "psnr" and abs(mean - bar) < _CLOSE and seeds < _ENOUGH_SEEDS
        word = "met" if mean > bar or mean == bar != 0 else "missed"
        if seeds < 2:
            word += ", one seed"
        if _is_near(whole[metric], bar):
            word += ", within its standard error"
        told.append(f"{metric} {bar:+g}: {word}" + (f", within {_CLOSE} dB: needs {_ENOUGH_SEEDS} seeds" * close))
    if comparison.worst is not None:
        worse = [
            scene
            for scene in counted
            if scenes[scene]["psnr"].mean + (scenes[scene]["psnr"].error or 0.0) < comparison.worst
        ]
        word = f"missed on {', '.join(worse)}" if worse else "met"
        told.append(f"no scene below {comparison.worst:+g} dB beyond its standard error: {word}")
    if comparison.time is not None:
        known = "not measured" if seconds is None else "met" if seconds.mean <= comparison.time else "missed"
        if seconds is not None and _is_near(seconds, comparison.time):
            known += ", within its standard error"
        told.append(f"at most {comparison.time:g}x the time: {known}")
    return told


def _is_near(gain: Gain, bar: float) -> bool:
    return gain.error is not None and abs(gain.mean - bar) < gain.error
