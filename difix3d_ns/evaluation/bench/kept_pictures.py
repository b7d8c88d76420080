"""Held-out renders of a benchmark, kept without loss: what pages show, and LPIPS and FID are computed from."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.io.images import read_mask, read_picture, write_picture

TRUTH = "truth"
_MASK = "mask"


def keep_pictures(
    output: Path,
    row: Mapping[str, Any],
    pictures: Sequence[Tensor],
    truths: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None = None,
) -> None:
    """Write a row's renders, and the truths and evaluation masks, which all rows of a scene share.

    Args:
        output: folder of the benchmark.
        row: of which the renders are.
        pictures: [H, W, 3] each, in [0, 1].
        truths: [H, W, 3] each, in [0, 1].
        masks: [H, W, 1] bool each, or None for all pixels: outside, both pictures are written black.
    """
    folder = _folder(output, row)
    shutil.rmtree(folder, ignore_errors=True)
    for view, (picture, truth, mask) in enumerate(zip(pictures, truths, masks or [None] * len(truths), strict=True)):
        file = folder / f"{view:03d}.png"
        used = 1 if mask is None else mask.float()
        write_picture(file, picture * used)
        write_picture(_truth(output, row, file), truth * used)
        if mask is None:
            _mask(_truth(output, row, file)).unlink(missing_ok=True)
        else:
            write_picture(_mask(_truth(output, row, file)), mask.float().expand(-1, -1, 3))


def kept_views(output: Path, row: Mapping[str, Any]) -> dict[Path, Path]:
    """Render -> truth of the views that are kept of a row, in order."""
    pairs = {path: _truth(output, row, path) for path in sorted(_folder(output, row).glob("*.png"))}
    return {picture: truth for picture, truth in pairs.items() if truth.is_file()}


def read_pictures(paths: Iterable[Path]) -> Iterator[Tensor]:
    """Pictures [H, W, 3] in [0, 1], one at a time."""
    return (read_picture(path).image for path in paths)


def kept_mask(truth: Path) -> Tensor | None:
    """Evaluation mask [H, W, 1] bool of a kept truth; None where all pixels count."""
    file = _mask(truth)
    return torch.from_numpy(read_mask(file)) if file.is_file() else None


def _mask(truth: Path) -> Path:
    return truth.parents[1] / _MASK / truth.name


def _folder(output: Path, row: Mapping[str, Any]) -> Path:
    return output / "pictures" / row["scene"] / row["method"] / f"seed-{row['seed']}"


def _truth(output: Path, row: Mapping[str, Any], picture: Path) -> Path:
    return output / "pictures" / row["scene"] / TRUTH / picture.name
