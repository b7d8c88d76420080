"""Published rows beside the means of a benchmark."""

from __future__ import annotations

from dataclasses import replace

from difix3d_ns.evaluation.bench.bench_recipe import Recipe
from difix3d_ns.evaluation.bench.results import Scores, mean_over_scenes
from difix3d_ns.evaluation.table import METRICS, Cell, Table

_LPIPS = tuple(name for name in METRICS if name.startswith("lpips"))


def quoted_table(recipe: Recipe, scores: Scores | None = None) -> Table | None:
    """Rows of the published tables, numbered by source, and below them the means over scenes; None without the first.

    Args:
        recipe: with the published rows.
        scores: of the recipe; None for the published rows alone.
    """
    quoted = {metric for entry in recipe.quoted for row in entry.rows.values() for metric in row}
    if not quoted:
        return None
    ours = {}
    for method in recipe.methods if scores is not None else ():
        assert scores is not None
        if count := len({row["scene"] for row in scores.pooled(method)}):
            means = {metric: mean_over_scenes(scores, method, metric) for metric in METRICS}
            ours[f"{method} (ours, {count} scene{'s' * (count > 1)})"] = means
    wanted = quoted | (set(_LPIPS) if "lpips" in quoted else set())  # ours is of a network that is known
    columns = [
        metric
        for metric in METRICS
        if metric in quoted or (metric in wanted and any(row[metric] is not None for row in ours.values()))
    ]
    rows = [
        [Cell(f"{method} [{number}]"), *(Cell(_as_published(metric, row.get(metric))) for metric in columns)]
        for number, entry in enumerate(recipe.quoted, start=1)
        for method, row in entry.rows.items()
    ]
    rows += [
        [Cell(name, good=True), *(Cell(METRICS[metric].text(row[metric]), good=True) for metric in columns)]
        for name, row in ours.items()
    ]
    return Table(["method", *(METRICS[metric].heading for metric in columns)], rows)


def _as_published(metric: str, value: float | None) -> str:
    """A value with all the digits that were published, at least those of ours."""
    digits = len(repr(value).partition(".")[2])
    return replace(METRICS[metric], digits=max(digits, METRICS[metric].digits)).text(value)


def quoted_sources(recipe: Recipe) -> list[str]:
    """Sentences on the sources of the published rows, by their numbers."""
    return [
        f"[{number}] {entry.source}, {entry.date}." + (f" {entry.note}" if entry.note else "")
        for number, entry in enumerate(recipe.quoted, start=1)
    ]
