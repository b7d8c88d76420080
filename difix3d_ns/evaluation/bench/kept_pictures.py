"""Held-out renders of a benchmark, kept without loss: what pages show, and LPIPS and FID are computed from."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from difix3d_ns.io.images import read_picture, write_picture

TRUTH = "truth"


def keep_pictures(output: Path, row: Mapping[str, Any], pictures: Sequence[Tensor], truths: Sequence[Tensor]) -> None:
    """Write a row's renders, and the truths, which all rows of a scene share.

    Args:
        output: folder of the benchmark.
        row: of which the renders are.
        pictures: [H, W, 3] each, in [0, 1].
        truths: [H, W, 3] each, in [0, 1].
    """
    folder = _folder(output, row)
    shutil.rmtree(folder, ignore_errors=True)
    for view, (picture, truth) in enumerate(zip(pictures, truths, strict=True)):
        write_picture(folder / f"{view:03d}.png", picture)
        write_picture(_truth(output, row, folder / f"{view:03d}.png"), truth)


def kept_views(output: Path, row: Mapping[str, Any]) -> dict[Path, Path]:
    """Render -> truth of the views that are kept of a row, in order."""
    pairs = {path: _truth(output, row, path) for path in sorted(_folder(output, row).glob("*.png"))}
    return {picture: truth for picture, truth in pairs.items() if truth.is_file()}


def read_pictures(paths: Iterable[Path]) -> Iterator[Tensor]:
    """Pictures [H, W, 3] in [0, 1], one at a time."""
    return (read_picture(path).image for path in paths)


def _folder(output: Path, row: Mapping[str, Any]) -> Path:
    return output / "pictures" / row["scene"] / row["method"] / f"seed-{row['seed']}"


def _truth(output: Path, row: Mapping[str, Any], picture: Path) -> Path:
    return output / "pictures" / row["scene"] / TRUTH / picture.name
