"""A tracker that keeps what it is told."""

from __future__ import annotations

from difix3d_ns.io.run import Tracker


class Log(Tracker):
    """A tracker that keeps messages instead of printing them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)
