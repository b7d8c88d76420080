"""Tabs that come and go and a camera that never rests."""

from __future__ import annotations

import math
import re
import threading
import time
from typing import Any

import msgspec
from websockets.sync.client import ClientConnection, connect

from tests.integration.test_viewer import CAMERA
from tests.live_training import LiveTraining

RATE = 20  # moves per second


class Tab:
    """A tab as the server sees it: reads all that comes, moves its camera, sets controls."""

    def __init__(self, address: str) -> None:
        self.client: ClientConnection = connect(address.replace("http", "ws", 1), max_size=None)
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


def stress(training: LiveTraining, seconds: float) -> list[int]:
    """Look on with two tabs that move 20 times a second with rests in between; one is closed and opened mid-frame.

    Returns the number of pictures that each tab got, of the second one since it was opened last.
    """
    tabs = [Tab(training.address), Tab(training.address)]
    tabs[0].set("Enhance", True)
    started, moves = time.monotonic(), 0
    while (now := time.monotonic() - started) < seconds:
        if now % 5 < 4:  # at rest in every fifth second: then the fixer works
            for index, tab in enumerate(tabs):
                tab.move(0.01 * moves + index)
        if moves % (5 * RATE) == 4 * RATE + RATE // 2:  # in the middle of a rest
            tabs[1].close()
            tabs[1] = Tab(training.address)
        moves += 1
        time.sleep(max(0.0, started + moves / RATE - time.monotonic()))
    assert all(tab.pictures > 0 for tab in tabs)
    for tab in tabs:
        tab.close()
    # nothing is kept of closed tabs, once what was being rendered and enhanced is done
    training.wait_for("status", lambda status: status["tabs"] == status["enhancing"] == len(_renderers(status)) == 0)
    return [tab.pictures for tab in tabs]


def _renderers(status: dict[str, Any]) -> list[str]:
    return [thread for thread in status["threads"] if thread.startswith("RenderStateMachine")]


def threads_but_pools(status: dict[str, Any]) -> list[str]:
    """Threads without those of thread pools, whose number is bounded and depends on how busy the machine was."""
    return [thread for thread in status["threads"] if not re.search(r" (ThreadPoolExecutor-\d+|asyncio)_\d+$", thread)]


def assert_nothing_went_wrong(training: LiveTraining) -> None:
    for sign in ("Traceback", "Viewer failed", "enhancer failed"):
        assert sign not in training.said, training.said[-3000:]
