"""Training curves that may end without ending the training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import nerfstudio.configs.base_config  # noqa: F401  (nerfstudio's writer cannot be imported before it)
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE


class _FaultTolerantWriter:
    """One of nerfstudio's event writers; what it cannot write is left out, with one notice."""

    def __init__(self, wrapped: writer.Writer) -> None:
        self._wrapped = wrapped
        self._ended = False

    def __getattr__(self, name: str) -> Callable[..., None]:
        write = getattr(self._wrapped, name)

        def attempt(*args: Any, **kwargs: Any) -> None:
            if self._ended:
                return
            try:
                write(*args, **kwargs)
            except OSError as error:
                self._ended = True
                CONSOLE.print(
                    f"[bold yellow]The training curves end here, training goes on: {error}. Free some space.",
                    soft_wrap=True,
                )

        return attempt


def survive_a_full_disk() -> None:
    """Let training go on when its curves cannot be written any more: TensorBoard raises in the training loop then.

    Call it after nerfstudio's ``setup_event_writer``.
    """
    writer.EVENT_WRITERS[:] = [
        each if isinstance(each, (_FaultTolerantWriter, writer.LocalWriter)) else _FaultTolerantWriter(each)
        for each in writer.EVENT_WRITERS
    ]
    if getattr(threading.excepthook, "__module__", "") == __name__:
        return
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(failed.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and isinstance(failed.exc_value, OSError)):  # its next caller gets the error
            before(failed)

    threading.excepthook = hook
