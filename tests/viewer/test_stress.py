"""Tabs that come and go and a camera that never rests, while training and after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_training import LiveTraining, live_training
from tests.viewer_stress import Tab, assert_nothing_went_wrong, stress, threads_but_pools

PORT = 7437
STEPS = 600
FLAGS = (
    *("--max-num-iterations", STEPS, "--pipeline.guidance.rounds", 2, "--pipeline.guidance.targets.count", 3),
    *("--pipeline.model.max-gs-num", 3000, "--machine.device-type", "cpu"),
)


@pytest.fixture(scope="module")
def training(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveTraining]:
    folder = tmp_path_factory.mktemp("stress")
    scene = ("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", folder, "--experiment-name", "scene")
    with live_training(folder / "log", PORT, *scene, *FLAGS) as training:
        yield training


def test_training_loses_no_step(training: LiveTraining) -> None:
    stress(training, 20)
    last = Tab(training.address)  # looks on while training ends
    training.wait_for("status", lambda status: status["state"] == "completed", seconds=400)
    pictures = last.pictures
    last.move(1.0)
    training.wait_for("status", lambda status: last.pictures > pictures)
    last.close()
    assert training.ask("count_steps") == list(range(STEPS))
    assert_nothing_went_wrong(training)


def test_a_finished_training_is_looked_at_without_a_leak(training: LiveTraining) -> None:
    training.wait_for("status", lambda status: status["state"] == "completed", seconds=400)
    stress(training, 10)  # every kernel, thread pool and network is there now
    before = training.ask("memory")
    threads = threads_but_pools(training.ask("status"))
    stress(training, 20)
    after = training.ask("memory")
    assert after < 1.05 * before, (before, after)
    assert threads_but_pools(training.ask("status")) == threads
    assert_nothing_went_wrong(training)
