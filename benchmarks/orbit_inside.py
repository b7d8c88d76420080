"""What `difix3d bench --recipe hi3d` found, inside of the objects: `python -m benchmarks.orbit_inside DIR SCENE...`.

White or dark, most of these pictures is background, which flatters every figure of whole pictures. Here only pixels
count of which the held-out view's silhouette covers more than half.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.by_visibility import flip_map
from difix3d_ns.evaluation.bench.kept_pictures import kept_views, read_pictures
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.io.images import read_picture

_METRICS = {"psnr_inside": 2, "flip_inside": 4}


def measured(output: Path, scene: Path, method: str, seed: int) -> dict[str, float] | None:
    """Mean metrics of a scene's held-out views inside of the object; None where no render of the method is kept."""
    held_out = json.loads((scene / "transforms.json").read_text())["test_filenames"]
    views = kept_views(output, {"scene": scene.name, "method": method, "seed": seed})
    if len(views) != len(held_out):
        return None
    errors, differences = [], []
    for name, picture, truth in zip(held_out, read_pictures(views), read_pictures(views.values()), strict=True):
        alpha = read_picture(scene / name).alpha
        assert alpha is not None, f"{name} is not cut out"
        inside = alpha[..., 0] > 0.5
        errors.append(-10 * float((picture - truth).square().mean(-1)[inside].mean().clamp_min(1e-10).log10()))
        differences.append(float(flip_map(truth, picture)[inside].mean()))
    return {"psnr_inside": float(np.mean(errors)), "flip_inside": float(np.mean(differences))}


def main(
    output: Annotated[Path, tyro.conf.Positional],
    scenes: Annotated[Sequence[Path], tyro.conf.Positional],
    methods: tuple[str, ...] = ("sparse", "hi3d"),
    seed: int = 0,
    record: Path | None = None,
) -> None:
    """Print a table.

    Args:
        output: of the benchmark.
        scenes: of `python -m benchmarks.orbit_scenes`.
        methods: of the recipe.
        seed: of the trainings.
        record: file to add a line to for each scene and method.
    """
    table = Table("scene", "method", *(name.replace("_", " ") for name in _METRICS))
    for scene in scenes:
        for method in methods:
            row = measured(output, scene, method, seed)
            if row is None:
                continue
            table.add_row(scene.name, method, *(f"{row[name]:.{digits}f}" for name, digits in _METRICS.items()))
            if record is not None:
                facts = {"scene": scene.name, "method": method, "seed": seed, "commit": commit()}
                with open(record, "a", encoding="utf-8") as file:
                    print(json.dumps({**facts, "date": str(date.today()), **row}), file=file)
    Console(width=100).print(table)


if __name__ == "__main__":
    tyro.cli(main)
