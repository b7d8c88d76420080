"""Progress of a training as plain lines, with the time left that rounds take as well."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.io.durations import duration

SECONDS = {True: 10.0, False: 30.0}
"""between two lines, by whether somebody watches: a log is read later"""


class TrainingLines(writer.LocalWriter):
    """One line now and then, in place of a table that is drawn again and again.

    Args:
        config: of it.
        banner_messages: lines to show first, as the address of the viewer.
    """

    def __init__(self, config: LocalWriterConfig, banner_messages: Sequence[str] | None = None) -> None:
        super().__init__(config, None)
        for line in banner_messages or ():
            CONSOLE.print(line, soft_wrap=True)
        self._seconds = SECONDS[CONSOLE.is_terminal]
        self._first: tuple[int, float] | None = None  # step and time from which the time left is told
        self._loss: Any = None  # a number or a tensor, which is asked for its number when it is shown
        self._printed = time.monotonic()

    def write_stats_log(self, step: int) -> None:
        """Show where the training is, if it is time to.

        Args:
            step: of the first event there is; those at the beginning have no step of their own.
        """
        for event in writer.EVENT_STORAGE:
            step = max(step, event["step"])
            if event["name"] == "Train Loss":
                self._loss = event["event"]
        now, total = time.monotonic(), writer.GLOBAL_BUFFER["max_iter"]
        if step >= total:  # what is left to write at the end
            return
        if self._first is None:  # the first step compiles, and is not counted
            self._first = (step, now)
        if now - self._printed >= self._seconds:
            self._printed = now
            CONSOLE.print(self.line(step, total, now), soft_wrap=True, highlight=False)

    def line(self, step: int, total: int, now: float) -> str:
        """Describe a step.

        Args:
            step: the one that was just made, from 0.
            total: number of steps.
            now: seconds of the monotonic clock.
        """
        made = step + 1
        parts = [f"Step {made:,} of {total:,} ({made / total:.0%})"]
        if self._first is not None and step > self._first[0]:
            pace = (now - self._first[1]) / (step - self._first[0])  # with what was done between steps
            parts.append(f"{duration(pace * (total - made))} left")
        if self._loss is not None:
            parts.append(f"loss {float(self._loss):.4f}")
        return ", ".join(parts)


@dataclass
class TrainingLinesConfig(LocalWriterConfig):
    """Settings of the lines; the sizes of nerfstudio's table have no effect."""

    _target: type[Any] = field(default_factory=lambda: TrainingLines)
