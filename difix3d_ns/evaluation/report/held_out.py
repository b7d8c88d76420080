"""Held-out views: their pictures and metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from torch import Tensor

from difix3d_ns.evaluation.report.page_pictures import error_map, long_side_for, picture
from difix3d_ns.evaluation.report.parts import Figure, gallery, slider, table
from difix3d_ns.evaluation.runs import HeldOutView
from difix3d_ns.evaluation.table import METRICS, Cell, metric_table
from difix3d_ns.io.durations import duration
from difix3d_ns.metrics.image import image_metrics, mean_metrics
from difix3d_ns.metrics.perceptual import LazyLPIPS
from difix3d_ns.ns.held_out_photos import HOLD_SOME_OUT

PLAIN, RENDER, ENHANCED, TRUTH = "Plain", "Render", "Enhanced", "Truth"
LOW, ENLARGED = "Small photo", "Bicubic"
RENDER_ERROR, ENHANCED_ERROR = "Error of render", "Error of enhanced"

_BUDGET = 3.5e6  # bytes of all pictures here
_MAX_VIEWS = 60  # of the gallery; the table has all
_MAX_LARGE = 12  # the same, of views at a size above training, where detail matters
_MIN_SIDE = 12  # pixels, for SSIM's window


@dataclass(frozen=True)
class HeldOut:
    """Views of a training and their metrics."""

    views: Sequence[HeldOutView] = ()
    plain: Sequence[HeldOutView] | None = None  # the same views of plain splatfacto
    render: list[dict[str, float]] = field(default_factory=list)  # metrics of each view
    enhanced: list[dict[str, float] | None] = field(default_factory=list)  # None: no enhanced picture
    before: list[dict[str, float]] = field(default_factory=list)  # of plain
    enlarged: list[dict[str, float] | None] = field(default_factory=list)  # of photos, bicubically; None: there is none

    def figures(self) -> list[Figure]:
        """The numbers at the top: enhanced where all views are, with what the render has."""
        if not self.render:
            return []
        render, enhanced = mean_metrics(self.render), self._mean_enhanced()
        names = {"psnr": "PSNR, dB", "ssim": "SSIM", "flip": "FLIP (less is better)"}
        raw = {key: METRICS[key].text(render[key]) for key in names}
        if not enhanced:
            return [Figure(raw[key], name, "raw render") for key, name in names.items()]
        return [
            Figure(METRICS[key].text(enhanced[key]), name, f"enhanced; raw {raw[key]}") for key, name in names.items()
        ]

    def times(self) -> list[tuple[str, str]]:
        """Rows on the enhancer's time."""
        seconds = [view.seconds for view in self.views if view.seconds is not None]
        if not seconds:
            return []
        rows = [("Enhancing the first view, with loading the fixer", duration(seconds[0]))]
        if len(seconds) > 1:
            rows.append(("Enhancing a further view, median", duration(statistics.median(seconds[1:]))))
        return rows

    def parts(self, problem: str = "", methods: str = "") -> list[str]:
        """Parts of a page: a gallery and a table.

        Args:
            problem: why there are none.
            methods: a table of methods, shown first.
        """
        if not self.views:
            return [methods, problem or f"No photo was held out, so there is nothing to compare with. {HOLD_SOME_OUT}"]
        parts = [methods, self._intro(), self._gallery(), self._table()]
        failed = [view for view in self.views if view.problem]
        if failed:
            parts.insert(1, f"The enhancer failed on {len(failed)} of {len(self.views)} views: {failed[0].problem}")
        return parts

    def _mean_enhanced(self) -> dict[str, float] | None:
        return _mean_of_all(self.enhanced)

    @property
    def _large(self) -> bool:
        """Return whether views are rendered at a size above that of training."""
        return any(view.low is not None for view in self.views)

    @property
    def _most(self) -> int:
        """Return how many views the gallery shows, at most."""
        return _MAX_LARGE if self._large else _MAX_VIEWS

    def _intro(self) -> str:
        count = len(self.views)
        shown = f" {self._most} of them are shown, evenly spaced; the table has all." if count > self._most else ""
        large, truth = "", self.views[0].truth.shape
        if (low := self.views[0].low) is not None:
            large = (
                f" Training had photos of {low.shape[1]} x {low.shape[0]} pixels; render and truth have "
                f"{truth[1]} x {truth[0]}, and so has the photo enlarged bicubically."
            )
        return (
            f"{count} photos were kept out of training. The splat is rendered from where they were taken, and the "
            f"render is enhanced.{large}{shown} Drag the bar, or move it with the arrow keys; a double click, or + and "
            "-, magnifies."
        )

    def _gallery(self) -> Markup:
        step = max(1.0, len(self.views) / self._most)
        chosen = [int(i * step) for i in range(min(self._most, len(self.views)))]
        height, width = self.views[0].render.shape[:2]
        each = (6 if self.plain else 5) + self._large
        side = long_side_for(each * len(chosen), width, height, _BUDGET)
        pairs = [(RENDER, ENHANCED), (RENDER, TRUTH), (ENHANCED, TRUTH), (RENDER_ERROR, ENHANCED_ERROR)]
        if not any(view.enhanced is not None for view in self.views):
            pairs = [(RENDER, TRUTH), (TRUTH, RENDER_ERROR)]
        large = (ENLARGED, LOW) if any(view.enlarged is not None for view in self.views) else (LOW,)
        if self._large:
            pairs = [*((name, RENDER) for name in large), *pairs]
        if self.plain:
            pairs = [(PLAIN, RENDER if self._large else pairs[0][1]), *pairs]
        legend = Markup(
            "FLIP: what people notice when they flip between picture and truth. "
            '<span class="scale-with-ends">0 <span class="scale"></span> 1</span>'
        )
        return gallery(
            [self._slider(i, side, pairs) for i in chosen],
            pairs,
            columns=2 if width >= height else 4,
            legends={pair: legend for pair in pairs if RENDER_ERROR in pair},
        )

    def _slider(self, index: int, side: int, pairs: Sequence[tuple[str, str]]) -> Markup:
        view = self.views[index]
        pictures: dict[str, Any] = {RENDER: view.render, ENHANCED: view.enhanced, TRUTH: view.truth}
        pictures[RENDER_ERROR] = error_map(view.render, view.truth)
        if view.enhanced is not None:
            pictures[ENHANCED_ERROR] = error_map(view.enhanced, view.truth)
        pictures = {ENLARGED: view.enlarged, LOW: view.low, **pictures}
        if self.plain:
            pictures = {PLAIN: self.plain[index].render, **pictures}
        shown = {name: picture(values, side) for name, values in pictures.items() if values is not None}
        # the first two are shown first
        names = [name for name in dict.fromkeys((*pairs[0], *shown)) if name in shown]
        return slider({name: shown[name] for name in names}, view.name, self._numbers(index))

    def _numbers(self, index: int) -> str:
        if not self.render:
            return ""
        render, enhanced = self.render[index], self.enhanced[index]
        before = f"plain {self.before[index]['psnr']:.2f}; " if self.before else ""
        if (enlarged := self.enlarged[index]) is not None:
            before += f"bicubic {enlarged['psnr']:.2f}; "
        return f"{before}{render['psnr']:.2f}" + (f" → {enhanced['psnr']:.2f} dB" if enhanced else " dB")

    def _table(self) -> str:
        if not self.render:
            return "The pictures are too small for metrics."
        rows: list[list[str | Cell]] = [
            [
                view.name or str(number),
                *self._cells(self.enlarged[number], self.render[number], self.enhanced[number]),
                "-" if view.seconds is None else f"{view.seconds:.2f}",
            ]
            for number, view in enumerate(self.views)
        ]
        times = [view.seconds for view in self.views if view.seconds is not None]
        mean_time = f"{statistics.fmean(times):.2f}" if times else "-"
        means = _mean_of_all(self.enlarged), mean_metrics(self.render), self._mean_enhanced()
        mean: list[str | Cell] = ["mean", *self._cells(*means), mean_time]
        columns = self._columns()
        headings = ["view"] + columns * len(self.render[0]) + ["seconds"]
        groups = [("", 1), *((METRICS[key].heading, len(columns)) for key in self.render[0]), ("enhancer", 1)]
        return table(headings, rows, groups, [mean])

    def _columns(self) -> list[str]:
        """Return what each metric is of."""
        return [*(["bicubic"] if any(metrics is not None for metrics in self.enlarged) else []), "render", "enhanced"]

    def _cells(self, *metrics: dict[str, float] | None) -> list[Cell]:
        """Return a row's cells, of the enlarged photo, the render and the enhanced picture."""
        columns = self._columns()
        rows = metric_table({name: m or {} for name, m in zip(columns, metrics[-len(columns) :], strict=True)}).rows
        return [cell for together in zip(*(row[1:] for row in rows), strict=True) for cell in together]


