"""Budgets of what a GPU waits for: kernels, waits and copies of a training step and of a repaired view.

Counted on a pretended device, where they are the same on every machine. Lower a number when the code does better.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import pytest

from difix3d_ns.guidance.fixing import ViewFixer
from difix3d_ns.ns.pipeline import GuidedPipeline
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.pretended_cuda import KINDS, Kind, Traffic, counting, pretended_cuda
from tests.unit.short_training import short_config, train

BUDGETS: dict[str, dict[Kind, float]] = {
    "photograph step": {"kernels": 0, "waits": 0, "h2d": 0, "d2h": 0, "rasterizations": 0},
    "pseudo-view step": {"kernels": 0, "waits": 0, "h2d": 0, "d2h": 0, "rasterizations": 0},
    "repaired view": {"kernels": 0, "waits": 0, "h2d": 0, "d2h": 0, "rasterizations": 0},
}
"""Medians over steps; a repaired view is the share of one in a batch of four, with three references, its render and its
median depth included, those of the photographs not."""
STEPS, VIEWS = 60, 4


class Ledger:
    """Counts of each whole step, from one loss to the next, by what it learns from, and of each repaired view."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.rows: dict[str, list[dict[Kind, float]]] = defaultdict(list)
        self._kind, self._before = "", self._totals()

    def _totals(self) -> dict[Kind, float]:
        return {kind: self._traffic[kind] for kind in KINDS}

    def step(self, pipeline: GuidedPipeline, step: int) -> Any:
        """Stand for ``GuidedPipeline.get_train_loss_dict``."""
        now = self._totals()
        if self._kind:
            self.rows[self._kind].append({kind: now[kind] - self._before[kind] for kind in KINDS})
        self._before = now
        result = losses_of(pipeline, step=step)
        self._kind = "pseudo-view step" if "pseudo_psnr" in result[2] else "photograph step"
        return result

    def fix(self, fixer: ViewFixer, cameras: Any, seeds: Any) -> Any:
        """Stand for ``ViewFixer.fix``."""
        with counting() as traffic:
            made = repaired(fixer, cameras, seeds)
        assert [len(view.references) for view in made] == [3] * VIEWS
        self.rows["repaired view"].append({kind: traffic[kind] / VIEWS for kind in KINDS})
        return made

    def medians(self, row: str) -> dict[Kind, float]:
        return {kind: median(counts[kind] for counts in self.rows[row]) for kind in KINDS}


losses_of, repaired = GuidedPipeline.get_train_loss_dict, ViewFixer.fix


@pytest.fixture(scope="module")
def ledger(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Of a training with one round of four views."""
    config = short_config(tiny_scene, STEPS, rounds=1)
    config.output_dir = tmp_path_factory.mktemp("budgets")
    config.machine.device_type = "cuda"
    config.pipeline.initial_points.stereo = 0
    config.pipeline.guidance.fixer.name, config.pipeline.guidance.targets.count = "embedded", VIEWS
    with pretended_cuda(), counting() as traffic:
        ledger = Ledger(traffic)
        with (
            mock.patch.object(GuidedPipeline, "get_train_loss_dict", lambda self, step: ledger.step(self, step)),
            mock.patch.object(ViewFixer, "fix", lambda self, cameras, seeds: ledger.fix(self, cameras, seeds)),
        ):
            trainer: GuidedTrainer = train(config)
    assert len(trainer.pipeline.guidance.pool) == VIEWS
    return ledger


@pytest.mark.parametrize("row", BUDGETS)
def test_budget(row: str, ledger: Ledger) -> None:
    assert len(ledger.rows[row]) >= (1 if row == "repaired view" else 10)
    found = ledger.medians(row)
    over = {kind: (found[kind], budget) for kind, budget in BUDGETS[row].items() if found[kind] > budget}
    assert not over, f"{row}, found and budget: {over}; all: {found}"
