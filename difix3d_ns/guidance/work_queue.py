"""Work that is done bit by bit before training steps, and requests for more of it from any thread."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Generic, TypeVar

Work = TypeVar("Work")


class WorkQueue(Generic[Work]):
    """Tasks in order, with a budget per training step.

    Args:
        per_step: most tasks done before one step, so that the viewer stays alive.
    """

    def __init__(self, per_step: int = 1) -> None:
        self.per_step = per_step
        self.tasks: list[Work] = []
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def request(self, action: Callable[[], None]) -> None:
        """Request something to be done before the next step, where training runs; from any thread."""
        self._requests.put(action)

    @property
    def requested(self) -> bool:
        """True if a request was not taken up yet."""
        return not self._requests.empty()

    def take_requests(self) -> None:
        """Carry out the requests; where training runs."""
        while not self._requests.empty():
            self._requests.get()()
