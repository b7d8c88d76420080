"""Published rows beside the means of a benchmark."""

from __future__ import annotations

from dataclasses import replace

from difix3d_ns.evaluation.bench.bench_recipe import Recipe
from difix3d_ns.evaluation.bench.results import Scores, mean_over_scenes
from difix3d_ns.evaluation.table import METRICS, Cell, Metric, Table

_LPIPS = {name for name in METRICS if name.startswith("lpips")}


def quoted_table(recipe: Recipe, scores: Scores | None = None) -> Table | None:
    """Rows of the published tables, numbered by source, and below them our means over scenes.

    Args:
        recipe: with the published rows.
        scores: of the recipe; None for the published rows alone.

    Returns:
        None where the recipe quotes none.
    """
    published = {
        f"{method} [{number}]": row
        for number, entry in enumerate(recipe.quoted, start=1)
        for method, row in entry.rows.items()
    }
    if not published:
        return None
    ours = _means(scores) if scores is not None else {}
    quoted = {metric for row in published.values() for metric in row}
    comparable = _LPIPS if "lpips" in quoted else set()  # a network that is not stated may be any of ours
    known = {metric for row in ours.values() for metric, value in row.items() if value is not None}
    columns = [name for name in METRICS if name in quoted | (comparable & known)]
    texts = {name: _as_published(name, [row[name] for row in published.values() if name in row]) for name in columns}
    rows = [
        [Cell(name, good), *(Cell(texts[metric].text(row.get(metric)), good) for metric in columns)]
        for found, good in ((published, False), (ours, True))
        for name, row in found.items()
    ]
    return Table(["method", *(METRICS[metric].heading for metric in columns)], rows)


def quoted_sources(recipe: Recipe) -> list[str]:
    """Sentences on the sources of the published rows, by their numbers."""
    return [
        f"[{number}] {entry.source}, {entry.date}." + (f" {entry.note}" if entry.note else "")
        for number, entry in enumerate(recipe.quoted, start=1)
    ]


def _means(scores: Scores) -> dict[str, dict[str, float | None]]:
    found = {}
    for method in scores.recipe.methods:
        if count := len({row["scene"] for row in scores.pooled(method)}):
            name = f"{method} (ours, {count} scene{'s' * (count > 1)})"
            found[name] = {metric: mean_over_scenes(scores, method, metric) for metric in METRICS}
    return found


def _as_published(name: str, values: list[float]) -> Metric:
    """A metric with as many digits as were published, and no fewer than ours."""
    digits = (len(repr(value).partition(".")[2]) for value in values)
    return replace(METRICS[name], digits=max([METRICS[name].digits, *digits]))
