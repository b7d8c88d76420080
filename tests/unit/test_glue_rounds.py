"""The loop: a few renderings per step, each view made once, and references only where they are wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from difix3d_ns.enhancer import FixerSettings
from difix3d_ns.photographs import Photographs
from difix3d_ns.pseudoviews.pool import Pool
from difix3d_ns.pseudoviews.schedule import plan_rounds
from difix3d_ns.rounds import FixRounds
from tests.unit.test_glue_photographs import _Model
from tests.unit.tiny_scene import datamanager, write_scene


class _Splat(_Model):
    """Grey everywhere."""

    training = True

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def eval(self) -> None:
        self.training = False

    def get_outputs_for_camera(self, camera: Any) -> dict[str, torch.Tensor]:
        assert not self.training
        return {"rgb": torch.full((int(camera.height), int(camera.width), 3), 0.5)}


def _rounds(
    folder: Path, references: int = 3, views_per_step: int = 1, keep_depth: bool = False
) -> tuple[FixRounds, _Splat]:
    manager = datamanager(write_scene(folder / "scene", count=21))
    splat = _Splat(len(manager.train_dataset))
    photographs = Photographs(manager, splat)  # type: ignore[arg-type]
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


def _train(rounds: FixRounds, splat: _Splat) -> list[tuple[int, int]]:
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


@pytest.mark.parametrize(
    ("views_per_step", "expected"),
    [(1, [(8, 0), (8, 0), (4, 0), (1, 1), (1, 1), (1, 1), (1, 1)]), (2, [(16, 0), (4, 0), (2, 2), (2, 2)])],
)
def test_no_step_renders_much(tmp_path: Path, views_per_step: int, expected: list[tuple[int, int]]) -> None:
    assert _train(*_rounds(tmp_path, views_per_step=views_per_step)) == expected


def test_without_references_nothing_is_prepared(tmp_path: Path) -> None:
    assert _train(*_rounds(tmp_path, references=0)) == [(1, 1)] * 4


def test_interrupted_while_preparing(tmp_path: Path) -> None:
    """What was prepared is left behind in both, so that both train alike."""
    rounds, splat = _rounds(tmp_path)
    start = rounds.schedule.starts[0]
    for step in (start, start + 1):
        splat.step = step
        rounds.before_step(step)
    state = rounds.state()
    assert len(rounds.pool) == 0 and len(state["queue"]) == 4
    again, other = _rounds(tmp_path / "again")
    again.restore(state)
    other.step = start + 2
    assert [again.schedule.may_render(start + 2), len(again.progress.queue)] == [True, 4]
    assert sum(views for _, views in _train(again, other)) == 4
