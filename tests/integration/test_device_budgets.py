"""Budgets of what a GPU waits for: waits and copies of a training step and of a repaired view.

Counted on a pretended device, where they are the same on every machine. Lower a number when the code does better.
"""

from __future__ import annotations

import copy
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
    "photograph step": {"waits": 5, "h2d": 4, "d2h": 0, "rasterizations": 1},
    "pseudo-view step": {"waits": 2, "h2d": 4, "d2h": 0, "rasterizations": 1},
    "repaired view": {"waits": 42.5, "h2d": 52.25, "d2h": 2, "rasterizations": 9},
}
"""Most there may be, in the words of ``tests.pretended_cuda``: a blocking copy is a wait as well. Medians over steps. A
repaired view is the share of one in a batch of four, with three references, its render and its median depth included,
those of the photographs not."""
STEPS, VIEWS = 60, 4


class Ledger:
    """Traffic of each whole step, from one loss to the next, by what it learns from, and of each repaired view."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.rows: dict[str, list[Traffic]] = defaultdict(list)
        self._row, self._before = "", copy.deepcopy(traffic)

    def step(self, pipeline: GuidedPipeline, step: int) -> Any:
        """Stand for ``GuidedPipeline.get_train_loss_dict``."""
        now, since = copy.deepcopy(self._traffic), Traffic()
        since.lines = {kind: now.lines[kind] - self._before.lines[kind] for kind in KINDS}
        if self._row:
            self.rows[self._row].append(since)
        self._before = now
        result = losses_of(pipeline, step=step)
        self._row = "pseudo-view step" if "pseudo_psnr" in result[2] else "photograph step"
        return result

    def fix(self, fixer: ViewFixer, cameras: Any, seeds: Any) -> Any:
        """Stand for ``ViewFixer.fix``."""
        with counting() as traffic:
            made = repaired(fixer, cameras, seeds)
        assert [len(view.references) for view in made] == [3] * VIEWS
        self.rows["repaired view"].append(traffic)
        return made


losses_of, repaired = GuidedPipeline.get_train_loss_dict, ViewFixer.fix


@pytest.fixture(scope="module")
def ledger(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Of a training with one round of four views."""
    config = short_config(tiny_scene, STEPS, rounds=1)
    config.output_dir = tmp_path_factory.mktemp("budgets")
    config.machine.device_type = "cuda"
    config.pipeline.initial_points.stereo = 0
    config.pipeline.model.refine_every = 15  # other steps are counted
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
    counted = ledger.rows[row]
    assert len(counted) >= (1 if row == "repaired view" else 10)
    share = VIEWS if row == "repaired view" else 1
    found = {kind: median(traffic[kind] for traffic in counted) / share for kind in KINDS}
    over = {kind: (found[kind], budget) for kind, budget in BUDGETS[row].items() if found[kind] > budget}
    usual = min(counted, key=lambda traffic: abs(traffic["waits"] / share - found["waits"]))
    assert not over, f"{row}, found and budget: {over}\nlines of such a one:\n{usual.table()}"
