"""Initial points without open3d."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from difix3d_ns.ns.dataparsers.point_file import read_points

POSITIONS = np.array([[0, 1, 2], [3.5, -4, 5], [6, 7, -8]], dtype=np.float32)
COLOURS = np.array([[255, 0, 0], [0, 128, 0], [1, 2, 3]], dtype=np.uint8)


def _write(path: Path, positions: np.ndarray, colours: np.ndarray | None, text: bool, kind: str = "f4") -> Path:
    fields = [(axis, kind) for axis in "xyz"]
    if colours is not None:
        fields += [(name, colours.dtype.str) for name in ("red", "green", "blue")]
    rows = np.empty(len(positions), dtype=fields)
    for i, axis in enumerate("xyz"):
        rows[axis] = positions[:, i]
    if colours is not None:
        for i, name in enumerate(("red", "green", "blue")):
            rows[name] = colours[:, i]
    PlyData([PlyElement.describe(rows, "vertex")], text=text).write(str(path))
    return path


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_ascii_and_binary(text: bool, kind: str, tmp_path: Path) -> None:
    points = read_points(_write(tmp_path / "p.ply", POSITIONS, COLOURS, text, kind))
    assert points is not None
    assert points.positions.dtype == np.float64 and points.colours.dtype == np.uint8
    assert np.array_equal(points.positions, POSITIONS) and np.array_equal(points.colours, COLOURS)


def test_float_colours_are_brought_to_bytes(tmp_path: Path) -> None:
    points = read_points(_write(tmp_path / "p.ply", POSITIONS, (COLOURS / 255).astype(np.float32), False))
    assert points is not None
    assert np.abs(points.colours.astype(int) - COLOURS).max() <= 1
    assert points.colours[0].tolist() == [255, 0, 0]


def test_wide_integer_colours_stay_bytes(tmp_path: Path) -> None:
    points = read_points(_write(tmp_path / "p.ply", POSITIONS, COLOURS.astype(np.int32), False))
    assert points is not None and np.array_equal(points.colours, COLOURS)


def test_colourless_points_are_grey(tmp_path: Path) -> None:
    points = read_points(_write(tmp_path / "p.ply", POSITIONS, None, True))
    assert points is not None and (points.colours == 128).all()


def test_points_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    bad = POSITIONS.copy()
    bad[1, 2] = np.nan
    points = read_points(_write(tmp_path / "p.ply", bad, COLOURS, False))
    assert points is not None
    assert np.array_equal(points.positions, POSITIONS[[0, 2]]) and np.array_equal(points.colours, COLOURS[[0, 2]])


def test_nothing_finite_is_none(tmp_path: Path) -> None:
    assert read_points(_write(tmp_path / "p.ply", np.full((2, 3), np.inf), None, False)) is None
    assert read_points(_write(tmp_path / "e.ply", np.zeros((0, 3)), None, False)) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"no ply", b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", bytes(range(256)) * 8],
)
def test_garbage_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.ply").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.ply.*remove `ply_file_path`"):
        read_points(tmp_path / "bad.ply")


def test_cut_off_file_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "cut.ply", POSITIONS, COLOURS, False)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"cut\.ply"):
        read_points(path)
