"""Initial points from a PLY file, without open3d."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from difix3d_ns.ns.dataparsers.described_scene import PointsGiven


def read_points(path: Path) -> PointsGiven | None:
    """Positions and colours of a PLY point cloud.

    Args:
        path: an ASCII or binary PLY with a ``vertex`` element.

    Returns:
        The finite points (grey where the file has no colours), or None if there is none in it.

    Raises:
        ValueError: the file is no readable PLY; the message names it.
    """
    from plyfile import PlyData, PlyParseError

    try:
        vertices = PlyData.read(str(path))["vertex"]
        positions = np.stack([np.asarray(vertices[axis], dtype=np.float64) for axis in "xyz"], axis=-1)
    except (PlyParseError, KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"cannot read the initial points in {path} ({error}); "
            "fix the file, or remove `ply_file_path` from transforms.json to start from random points"
        ) from error
    names = vertices.data.dtype.names or ()
    if {"red", "green", "blue"} <= set(names):
        channels = np.stack([np.asarray(vertices[name]) for name in ("red", "green", "blue")], axis=-1)
        scale = 255 if channels.dtype.kind == "f" else 1
        colours = (channels * scale).round().clip(0, 255).astype(np.uint8) if channels.dtype != np.uint8 else channels
    else:
        colours = np.full(positions.shape, 128, dtype=np.uint8)
    finite = np.isfinite(positions).all(axis=-1)
    if not finite.any():
        return None
    return PointsGiven(positions[finite], np.ascontiguousarray(colours[finite]))
