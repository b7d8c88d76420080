"""Whether an exported splat shows what was measured: held-out views of a training, and of its .ply alone.

    python benchmarks/exported.py outputs/SCENE/METHOD/TIME ...

The .ply is drawn as other viewers do, with nothing but a near plane of 0.01 before it.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from difix3d_ns.apps.export_splat import Exported, export, load_pipeline
from difix3d_ns.evaluation.report.training import read_training
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.ns.starting_splat import read_ply

_NEAR = 0.01


@torch.no_grad()
def psnr(pipeline: Any) -> float:
    """Mean PSNR of the held-out views in dB."""
    found = []
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        truth = pipeline.model.get_gt_img(batch["image"])[..., :3]
        render = pipeline.model.get_outputs_for_camera(camera)["rgb"]
        found.append(float(image_metrics(render, truth)["psnr"]))
    return statistics.fmean(found)


def measure(config: Path) -> tuple[float, float, Exported]:
    """PSNR of a training, and of what is exported of it."""
    pipeline = load_pipeline(config)
    pipeline.model.enhance = "off"
    ours = psnr(pipeline)
    with tempfile.TemporaryDirectory() as folder:
        done = export(config, Path(folder) / "splat.ply")
        for name, values in read_ply(done.file).items():
            pipeline.model.gauss_params[name] = torch.nn.Parameter(values.to(pipeline.model.device))
    pipeline.model.near_plane = _NEAR
    return ours, psnr(pipeline), done


def main(trainings: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> None:
    """Measure and print a table."""
    table = Table("training", "PSNR", "as exported", "Gaussians", "left out")
    for training in trainings:
        config = read_training(training).path
        ours, theirs, done = measure(config)
        left = ", ".join(f"{count} {reason}" for reason, count in done.left_out.items() if count)
        table.add_row(config.parent.as_posix()[-60:], f"{ours:.3f}", f"{theirs:.3f}", str(done.gaussians), left)
    Console(width=180).print(table)


if __name__ == "__main__":
    tyro.cli(main)
