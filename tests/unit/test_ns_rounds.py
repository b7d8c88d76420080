"""The loop: a few renderings per step, each view made once, and references only where they are wanted."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import pytest
import torch

from difix3d_ns.errors import UserError
from difix3d_ns.guidance.difix import DifixGuidance, Task
from difix3d_ns.priors.none import IdentityFixer
from tests.pretended_cuda import out_of_memory
from tests.stand_ins import FlatRenderer
from tests.unit.short_rounds import STEPS, short_rounds, train_through


@pytest.mark.parametrize(
    ("views_per_step", "expected"),
    [(1, [(8, 0), (8, 0), (4, 0), (1, 1), (1, 1), (1, 1), (1, 1)]), (2, [(16, 0), (4, 0), (2, 2), (2, 2)])],
)
def test_no_step_renders_much(tmp_path: Path, views_per_step: int, expected: list[tuple[int, int]]) -> None:
    assert train_through(*short_rounds(tmp_path, views_per_step=views_per_step)) == expected


def test_without_references_nothing_is_prepared(tmp_path: Path) -> None:
    assert train_through(*short_rounds(tmp_path, references=0)) == [(1, 1)] * 4


def test_interrupted_while_preparing(tmp_path: Path) -> None:
    """What was prepared is left behind in both, so that both train alike."""
    rounds, splat = short_rounds(tmp_path)
    start = rounds.schedule.starts[0]
    for step in (start, start + 1):
        splat.step = step
        rounds.before_step(step)
    state = rounds.state_dict(start + 1)
    assert len(rounds.pool) == 0 and len(state["queue"]) == 4
    again, other = short_rounds(tmp_path / "again")
    again.load_state_dict(state, tmp_path, start + 2)
    other.step = start + 2
    assert [again.schedule.may_render(start + 2), len(again.queue.tasks)] == [True, 4]
    assert sum(views for _, views in train_through(again, other)) == 4


def _step(rounds: DifixGuidance, splat: FlatRenderer, steps: range) -> None:
    for step in steps:
        splat.step = step
        rounds.before_step(step)


def _places(rounds: DifixGuidance) -> set[tuple[int, int]]:
    return {(task.round, task.target) for task in map(Task.of, rounds.pool)}


def test_a_round_that_is_asked_for_begins_early_and_is_not_repeated(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    start = rounds.schedule.starts[0]
    _step(rounds, splat, range(20))
    assert len(rounds.pool) == 0
    rounds.request_round()
    _step(rounds, splat, range(20, start))
    assert _places(rounds) == {(1, target) for target in range(4)} and rounds.state_dict(20)["first_view"] == 20
    newest = rounds.pool._generation
    _step(rounds, splat, range(start, start + 20))
    assert rounds.pool._generation == newest


def test_what_is_asked_for_waits_until_the_splat_is_fit(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    rounds.request_round()
    _step(rounds, splat, range(5))
    assert len(rounds.pool) == 0 and "not fit" in " ".join(rounds.status(4).lines)
    _step(rounds, splat, range(5, 30))
    assert len(rounds.pool) == 4


def test_a_training_too_short_for_rounds_makes_what_is_asked_for(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    rounds.schedule = replace(rounds.schedule, starts=())
    rounds.request_round()
    rounds.request_view(rounds.targets[0])
    _step(rounds, splat, range(30))
    assert _places(rounds) == {(1, target) for target in range(5)}
    assert rounds.schedule.weight(30, rounds.state_dict(30)["first_view"]) > 0


def test_what_is_asked_for_late_is_still_made(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    _step(rounds, splat, range(398))
    newest = rounds.pool._generation
    rounds.request_round()
    _step(rounds, splat, range(398, 400))
    assert rounds.pool._generation == newest + 2


def test_a_view_that_is_asked_for(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    camera = replace(rounds.targets[0], width=20, height=16)
    rounds.request_view(camera)
    _step(rounds, splat, range(20))
    (entry,) = rounds.pool.entries()
    assert torch.allclose(entry.camera.camera_to_world, camera.camera_to_world)
    assert (entry.camera.width, entry.camera.height) == (20, 16)
    assert len(rounds.targets) == 5
    _step(rounds, splat, range(20, 400))  # the round that follows makes it again
    assert _places(rounds) == {(1, target) for target in range(5)}


def test_other_targets(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    _step(rounds, splat, range(300))
    before = _places(rounds)
    rounds.request_targets(rounds.targets[2:])
    rounds.request_round()
    _step(rounds, splat, range(300, 320))
    assert len(rounds.targets) == 2
    assert _places(rounds) == before | {(1, 4), (1, 5)}


def test_what_was_asked_for_is_resumed(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    rounds.request_view(rounds.targets[1])
    rounds.request_targets(rounds.targets[:1])
    _step(rounds, splat, range(3))
    again, _ = short_rounds(tmp_path / "again", references=0)
    again.load_state_dict(rounds.state_dict(2), tmp_path, 3)
    assert again.queue.tasks == rounds.queue.tasks and again.queue.tasks[0].requested and again.status(3).waiting
    assert len(again.targets) == len(rounds.targets) == 1
    assert again.state_dict(3)["first_view"] is None


def test_another_fixer_does_not_go_on(tmp_path: Path) -> None:
    rounds, _ = short_rounds(tmp_path, references=0)
    again, _ = short_rounds(tmp_path / "again", references=0)
    again.config.fixer.name = "embedded"
    with pytest.raises(UserError, match=r"begun with the fixer none: give --pipeline\.guidance\.fixer\.name none"):
        again.load_state_dict(rounds.state_dict(2), tmp_path, 3)


def test_every_fix_has_a_record(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path)
    train_through(rounds, splat)
    records = rounds.status(400).records
    assert [(record.group, record.title) for record in records] == [("Round 1", f"View {i}") for i in range(4)]
    names = rounds._scene.names()
    assert all(len(record.references) == 3 and set(record.references) <= set(names) for record in records)
    assert len(set(names)) == len(names) == 20
    shown = rounds.status(400).views
    assert [view.key for view in shown] == [record.key for record in records]
    assert [tuple(view.references) for view in shown] == [record.references for record in records]
    assert all(view.group == "Round 1" and max(view.image().shape) <= 100 for view in shown)


def _eight_rounds(folder: Path) -> tuple[DifixGuidance, FlatRenderer]:
    return short_rounds(folder, references=0, rounds=8, steps=800, pool_capacity=64)


def test_every_round_makes_what_was_asked_for_again(tmp_path: Path) -> None:
    rounds, splat = _eight_rounds(tmp_path)
    rounds.request_view(rounds.targets[0])
    _step(rounds, splat, range(20))
    asked = next(iter(rounds.pool))
    for start in rounds.schedule.starts:
        before = {entry.key: entry.generation for entry in rounds.pool.entries()}
        _step(rounds, splat, range(start, start + 40))
        after = {entry.key: entry.generation for entry in rounds.pool.entries()}
        assert after[asked] > before[asked]


def test_a_view_and_a_round_asked_for_together(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    rounds.request_view(rounds.targets[0])
    rounds.request_round()
    rounds.request_round()  # twice is once while it is being made
    _step(rounds, splat, range(30))
    assert _places(rounds) == {(1, target) for target in range(5)}
    assert rounds.round == 1


def test_the_next_round_that_is_announced_is_the_one_that_comes(tmp_path: Path) -> None:
    rounds, splat = _eight_rounds(tmp_path)
    assert f"Next round at step {rounds.schedule.starts[0]}" in rounds.status(0).lines[1]
    rounds.request_round()
    _step(rounds, splat, range(20))
    assert rounds.round == 1
    assert f"Next round at step {rounds.schedule.starts[1]}" in rounds.status(20).lines[1]


@pytest.mark.parametrize("error", [RuntimeError, KeyError])
def test_what_was_asked_for_and_fails_does_not_end_training(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)

    def failing(camera: Any, depth: bool = False) -> Any:
        raise error("out of memory")

    monkeypatch.setattr(splat, "render", failing)
    rounds.request_view(rounds.targets[0])
    _step(rounds, splat, range(20))
    assert "out of memory" in rounds.status(20).lines[-1] and not rounds.status(20).waiting


@pytest.mark.parametrize("owner", [FlatRenderer, IdentityFixer])
def test_a_view_without_memory_is_skipped(tmp_path: Path, owner: type) -> None:
    """The batch that ran out of memory is made one by one; the view that does not fit alone is missing."""
    rounds, splat = short_rounds(tmp_path, references=0, views_per_step=2)
    log: list[str] = []
    rounds._run.tracker.log = log.append  # type: ignore[method-assign]
    # views 0 and 1 together, 2 and 3 together, 2, 3
    name, calls = ("render", (3, 5)) if owner is FlatRenderer else ("fix", (2, 4))
    with mock.patch.object(rounds.pool, "leave_device") as left, out_of_memory(owner, name, *calls):
        train_through(rounds, splat)
    assert left.call_count == 2
    assert _places(rounds) == {(1, 0), (1, 1), (1, 2)}
    (notice,) = [line for line in log if "memory" in line]
    assert "A pseudo-view of 40x30 is skipped" in notice
    assert "--downscale-factor 2" in notice and "camera-res-scale-factor" in notice and "fixer.references" in notice
    assert "is skipped" in rounds.status(STEPS).lines[-1] and not rounds.queue.tasks


def test_references_without_memory(tmp_path: Path) -> None:
    """Photographs that could not be rendered beforehand are rendered for the view."""
    rounds, splat = short_rounds(tmp_path)
    with out_of_memory(FlatRenderer, "median_depth", 3):
        train_through(rounds, splat)
    assert len(rounds.pool) == 4


def test_rounds_that_never_fit_are_given_up(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0, rounds=2)
    log: list[str] = []
    rounds._run.tracker.log = log.append  # type: ignore[method-assign]
    assert rounds.schedule.rounds == 2
    with out_of_memory(FlatRenderer, "render", *range(1, 5)):
        _step(rounds, splat, range(STEPS))
        assert (rounds.round, len(rounds.pool), len(splat.rendered)) == (1, 0, 0)
        assert ["further rounds" in line for line in log if "skipped, since memory" in line] == [False, True]
    rounds.request_view(rounds.targets[0])
    _step(rounds, splat, range(STEPS, STEPS + 20))
    assert len(rounds.pool) == 1


@pytest.mark.parametrize(("error", "ends"), [(RuntimeError, False), (KeyError, True)])
def test_a_fixer_that_fails(
    error: type[Exception], ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA's libraries report for want of memory is a RuntimeError; a mistake in a program is not hidden."""
    rounds, splat = short_rounds(tmp_path, references=0)
    log: list[str] = []
    rounds._run.tracker.log = log.append  # type: ignore[method-assign]

    def fail(fixer: object, requests: object) -> NoReturn:
        raise error("CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(IdentityFixer, "fix", fail)
    with pytest.raises(error) if ends else nullcontext():
        _step(rounds, splat, range(STEPS))
    if not ends:
        assert not len(rounds.pool) and "making it failed: CUBLAS_STATUS_ALLOC_FAILED" in log[-1]
        assert rounds.next_view(STEPS, torch.Generator()) is None


def test_a_requested_view_without_memory(tmp_path: Path) -> None:
    rounds, splat = short_rounds(tmp_path, references=0)
    rounds.request_view(rounds.targets[0])
    with out_of_memory(FlatRenderer, "render", 1):
        _step(rounds, splat, range(20))
    assert "memory ran out" in rounds.status(20).lines[-1] and not rounds.status(20).waiting
    _step(rounds, splat, range(20, STEPS))
    assert len(rounds.pool) == 5  # the round makes what was requested as well
