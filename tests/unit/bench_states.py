"""Finished jobs of a benchmark on disk, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difix3d_ns.evaluation.bench.bench_recipe import Recipe
from difix3d_ns.evaluation.bench.job import Job, State, look_identity
from difix3d_ns.io.atomic import write_json

METRICS = {"ssim": 0.8, "flip": 0.2, "lpips": None, "fid": None, "seconds": 10.0, "gaussians": 1000, "peak_mb": 900.0}


def finish(job: Job, recipe: Recipe, output: Path, psnr: Mapping[str, float], **others: Any) -> State:
    """Write the state of a job whose parts have these PSNRs; ``others`` replace metrics of all parts."""
    looks = {method.name: look_identity(method) for method in recipe.looks(job.training)}
    state: State = {
        "id": f"{job.scene.name}-{job.training}-{job.seed}",
        "scene": job.scene.name,
        "training": job.training,
        "seed": job.seed,
        "identity": job.identity(recipe),
        "commit": "0123456789",
        "date": "2026-11-21",
        "hardware": "2 CPU cores",
        "software": {"torch": "2"},
        "seconds": 10.0,
        "peak_mb": 900.0,
        "size": [480, 320],
        "parts": {
            name: {"look": looks[name.partition("@")[0]], "metrics": {"psnr": value, **METRICS, **others}}
            for name, value in psnr.items()
        },
    }
    write_json(job.folder(output) / "job.json", state)
    return state
