"""Ctrl-C and SIGTERM during a training: the step is finished and saved, and one line says how to go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nerfstudio.utils.rich_utils import CONSOLE

_STATUS = 128  # of a process that a signal ended, plus its number
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Requests to end that wait for a good moment."""

    def __init__(self) -> None:
        self.number: int | None = None
        """of the signal that came; None: none did"""

    @contextmanager
    def caught(self, at_once: Callable[[], str | None]) -> Iterator[None]:
        """Catch signals in a block; nothing happens in another thread than the main one.

        Args:
            at_once: called when one comes; a sentence ends the process there and then, None lets it go on until
                ``leave``. A second signal ends it in any case.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            again, self.number = self.number is not None, number
            if (sentence := at_once()) is not None:
                self.leave(sentence)
            if again:
                self.leave("Interrupted: what was saved before is kept.")
            CONSOLE.print("Ending after this step; once more ends at once.")

        before = {number: signal.signal(number, handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave(self, sentence: str) -> None:
        """End the process with a sentence, and the status of the signal."""
        CONSOLE.print(sentence, soft_wrap=True)
        sys.exit(_STATUS + (self.number or signal.SIGINT))