def _mean_of_all(metrics: Sequence[dict[str, float] | None]) -> dict[str, float] | None:
    """Return the mean; None where some are missing."""
    there = [each for each in metrics if each is not None]
    return mean_metrics(there) if there and len(there) == len(metrics) else None


def measure(
    views: Sequence[HeldOutView],
    plain: Sequence[HeldOutView] | None = None,
    distances: Sequence[LazyLPIPS] = (),
) -> HeldOut:
    """Metrics of every view, of its render and of its enhanced picture.

    Args:
        views: of a training.
        plain: the same views of plain splatfacto.
        distances: measured as well where their weights are there and all pictures large enough.
    """
    smallest = min(views, key=lambda view: min(view.render.shape[:2]), default=None)
    if smallest is None or min(smallest.render.shape[:2]) < _MIN_SIDE:
        return HeldOut(views, plain)
    usable = [each for each in distances if not math.isnan(each.measure(smallest.render, smallest.truth))]

    def metrics(picture: Tensor, truth: Tensor) -> dict[str, float]:
        return image_metrics(picture, truth) | {each.column: each.measure(picture, truth) for each in usable}

    return HeldOut(
        views,
        plain,
        [metrics(view.render, view.truth) for view in views],
        [None if view.enhanced is None else metrics(view.enhanced, view.truth) for view in views],
        [metrics(view.render, view.truth) for view in plain or ()],
        [None if view.enlarged is None else metrics(view.enlarged, view.truth) for view in views],
    )
