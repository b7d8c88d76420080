"""Rounds of fixing four views of a grey splat by a fixer that changes nothing, without a training around them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from difix3d_ns.enhance.enhancer import FixerSettings
from difix3d_ns.guidance.rounds import FixRounds
from difix3d_ns.guidance.schedule import plan_rounds
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.views.pool import Pool
from tests.stand_ins import GreySplat
from tests.unit.tiny_scene import datamanager, write_scene


def rounds_of(
    folder: Path, references: int = 3, views_per_step: int = 1, keep_depth: bool = False
) -> tuple[FixRounds, GreySplat]:
    manager = datamanager(write_scene(folder / "scene", count=21))
    splat = GreySplat(len(manager.train_dataset))
    photographs = ReferenceViews(manager, splat)  # type: ignore[arg-type]
    schedule = plan_rounds(400, 1, first_densification=10, reset_every=0, refine_stop=200)
    return (
        FixRounds(
            replace(schedule, views_per_step=views_per_step),
            photographs.cameras()[:4],
            photographs,
            splat,  # type: ignore[arg-type]
            FixerSettings(name="none", references=references),
            Pool(8, folder / "pool"),
            keep_depth,
        ),
        splat,
    )


def train_through(rounds: FixRounds, splat: GreySplat) -> list[tuple[int, int]]:
    """(renderings of the splat, new pseudo-views) of every step in which there were any."""
    counts = []
    for step in range(400):
        before = len(splat.rendered), len(rounds.pool)
        splat.step = step
        rounds.before_step(step)
        assert splat.training
        after = len(splat.rendered), len(rounds.pool)
        if after != before:
            counts.append((after[0] - before[0], after[1] - before[1]))
    return counts
