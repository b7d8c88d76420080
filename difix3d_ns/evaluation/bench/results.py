"""Means, spreads, the best of several methods and paired differences, from rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from statistics import fmean, stdev

from difix3d_ns.evaluation.bench.bench_recipe import Comparison, Method, Recipe
from difix3d_ns.evaluation.bench.gap_shares import Shares, gap_shares, share_verdicts
from difix3d_ns.evaluation.bench.paired_gains import COMPARED, Gain, differences
from difix3d_ns.evaluation.bench.rows import Row
from difix3d_ns.evaluation.table import METRICS

NEAR_BAR = 0.3
"""dB from a bar within which two seeds decide nothing"""
SEEDS_NEAR_BAR = 3

Key = tuple[str, int]  # scene, seed
Values = Sequence[float | None]


@dataclass
class Scores:
    """Rows by part and (scene, seed); a part is a method, or one checkpoint of it (NAME@STEP)."""

    recipe: Recipe
    parts: dict[str, dict[Key, Row]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    """Method that is the best of several parts -> that part."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Method -> parts that could not be considered: they lack scenes, or share no seed with the others."""
    fid: dict[str, float] = field(default_factory=dict)
    """Method -> FID over all its pictures, where it was computed over just these (see ``pooled``)."""

    @property
    def scenes(self) -> list[str]:
        """Scenes in the order of their rows."""
        return list(dict.fromkeys(scene for rows in self.parts.values() for scene, _ in rows))

    @property
    def counted(self) -> list[str]:
        """Scenes that no weight was trained on; all where there are no others."""
        return [scene for scene in self.scenes if scene not in self.recipe.trained_on] or self.scenes

    def rows(self, method: str) -> dict[Key, Row]:
        """Rows of a method by scene and seed; empty where it is not known yet."""
        return self.parts.get(self.chosen.get(method, method), {})

    def of_scene(self, method: str, scene: str) -> list[Row]:
        """Rows of a method in a scene, one per seed."""
        return [row for (name, _), row in sorted(self.rows(method).items(), key=lambda item: item[0]) if name == scene]

    def shared_seeds(self, scene: str) -> list[int]:
        """Return the seeds that all measured methods of a scene have, or where they share none, the seeds of any."""
        seeds = [{row["seed"] for row in self.of_scene(method, scene)} for method in self.recipe.methods]
        known = [each for each in seeds if each]
        return sorted(set.intersection(*known) or set.union(*known)) if known else []

    def pooled(self, method: str) -> list[Row]:
        """Rows that means over scenes are of: of the counted scenes those with the shared seeds."""
        return [
            row
            for scene in self.counted
            for row in self.of_scene(method, scene)
            if row["seed"] in self.shared_seeds(scene)
        ]


def gather(recipe: Recipe, rows: Iterable[Row]) -> Scores:
    """Scores of a recipe's rows (see ``current_rows``), with the best of several methods decided."""
    scores, pooled = Scores(recipe), []
    for row in rows:
        if row["scene"] is None:
            pooled.append(row)
        else:
            scores.parts.setdefault(row["method"], {})[row["scene"], row["seed"]] = row
    # earlier checkpoints first: the best of several may have them in it
    for method in sorted(recipe.methods.values(), key=lambda method: bool(method.best_of)):
        if method.earlier:
            _choose(scores, method, [name for name in scores.parts if name.startswith(f"{method.name}@")])
        elif method.best_of:
            _choose(scores, method, [scores.chosen.get(name, name) for name in method.best_of])
    fid = {(row["method"], frozenset(row["runs"])): row["metrics"]["fid"] for row in pooled}
    for name in recipe.methods:
        key = scores.chosen.get(name, name), frozenset(row["run"] for row in scores.pooled(name))
        if key in fid:
            scores.fid[name] = fid[key]
    return scores


def _choose(scores: Scores, method: Method, parts: Sequence[str]) -> None:
    """Choose the part of the best PSNR, as the mean over counted scenes of the mean over seeds: one for all scenes.

    In each scene over the seeds that all parts have which can be chosen: a further seed of one of them decides nothing.
    """
    rows = {part: scores.parts.get(part, {}) for part in parts}
    shared = {key for found in rows.values() for key in found if key[0] in scores.counted}
    scenes = {scene for scene, _ in shared}
    complete = []
    for part, found in rows.items():
        common = shared & found.keys()
        if common and {scene for scene, _ in common} == scenes:
            shared = common
            complete.append(part)
    if left_out := [part for part in parts if part not in complete]:
        scores.left_out[method.name] = left_out
    if complete:
        means = {part: _mean_of_scenes([rows[part][key] for key in shared], "psnr") or 0.0 for part in complete}
        scores.chosen[method.name] = max(complete, key=lambda part: means[part])


def results(scores: Scores) -> dict[str, dict[str, dict[str, float | None]]]:
    """{scene: {method: {metric: mean over seeds, metric_std: spread}}}.

    The spread is the standard deviation of the sample of seeds; None of a single seed. A metric is None where one of
    the seeds has none, and FID where the scene is not the only one counted: it is of all pictures.
    """
    rows_of = [row for part in scores.parts.values() for row in part.values()]
    metrics = [name for name, metric in METRICS.items() if metric.everywhere or any(_values(rows_of, name))]
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    for scene in scores.scenes:
        table[scene] = {}
        for method in scores.recipe.methods:
            if rows := scores.of_scene(method, scene):
                entry: dict[str, float | None] = {}
                for metric in metrics:
                    entry[metric], entry[f"{metric}_std"] = mean_and_spread(_values(rows, metric))
                entry["fid"] = scores.fid.get(method) if scores.counted == [scene] else None
                table[scene][method] = entry
    return table


