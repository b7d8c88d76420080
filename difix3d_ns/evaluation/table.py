"""Results of several methods as a table on the terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

_LOWER_IS_BETTER = frozenset({"flip", "lpips", "fid", "seconds"})
_DIGITS = {"psnr": 2, "ssim": 4, "flip": 4, "lpips": 4, "fid": 2, "seconds": 1}
_UPPER = frozenset({"psnr", "ssim", "flip", "lpips", "fid"})

Results = Mapping[str, Mapping[str, float | None]]
"""Method -> metric -> value; None or absent where there is none."""


def cells(results: Results) -> tuple[list[str], list[tuple[str, list[tuple[str, bool]]]]]:
    """Headings of the metrics, and per method its printed values, each with whether it is the best of its column."""
    columns = _columns(results)
    best = {metric: _best(results, metric) for metric in columns}
    rows = [
        (method, [(_cell(metric, values.get(metric)), method in best[metric]) for metric in columns])
        for method, values in results.items()
    ]
    return [_heading(metric) for metric in columns], rows


def metrics_table(results: Results, title: str | None = None) -> Table:
    """A rich table: a row per method, a column per metric, the best value of each in bold."""
    table = Table(title=title)
    table.add_column("method")
    headings, rows = cells(results)
    for heading in headings:
        table.add_column(heading, justify="right")
    for method, row in rows:
        table.add_row(Text(method), *(Text(cell, style="bold" if best else "") for cell, best in row))
    return table


def markdown_table(results: Results) -> str:
    """The same table in GitHub's Markdown, ending with a newline."""
    headings, rows = cells(results)
    lines = [
        "| " + " | ".join(["method", *headings]) + " |",
        "|" + "|".join(["---", *["---:"] * len(headings)]) + "|",
    ]
    for method, row in rows:
        bold = [f"**{cell}**" if best else cell for cell, best in row]
        lines.append("| " + " | ".join([method.replace("|", "\\|"), *bold]) + " |")
    return "\n".join(lines) + "\n"


def _columns(results: Results) -> list[str]:
    """Metrics in the order of their first appearance."""
    return list(dict.fromkeys(metric for values in results.values() for metric in values))


def _heading(metric: str) -> str:
    name = metric.upper() if metric in _UPPER else metric
    return f"{name} {'↓' if metric in _LOWER_IS_BETTER else '↑'}"


def _cell(metric: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{_DIGITS.get(metric, 3)}f}"


def _best(results: Results, metric: str) -> set[str]:
    """Methods whose printed value is the best, if there is anything to compare."""
    values = {method: v for method, row in results.items() if (v := row.get(metric)) is not None and v == v}
    if len(values) < 2:
        return set()
    best = (min if metric in _LOWER_IS_BETTER else max)(values.values())
    return {method for method, value in values.items() if _cell(metric, value) == _cell(metric, best)}
