"""The table of metrics: methods in rows, for Markdown, the terminal and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table as TerminalTable
from rich.text import Text


@dataclass(frozen=True)
class Metric:
    """A column: its heading and its printed digits."""

    heading: str
    digits: int = 3
    lower_is_better: bool = False
    contest: bool = True  # whether the best value is marked; less memory is nicer, but nobody wins by it
    everywhere: bool = True  # whether all benchmarks have it

    def text(self, value: float | None) -> str:
        """The value as printed; a dash where there is none."""
        return "-" if value is None else f"{value:,.{self.digits}f}"


METRICS = {
    "psnr": Metric("PSNR ↑", 2),
    "cc_psnr": Metric("PSNR, colours corrected ↑", 2, everywhere=False),
    "ssim": Metric("SSIM ↑"),
    "flip": Metric("FLIP ↓", lower_is_better=True),
    "lpips_alex": Metric("LPIPS (AlexNet) ↓", lower_is_better=True),
    "lpips_vgg": Metric("LPIPS (VGG) ↓", lower_is_better=True),
    "lpips_alex_unscaled": Metric("LPIPS (AlexNet, unscaled) ↓", lower_is_better=True, everywhere=False),
    "lpips_vgg_unscaled": Metric("LPIPS (VGG, unscaled) ↓", lower_is_better=True, everywhere=False),
    "lpips": Metric("LPIPS (net unknown) ↓", lower_is_better=True, everywhere=False),
    "high_pass": Metric("detail, correlation ↑", everywhere=False),
    "low_psnr": Metric("PSNR to the small photo ↑", 2, everywhere=False),
    "agreement": Metric("agreement of upscaled photos ↑", everywhere=False),
    "fid": Metric("FID ↓", 1, lower_is_better=True),
    "seconds": Metric("seconds ↓", 0, lower_is_better=True, contest=False),
    "gaussians": Metric("Gaussians", 0, lower_is_better=True, contest=False),
    "peak_mb": Metric("peak MB", 0, lower_is_better=True, contest=False),
}

Results = Mapping[str, Mapping[str, float | None]]
"""Method -> metric -> value, with its spread at "METRIC_std"; None or absent where there is none."""


@dataclass(frozen=True)
class Cell:
    """A printed value."""

    text: str
    good: bool = False  # the best of its kind


@dataclass(frozen=True)
class Table:
    """A table whose first column is text and whose others are numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def markdown(self) -> str:
        """The table in GitHub's Markdown, good cells in bold."""
        lines = [_line(self.headings), "|---|" + "---:|" * (len(self.headings) - 1)]
        lines += [_line([f"**{cell.text}**" if cell.good else cell.text for cell in row]) for row in self.rows]
        return "\n".join(lines)

    def terminal(self) -> TerminalTable:
        """The table for a rich console, good cells in bold."""
        table = TerminalTable()
        for number, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*(Text(cell.text, style="bold" if cell.good else "") for cell in row))
        return table


def metric_table(results: Results, missing: Mapping[str, int] | None = None) -> Table:
    """A row per method, a column per metric that any of them has, the best of each column marked.

    Args:
        results: means, with or without their spreads.
        missing: method -> scenes its means lack: named beside the method, which then wins nothing.
    """
    incomplete = {method: count for method, count in (missing or {}).items() if count}
    known = {metric for row in results.values() for metric, value in row.items() if value is not None}
    columns = [name for name in dict.fromkeys([*METRICS, *sorted(known)]) if name in known and name[-4:] != "_std"]
    metrics = {name: METRICS.get(name, Metric(name)) for name in columns}
    complete = {method: row for method, row in results.items() if method not in incomplete}
    best = {name: _best([row.get(name) for row in complete.values()], metric) for name, metric in metrics.items()}
    rows = []
    for method, row in results.items():
        cells = [Cell(f"{method} ({incomplete[method]} scenes missing)" if method in incomplete else method)]
        for name, metric in metrics.items():
            text, spread = metric.text(row.get(name)), row.get(f"{name}_std")
            good = method in complete and text == best[name]
            cells.append(Cell(text if spread is None else f"{text} ± {metric.text(spread)}", good))
        rows.append(cells)
    return Table(["method", *(metric.heading for metric in metrics.values())], rows)


def _best(values: Sequence[float | None], metric: Metric) -> str | None:
    """The best value as printed; None where nothing differs in print."""
    known = [value for value in values if value is not None and value == value]
    if not metric.contest or len({metric.text(value) for value in known}) < 2:
        return None
    return metric.text((min if metric.lower_is_better else max)(known))


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
