"""Choice of a few places out of many, evenly spaced."""

from __future__ import annotations

import numpy as np


def evenly_spaced(total: int, count: int, ends: bool = True) -> list[int]:
    """Choose at most ``count`` of the numbers below ``total``, evenly spaced.

    Args:
        total: above the largest number.
        count: at most so many.
        ends: the first and the last are among them; else those in the middle of as many equal parts.

    Returns:
        Rising, each once.
    """
    count = min(count, total)
    if ends:
        return np.linspace(0, total - 1, count).round().astype(int).tolist()
    return [int((place + 0.5) * total / count) for place in range(count)]
