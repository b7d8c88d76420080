"""One world filmed with 12, 30, 60 and 120 photographs: what the default is worth where photographs are many.

    python benchmarks/many_photos.py OUTPUT [--counts 60 120] [--methods plain difix3d] [--seeds 0 1]

The camera goes twice around a table, once lower and once higher. The photographs of a smaller capture are every second,
fourth or tenth of the largest one, the held-out views between them are the same for all, and given points grow with
the photographs as structure from motion finds them. Every training runs the real commands in a process of its own
with one thread. Started again it goes on where it stopped; ``rows.jsonl`` keeps what was measured.
"""

from __future__ import annotations

import json
import math
import os
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from difix3d_ns.data.procedural import View, photograph_world, write_views
from difix3d_ns.data.procedural.trajectories import CameraPath
from difix3d_ns.data.procedural.worlds import World, training_world
from difix3d_ns.evaluation import runs
from difix3d_ns.evaluation.bench import provenance
from difix3d_ns.metrics.image import image_metrics, mean_metrics

COUNTS = (12, 30, 60, 120)
HELD_OUT = 16
POINTS_PER_PHOTO = 290  # as many as COLMAP found in a capture of 112
SHARED = {"steps-per-eval-image": 0, "steps-per-eval-all-images": 0, "pipeline.datamanager.pose-frame": "train"}
NO_PSEUDO_VIEWS = {"pipeline.guidance.rounds": 0}
METHODS: dict[str, dict[str, Any]] = {
    "plain": {**NO_PSEUDO_VIEWS, "pipeline.sparse-helps": False},
    "helps": NO_PSEUDO_VIEWS,
    "difix3d": {},
}
"""name -> flags of ns-train difix3d-splatfacto"""


def world_of(number: int) -> World:
    """A tabletop, and a path of two turns around it."""
    world = training_world(2002 + 5 * number, "tabletop")
    radius = float(np.linalg.norm(world.path.position(0.0)[:2]))

    def position(s: float) -> np.ndarray:
        angle = 4 * math.pi * s
        return np.array([radius * math.cos(angle), radius * math.sin(angle), 1.15 + 0.6 * s])

    return replace(world, path=CameraPath(position, world.path.target))


def write_captures(output: Path, number: int = 0) -> dict[int, Path]:
    """Write the captures that are missing, as nerfstudio datasets; return them by their number of photographs."""
    folders = {count: output / f"world-{number}" / f"{count:03d}-photos" for count in COUNTS}
    missing = [count for count, folder in folders.items() if not (folder / "transforms.json").is_file()]
    if missing:
        rng = np.random.default_rng([17, number])
        views = photograph_world(world_of(number), rng, train_views=max(COUNTS), test_views=HELD_OUT, beyond=0.0)
        for count in missing:
            chosen = every(views, max(COUNTS) // count)
            write_views(chosen, folders[count], np.random.default_rng([18, number]), points=POINTS_PER_PHOTO * count)
    return folders


def every(views: Sequence[View], nth: int) -> list[View]:
    """Every nth photograph, and all held-out views."""
    photographs = [index for index, view in enumerate(views) if view.training]
    kept = set(photographs[::nth])
    return [view for index, view in enumerate(views) if index in kept or not view.training]


def measure(scene: Path, folder: Path, flags: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train and evaluate; the seconds are of the processor, since other work may run beside."""
    seeds = {"machine.seed": seed, "pipeline.datamanager.train-cameras-sampling-seed": 42 + seed}
    words = [f"--{name}={value}" for name, value in {**SHARED, **flags, **seeds}.items()]
    steps = ["--max-num-iterations=2000"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder.mkdir(parents=True, exist_ok=True)
    done = runs.train(scene, folder, "training", [*steps, *words], log=folder / "log.txt")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = runs.evaluate(done.config, enhance=False)
    return {
        **mean_metrics([image_metrics(view.render, view.truth) for view in found.views]),
        "gaussians": found.gaussians,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "seconds": done.seconds,
    }


def warm_up(scene: Path, folder: Path) -> None:
    """Compile what is compiled at the first use."""
    flags = {**SHARED, **NO_PSEUDO_VIEWS, "pipeline.initial-points.stereo": 0, "max-num-iterations": 10}
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"--{name}={value}" for name, value in flags.items()]
    runs.train(scene, folder, "warm-up", words, log=folder / "warm-up.txt")


def main(
    output: Annotated[Path, tyro.conf.Positional],
    counts: tuple[int, ...] = COUNTS,
    methods: tuple[str, ...] = ("plain", "difix3d"),
    seeds: tuple[int, ...] = (0,),
    world: int = 0,
    label: str = "",
) -> None:
    """Train and evaluate, and print a row for each.

    Args:
        output: folder of captures and trainings.
        counts: of photographs; divisors of 120.
        methods: names of METHODS.
        seeds: of the trainings.
        world: number of the world; 0 is the one of the table in docs/many_photos.md.
        label: of the code, to tell two versions of it apart (unset: its commit).
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    label = label or provenance.commit()
    scenes = write_captures(output, world)
    rows = output / "rows.jsonl"
    known = [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []
    warm = False
    for count in counts:
        for seed in seeds:
            for method in methods:
                key = {"world": world, "photos": count, "method": method, "seed": seed, "label": label}
                row = next((row for row in known if key.items() <= row.items()), None)
                if row is None:
                    folder = output / "runs" / label / f"world-{world}" / f"{count:03d}-{method}-{seed}"
                    if not warm:
                        warm_up(scenes[count], folder)
                        warm = True
                    row = key | measure(scenes[count], folder, METHODS[method], seed)
                    with rows.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                quality = f"{row['psnr']:.2f} / {row['ssim']:.3f} / {row['flip']:.3f}"
                print(
                    f"| {count} | {method} ({label}) | {seed} | {quality} "
                    f"| {row['gaussians']} | {row['cpu_seconds']:.0f} s |",
                    flush=True,
                )


if __name__ == "__main__":
    tyro.cli(main)
