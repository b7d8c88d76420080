"""How much a fixer that gives nothing but noise can spoil: pseudo-views are noise, their confidence is the real one.

    python benchmarks/bad_fixer.py SCENE... --output DIR [--steps N] [--seed N]

Trains each scene three times: plain; with pseudo-views that are noise; and plain with the two other things that
training with pseudo-views brings (stereo points and floater pruning), so that they cannot hide the damage. Prints
held-out PSNR, SSIM and FLIP and the differences. This file is also the fixer: a module with a function ``load``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from difix3d_ns.evaluation.runs import evaluate, train
from difix3d_ns.evaluation.table import metric_table
from difix3d_ns.metrics.image import image_metrics, mean_metrics
from difix3d_ns.priors import embedded
from difix3d_ns.priors.alignment.aligned_references import Aligned
from difix3d_ns.priors.base import FixRequest

ROOT = Path(__file__).resolve().parents[1]
BOUND = 0.5  # dB


class NoiseFixer(embedded.EmbeddedFixer):
    """The embedded fixer with noise in place of its picture; alignment and confidence are as ever."""

    def _run(self, requests: list[FixRequest], aligned: list[Aligned]) -> list[Tensor]:
        pictures = []
        for request in requests:
            generator = torch.Generator().manual_seed(request.seed)
            noise = torch.rand(3, *request.image.shape[:2], generator=generator)
            pictures.append(noise.to(request.image.device))
        return pictures


def load(
    weights: str | None = None, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> NoiseFixer:
    """As the registry of fixers wants it."""
    return NoiseFixer(embedded.load(weights, device or "cpu", dtype).chain)


def main(scenes: Annotated[list[Path], tyro.conf.Positional], output: Path, steps: int | None = None, seed: int = 0):
    """Compare on scenes with evaluation views.

    Args:
        scenes: folders with transforms.json.
        output: folder for the trainings; they are made anew.
        steps: of every training (unset: the default of the device).
        seed: of every training.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    shared = ["--steps-per-eval-image", "0", "--steps-per-eval-all-images", "0", "--machine.seed", str(seed)]
    shared += ["--pipeline.datamanager.train-cameras-sampling-seed", str(42 + seed)]
    shared += ["--max-num-iterations", str(steps)] if steps else []
    geometry = ["--pipeline.initial-points.stereo", "12000", "--pipeline.floaters.min-depth", "0.5"]
    no_rounds = ["--pipeline.guidance.rounds", "0"]
    runs = {
        "plain": [*no_rounds, "--pipeline.sparse-helps", "False"],
        "plain with stereo points and floater pruning": [*no_rounds, *geometry],
        "noise as fixer": ["--pipeline.guidance.fixer.name", "benchmarks.bad_fixer", *geometry],
    }
    worst = 0.0
    for scene in scenes:
        results = {}
        for number, (name, flags) in enumerate(runs.items()):
            log = output / scene.name / f"{number}.txt"
            log.parent.mkdir(parents=True, exist_ok=True)
            run = train(scene, output / scene.name, str(number), [*shared, *flags], log)
            views = evaluate(run.config, enhance=False).views
            results[name] = mean_metrics([image_metrics(view.render, view.truth) for view in views])
        print(f"\n{scene.name}\n\n{metric_table(results).markdown()}\n")
        bad = results["noise as fixer"]["psnr"]
        for name in list(runs)[:2]:
            print(f"noise over {name}: {bad - results[name]['psnr']:+.2f} dB")
            worst = min(worst, bad - results[name]["psnr"])
    told = f"worst: {worst:+.2f} dB, allowed {-BOUND:+.2f} dB"
    if worst < -BOUND:
        raise SystemExit(f"\n{told}: missed")
    print(f"\n{told}: kept")


if __name__ == "__main__":
    tyro.cli(main)
