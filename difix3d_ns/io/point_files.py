"""Coloured points as PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement


def write_points(positions: np.ndarray, colours: np.ndarray, path: Path, text: bool = True) -> None:
    """Write points as a PLY file of the digits that they have.

    Args:
        positions: [N, 3] float32 or float64.
        colours: [N, 3] uint8.
        path: of the file.
        text: readable by people; else binary.
    """
    rows = np.empty(
        len(positions), [(n, positions.dtype) for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")]
    )
    for i, name in enumerate(("x", "y", "z", "red", "green", "blue")):
        rows[name] = positions[:, i] if i < 3 else colours[:, i - 3]
    PlyData([PlyElement.describe(rows, "vertex")], text=text).write(str(path))
