"""Times as people read them."""

from __future__ import annotations

import math


def duration(seconds: float | None) -> str:
    """Format seconds for people: 0.84 s, 12 s, 4 min 28 s, 2 h 05 min."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 10:
        return f"{seconds:.2g} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
