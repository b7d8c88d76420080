"""Rounds over a small scene and a splat that is the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from difix3d_ns.guidance.difix import DifixConfig, DifixGuidance
from difix3d_ns.io.run import Run
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.priors.fixer_config import FixerConfig
from tests.stand_ins import FlatRenderer, ModelOfScene
from tests.unit.tiny_scene import datamanager, write_scene

STEPS = 400


def short_rounds(
    folder: Path, references: int = 3, views_per_step: int = 1, rounds: int = 1, steps: int = STEPS, **settings: Any
) -> tuple[DifixGuidance, FlatRenderer]:
    """A guidance of four targets, photographs of a scene, that has its rounds before it."""
    manager = datamanager(write_scene(folder / "scene", count=21))
    scene = TrainingScene(manager, ModelOfScene(len(manager.train_dataset)))
    renderer = FlatRenderer(fit_from=10)
    config = DifixConfig(rounds=rounds, fixer=FixerConfig(name="none", references=references), **settings)
    guidance = DifixGuidance(config)
    run = Run(steps, images=len(manager.train_dataset), folder=folder)
    guidance.setup(scene, renderer, ReferenceViews(scene, renderer), run)
    guidance._targets, guidance._current = scene.cameras()[:4], list(range(4))
    guidance.schedule = replace(guidance.schedule, views_per_step=views_per_step)
    guidance.queue.per_step = views_per_step
    return guidance, renderer


def train_through(guidance: DifixGuidance, renderer: FlatRenderer, steps: int = STEPS) -> list[tuple[int, int]]:
    """(renderings of the splat, new views) of every step in which there were any."""
    counts = []
    for step in range(steps):
        before = len(renderer.rendered), len(guidance.pool)
        renderer.step = step
        assert not guidance.before_step(step)
        after = len(renderer.rendered), len(guidance.pool)
        if after != before:
            counts.append((after[0] - before[0], after[1] - before[1]))
    return counts
