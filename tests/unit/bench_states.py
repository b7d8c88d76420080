"""Finished runs of a benchmark on disk, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difix3d_ns.evaluation.bench.bench_recipe import Recipe
from difix3d_ns.evaluation.bench.job import Job, row_of
from difix3d_ns.evaluation.bench.rows import Row, add_rows
from difix3d_ns.io.atomic import write_json

METRICS = {"ssim": 0.8, "flip": 0.2, "lpips_alex": None, "lpips_vgg": None, "seconds": 10.0, "gaussians": 1000}


def finish(job: Job, recipe: Recipe, output: Path, psnr: Mapping[str, float], **others: Any) -> list[Row]:
    """Write a training and rows of these PSNRs by name; ``others`` replace metrics of all of them."""
    trained: Row = {
        "run": f"{job.scene.name}-{job.training}-{job.seed}",
        "scene": job.scene.name,
        "seed": job.seed,
        **job.identity(recipe),
        "commit": "0123456789",
        "date": "2026-11-21",
        "hardware": "2 CPU cores",
        "software": {"torch": "2"},
        "seconds": 10.0,
        "peak_mb": 900.0,
    }
    rows = []
    for name, value in psnr.items():
        method, _, step = name.partition("@")
        metrics = {"psnr": value, **METRICS, **others}
        row = row_of(trained, recipe, recipe.methods[method], metrics, int(step) if step else None)
        rows.append(row | {"size": [480, 320]})
    write_json(job.folder(output) / "training.json", trained)
    add_rows(job.rows(output), rows)
    return rows
