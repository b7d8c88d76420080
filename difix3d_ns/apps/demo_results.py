"""Results of a demo: numbers, a picture and a page, and where to look next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from torch import Tensor

from difix3d_ns.evaluation.comparison import write_comparison
from difix3d_ns.evaluation.report import write_report
from difix3d_ns.evaluation.runs import HeldOutView, Run
from difix3d_ns.evaluation.table import metric_table
from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.io.atomic import write_json
from difix3d_ns.metrics.image import image_metrics, mean_metrics

Item = TypeVar("Item")


def mean_over(views: Sequence[HeldOutView], enhanced: bool = False) -> dict[str, float]:
    """Mean metrics of renders, or of enhanced pictures, over held-out views."""
    return mean_metrics([image_metrics(view.picture(enhanced), view.truth) for view in views])


def spread_out(items: Sequence[Item], count: int) -> list[Item]:
    """Choose so many items, evenly spaced, none of them at an end."""
    return [items[place] for place in evenly_spaced(len(items), count, ends=False)]


def write_results(
    output: Path,
    results: Mapping[str, Mapping[str, float]],
    rows: Sequence[Sequence[Tensor]],
    captions: Sequence[str],
    run: Run,
    views: Sequence[HeldOutView],
    plain: Sequence[HeldOutView],
    title: str,
    look: str,
    console: Console,
) -> None:
    """Write results.json, comparison.png and report.html, and print the table.

    Args:
        output: folder.
        results: row -> metric -> mean over held-out views.
        rows: pictures of views, with a caption for each column.
        captions: of the columns.
        run: the training the page is about.
        views: its held-out views.
        plain: the same views of what it is compared with.
        title: of the page.
        look: what to do in the viewer, for people.
        console: for the table and the places.
    """
    write_json(output / "results.json", results)
    write_comparison(output / "comparison.png", rows, captions)
    console.print(metric_table(results).terminal())
    page = output / "report.html"
    write_report(run.config, page, views, plain, results, title=title, console=console)
    console.print(f"Numbers: {output / 'results.json'}   pictures: {output / 'comparison.png'}", highlight=False)
    console.print(f"Open in a browser: [bold]{page}[/bold]", highlight=False, soft_wrap=True)
    console.print(
        f"Look around in it: [bold]ns-viewer --load-config {run.config}[/bold], open the printed address{look}.",
        highlight=False,
        soft_wrap=True,
    )
