"""Held-out views of a benchmark by how many training photos show what a pixel shows; for scenes with exact depth.

    difix3d bench scenes/* --output DIR --recipe few-photographs
    python -m benchmarks.by_visibility DIR scenes/object-0-3 scenes/object-1-3

For each method and class of pixels (seen by two photos or more, by one, by none): PSNR and correlation of detail over
all pixels of the class in all views, and the mean of LDR-FLIP there. Views without a pixel of a class do not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import flip_evaluator
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.few_photographs import camera_of_frame
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.kept_pictures import kept_views, read_pictures
from difix3d_ns.evaluation.bench.rows import read_rows
from difix3d_ns.io.images import read_picture
from difix3d_ns.metrics.high_pass import RunningCorrelation, high_pass
from difix3d_ns.training.depth_losses import surfaces_seen_at

CLASSES = ("two and more", "one", "none")
_FACTOR = 2.0  # of the reduction that loses what counts as detail


def classes_of(scene: Path) -> dict[str, Tensor]:
    """Number of training photos that show each pixel, [H, W] int, -1 for the sky, of each held-out photo by name."""
    meta = json.loads((scene / "transforms.json").read_text(encoding="utf-8"))
    frames = {frame["file_path"]: frame for frame in meta["frames"]}
    cameras = {name: camera_of_frame(frame) for name, frame in frames.items()}

    def depth(name: str) -> Tensor:
        path = scene / name.replace("images/", "depths/").replace(".png", ".npy")
        if not path.is_file():
            raise UserError(f"{path} is missing: only scenes with exact depth are divided by visibility")
        return torch.from_numpy(np.load(path))

    counts = {}
    for name in meta["val_filenames"]:
        own = depth(name)
        seen = [
            surfaces_seen_at(own, cameras[name], depth(photo)[..., None], cameras[photo])
            for photo in meta["train_filenames"]
        ]
        counts[name] = torch.where(own > 0, torch.stack(seen).sum(0), -1)
    return counts


def measure(output: Path, scene: Path, row: Mapping[str, Any], counts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Metrics of a row by class."""
    photos = {name: read_picture(scene / name).image for name in counts}
    squares, flips, pixels = np.zeros(3), np.zeros(3), np.zeros(3)
    detail = [RunningCorrelation() for _ in CLASSES]
    for picture_path, truth_path in kept_views(output, row).items():
        picture, truth = read_pictures([picture_path, truth_path])
        name = min(photos, key=lambda one: float((photos[one] - truth).square().mean()))
        error = flip_map(truth, picture)
        edges = high_pass(picture.double(), _FACTOR), high_pass(truth.double(), _FACTOR)
        for number, mask in enumerate((counts[name] >= 2, counts[name] == 1, counts[name] == 0)):
            squares[number] += float((picture - truth).square().mean(-1)[mask].sum())
            flips[number] += float(error[mask].sum())
            pixels[number] += int(mask.sum())
            detail[number].add(edges[0][mask], edges[1][mask])
    if not pixels.sum():
        raise UserError(
            f"{output} keeps no pictures of {scene.name}, {row['method']}: give the folder of a benchmark of it"
        )
    found = {}
    for number, name in enumerate(CLASSES):
        if pixels[number]:
            found[name] = {
                "share": pixels[number] / pixels.sum(),
                "psnr": -10 * np.log10(max(squares[number] / pixels[number], 1e-10)),
                "flip": flips[number] / pixels[number],
                "detail": detail[number].value,
            }
    return found


def flip_map(truth: Tensor, picture: Tensor) -> Tensor:
    """LDR-FLIP [H, W] of a picture [H, W, 3] by the truth."""
    error, _, _ = flip_evaluator.evaluate(
        truth.contiguous().numpy(), picture.contiguous().numpy(), "LDR", inputsRGB=True, applyMagma=False
    )
    return torch.from_numpy(error)[..., 0]


def main(output: Annotated[Path, tyro.conf.Positional], scenes: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Print tables.

    Args:
        output: folder of a benchmark.
        scenes: that it trained on, with exact depth.
    """
    rows = [row for path in sorted(output.glob("runs/*/*/*/rows.jsonl")) for row in read_rows(path)]
    found: dict[str, list[dict[str, Any]]] = {}
    for scene in scenes:
        counts = classes_of(scene)
        for row in rows:
            if row["scene"] == scene.resolve().name:
                found.setdefault(row["method"], []).append(measure(output, scene, row, counts))
    table = Table("method", *(f"{name}: PSNR / FLIP / detail" for name in CLASSES))
    for method, each in found.items():
        cells = []
        for name in CLASSES:
            there = [one[name] for one in each if name in one]
            means = [float(np.mean([one[key] for one in there])) for key in ("psnr", "flip", "detail", "share")]
            cells.append(f"{means[0]:.2f} / {means[1]:.3f} / {means[2]:.3f} ({means[3]:.0%})")
        table.add_row(f"{method} ({len(each)})", *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
