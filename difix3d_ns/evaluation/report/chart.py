"""Curves as SVG inside a page; colours and fonts are the page's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import uniform_filter1d

from difix3d_ns.evaluation.curves import Curve
from difix3d_ns.evaluation.report.templates import render

_MAX_POINTS = 240  # of a curve: more are not seen at this size
_MAX_DOTS = 11  # points that are marked one by one
_MIN_NOISY = 40  # points from which on a mean is drawn over them
_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH, _HEIGHT = 46, 18, 10, 24, 360, 190


def chart(
    title: str,
    curves: Sequence[Curve],
    marks: Sequence[int] = (),
    note: str = "",
    digits: int = 3,
    span: tuple[int, int] | None = None,
) -> Markup:
    """A small chart, for a grid of them; what is not finite is left out.

    Args:
        title: what is measured, with its unit.
        curves: at most three.
        marks: steps to point out by a thin line each.
        note: a sentence below.
        digits: significant ones, of what is read at the pointer.
        span: first and last step of the axis; None for those of the curves.
    """
    shown = [_thinned(curve) for curve in map(_finite, curves) if len(curve.steps)]
    if not shown:
        return Markup("")
    every = np.concatenate([curve.values for curve in shown])
    low, high = _range(every)
    first, last = span or (min(int(c.steps[0]) for c in shown), max(int(c.steps[-1]) for c in shown))
    last = last if last > first else first + 1
    across = _Axis(first, last, _LEFT, _WIDTH - _RIGHT)
    up = _Axis(low, high, _HEIGHT - _BOTTOM, _TOP)
    drawn = []
    for curve in shown:
        points, smooth = list(zip(curve.steps, curve.values, strict=True)), _smooth(curve.values)
        drawn.append(
            {
                "name": curve.name,
                "noise": _points(across, up, curve.steps, curve.values) if len(points) >= _MIN_NOISY else "",
                "line": _points(across, up, curve.steps, smooth),
                "dots": [(across(step), up(value)) for step, value in points] if len(points) <= _MAX_DOTS else [],
                "last": (across(curve.steps[-1]), up(smooth[-1])),
                "data": [[int(step), float(f"{value:.{digits}g}")] for step, value in points],
                "summary": f"{curve.name}: {_label(curve.values[0])} to {_label(curve.values[-1])}",
            }
        )
    return render(
        "chart.html",
        title=title,
        note=note,
        curves=drawn,
        marks=[across(mark) for mark in marks if first < mark <= last],
        rows=[(up(value), _label(value)) for value in _ticks(low, high, 4)],
        columns=[(across(value), f"{value:,.0f}") for value in _ticks(first, last, 4) if value == round(value)],
        axes={"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _WIDTH - _RIGHT, "top": _TOP}
        | {"bottom": _HEIGHT - _BOTTOM, "first": first, "last": last},
    )


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def _finite(curve: Curve) -> Curve:
    kept = np.isfinite(curve.values)
    return Curve(curve.name, np.asarray(curve.steps)[kept], np.asarray(curve.values, float)[kept])


def _thinned(curve: Curve) -> Curve:
    """Means over neighbours, where there are more points than can be seen; the last point stays."""
    if len(curve.steps) <= _MAX_POINTS:
        return curve
    parts = np.array_split(np.arange(len(curve.steps)), _MAX_POINTS)
    steps = np.array([curve.steps[part[-1]] for part in parts])
    return Curve(curve.name, steps, np.array([curve.values[part].mean() for part in parts]))


def _smooth(values: np.ndarray) -> np.ndarray:
    return uniform_filter1d(values, max(5, len(values) // 12), mode="nearest") if len(values) >= _MIN_NOISY else values


def _range(values: np.ndarray) -> tuple[float, float]:
    """Ends of the axis, without the few first values far from all others, which would press the rest flat."""
    low, high = float(values.min()), float(values.max())
    if len(values) >= _MIN_NOISY:
        near_low, near_high = np.percentile(values, [2, 98])
        spread = near_high - near_low
        low, high = max(low, near_low - 0.2 * spread), min(high, near_high + 0.2 * spread)
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return low - margin if low < 0 or low > margin else 0.0, high + margin


def _ticks(low: float, high: float, count: int) -> list[float]:
    return [float(v) for v in MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= v <= high]


def _points(across: _Axis, up: _Axis, steps: np.ndarray, values: np.ndarray) -> str:
    return " ".join(f"{across(step)},{up(value)}" for step, value in zip(steps, values, strict=True))


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
