"""Tabs that come and go and a camera that never rests, while training and after it."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.integration.test_viewer import CAMERA
from tests.live_training import LiveTraining, live_training

PORT = 7437
STEPS = 600
RATE = 20  # moves per second
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


class _Browser:
    """A tab as the server sees it: reads all that comes, moves its camera, sets controls."""

    def __init__(self) -> None:
        self.client: ClientConnection = connect(f"ws://localhost:{PORT}", max_size=None)
        self.controls: dict[str, str] = {}
        self.pictures = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.move(0.0)

    def _read(self) -> None:
        for message in self.client:  # ends when the connection does
            window = msgspec.msgpack.decode(message)
            for part in window if isinstance(window, list) else [window]:
                self.pictures += part["type"] == "BackgroundImageMessage"
                if "label" in part and "id" in part:
                    self.controls[part["label"]] = part["id"]

    def send(self, message: dict[str, Any]) -> None:
        self.client.send(msgspec.msgpack.encode(message))

    def move(self, angle: float) -> None:
        where = {"wxyz": (math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0), "aspect": 4 / 3}
        self.send(CAMERA | where)

    def set(self, label: str, value: object) -> None:
        deadline = time.monotonic() + 60
        while label not in self.controls:
            assert time.monotonic() < deadline, f"no control {label}"
            time.sleep(0.1)
        self.send({"type": "GuiUpdateMessage", "id": self.controls[label], "updates": {"value": value}})

    def close(self) -> None:
        self.client.close()
        self._reader.join(10)


def _stress(training: LiveTraining, seconds: float) -> None:
    """Two tabs that move 20 times a second with rests in between; one is closed and opened again mid-frame."""
    tabs = [_Browser(), _Browser()]
    tabs[0].set("Enhance", True)
    started, moves = time.monotonic(), 0
    while (now := time.monotonic() - started) < seconds:
        if now % 5 < 4:  # at rest in every fifth second: then the fixer works
            for index, tab in enumerate(tabs):
                tab.move(0.01 * moves + index)
        if moves % (5 * RATE) == 4 * RATE + RATE // 2:  # in the middle of a rest
            tabs[1].close()
            tabs[1] = _Browser()
        moves += 1
        time.sleep(max(0.0, started + moves / RATE - time.monotonic()))
    assert all(tab.pictures > 0 for tab in tabs)
    for tab in tabs:
        tab.close()
    # nothing is kept of closed tabs, once what was being rendered and enhanced is done
    training.wait_for("status", lambda status: status["tabs"] == status["enhancing"] == len(_renderers(status)) == 0)


def _renderers(status: dict[str, Any]) -> list[str]:
    return [thread for thread in status["threads"] if thread.startswith("RenderStateMachine")]


def _threads_but_pools(status: dict[str, Any]) -> list[str]:
    """Threads without those of thread pools, whose number is bounded and depends on how busy the machine was."""
    return [thread for thread in status["threads"] if not re.search(r" (ThreadPoolExecutor-\d+|asyncio)_\d+$", thread)]


def _assert_nothing_went_wrong(training: LiveTraining) -> None:
    for sign in ("Traceback", "Viewer failed", "enhancer failed"):
        assert sign not in training.said, training.said[-3000:]


def test_training_loses_no_step(training: LiveTraining) -> None:
    _stress(training, 20)
    last = _Browser()  # looks on while training ends
    training.wait_for("status", lambda status: status["state"] == "completed", seconds=400)
    pictures = last.pictures
    last.move(1.0)
    training.wait_for("status", lambda status: last.pictures > pictures)
    last.close()
    assert training.ask("count_steps") == list(range(STEPS))
    _assert_nothing_went_wrong(training)


def test_a_finished_training_is_looked_at_without_a_leak(training: LiveTraining) -> None:
    training.wait_for("status", lambda status: status["state"] == "completed", seconds=400)
    _stress(training, 10)  # every kernel, thread pool and network is there now
    before = training.ask("memory")
    threads = _threads_but_pools(training.ask("status"))
    _stress(training, 20)
    after = training.ask("memory")
    assert after < 1.05 * before, (before, after)
    assert _threads_but_pools(training.ask("status")) == threads
    _assert_nothing_went_wrong(training)