def mean_and_spread(values: Values) -> tuple[float | None, float | None]:
    """(mean, standard deviation of the sample); None where it is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return fmean(known), stdev(known) if len(known) > 1 else None


def mean_over_scenes(scores: Scores, method: str, metric: str) -> float | None:
    """Mean over the counted scenes that have the method, each the mean of the seeds that all methods have.

    FID is that of all these pictures together. None where it is not known.
    """
    return scores.fid.get(method) if metric == "fid" else _mean_of_scenes(scores.pooled(method), metric)


def _mean_of_scenes(rows: Collection[Row], metric: str) -> float | None:
    scenes = dict.fromkeys(row["scene"] for row in rows)
    means = [mean_and_spread(_values([row for row in rows if row["scene"] == scene], metric))[0] for scene in scenes]
    return mean_and_spread(means)[0]


def _values(rows: Iterable[Row], metric: str) -> list[float | None]:
    return [row["metrics"].get(metric) for row in rows]


@dataclass(frozen=True)
class Compared:
    """One method against another."""

    method: str
    against: str
    scenes: dict[str, dict[str, Gain]]  # scene -> metric -> over its seeds
    mean: dict[str, Gain]  # metric -> over the counted scenes, each the mean of its seeds
    seconds_ratio: Gain | None  # of training, to the other's: over the counted scenes, each the mean of its seeds
    verdicts: list[str]
    counted: list[str] = field(default_factory=list)  # scenes that the means are over
    shares: Shares | None = None  # of the gap that the recipe names
    patterns: tuple[str, ...] = ()  # of the scenes' names, where not all are compared

    @property
    def methods(self) -> tuple[str, str]:
        """Names of both methods."""
        return self.method, self.against


def compare(scores: Scores, comparison: Comparison) -> Compared | None:
    """Differences of the same scene and seed; None where no pair is there.

    Over scenes, the standard error is that of the scenes' means: scenes differ more than seeds do. Of one scene it is
    that of its seeds.
    """
    first, second = (scores.rows(name) for name in comparison.needs)
    shared = sorted(first.keys() & second.keys())
    listed = [scene for scene in scores.scenes if _matches(scene, comparison.scenes)]
    considered = [scene for scene in scores.counted if scene in listed]
    rows = {name: {key: row for key, row in scores.rows(name).items() if key[0] in listed} for name in comparison.names}
    shares = gap_shares(rows, comparison, considered, scores.recipe.undecided_gap)
    if shares is not None:
        considered = [scene for scene in considered if scene not in shares.undecided]
    scenes: dict[str, dict[str, Gain]] = {}
    ratios: list[float] = []
    for scene in listed:
        pairs = [(first[key]["metrics"], second[key]["metrics"]) for key in shared if key[0] == scene]
        if not pairs:
            continue
        scenes[scene] = {metric: Gain.of(gains) for metric in COMPARED if (gains := differences(pairs, metric))}
        seconds = [(a["seconds"], b["seconds"]) for a, b in pairs if a["seconds"] and b["seconds"]]
        if seconds and scene in considered:
            ratios.append(fmean(a / b for a, b in seconds))
    counted = {scene: gains for scene, gains in scenes.items() if scene in considered}
    if not counted:
        return None
    mean = {}
    for metric in COMPARED:
        of_scenes = [gains[metric] for gains in counted.values() if metric in gains]
        if of_scenes:
            mean[metric] = Gain.of([gain.mean for gain in of_scenes]) if len(of_scenes) > 1 else of_scenes[0]
    ratio = Gain.of(ratios) if ratios else None
    verdicts = _verdicts(comparison, counted, mean, ratio) + share_verdicts(shares, comparison.shares)
    return Compared(*comparison.needs, scenes, mean, ratio, verdicts, list(counted), shares, comparison.scenes)


def _matches(scene: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch(scene, pattern) for pattern in patterns)


def _verdicts(
    comparison: Comparison, scenes: Mapping[str, Mapping[str, Gain]], whole: Mapping[str, Gain], seconds: Gain | None
) -> list[str]:
    verdicts = []
    seeds = min(gains["psnr"].count for gains in scenes.values())
    for metric, bar in comparison.bars.items():
        if metric not in whole:
            verdicts.append(f"{metric} {bar:+g}: not measured")
            continue
        mean = whole[metric].mean
        verdict = "met" if mean > bar or mean == bar != 0 else "missed"
        if seeds < 2:
            verdict += ", one seed"
        if whole[metric].is_near(bar):
            verdict += ", within its standard error"
        if metric == "psnr" and abs(mean - bar) < NEAR_BAR and seeds < SEEDS_NEAR_BAR:
            verdict += f", within {NEAR_BAR} dB: needs {SEEDS_NEAR_BAR} seeds"
        verdicts.append(f"{metric} {bar:+g}: {verdict}")
    if comparison.worst is not None:
        gains = {scene: found["psnr"] for scene, found in scenes.items()}
        worse = [scene for scene, gain in gains.items() if gain.mean + (gain.error or 0.0) < comparison.worst]
        verdict = f"missed on {', '.join(worse)}" if worse else "met"
        verdicts.append(f"no scene below {comparison.worst:+g} dB beyond its standard error: {verdict}")
    if comparison.time is not None:
        verdict = "not measured" if seconds is None else "met" if seconds.mean <= comparison.time else "missed"
        if seconds is not None and seconds.is_near(comparison.time):
            verdict += ", within its standard error"
        verdicts.append(f"at most {comparison.time:g}x the time: {verdict}")
    return verdicts
