"""Hook of Python that reports a user's mistake without a traceback, for commands with no other place for it."""

from __future__ import annotations

import sys
from types import TracebackType

from difix3d_ns.errors import UserError
from difix3d_ns.ns.earlier_versions import refuse_earlier


def apply() -> None:
    """Let a UserError that nobody catches end the process with its message alone, and status 1.

    The config.yml of an earlier version is a user's error too: its classes are not there any more. All other exceptions
    are left to the hook there was before.
    """
    if getattr(sys.excepthook, "__module__", "") == __name__:
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):  # Python ends by the signal itself
            print("Interrupted.", file=sys.stderr)
        elif message := user_message(error):
            from rich.console import Console
            from rich.text import Text

            text = Text.assemble(("Error: ", "bold red"), message)
            Console(stderr=True, highlight=False).print(text, soft_wrap=True)
        else:
            before(kind, error, traceback)

    sys.excepthook = hook


def user_message(error: BaseException) -> str:
    """Return the sentence for a user's mistake; empty if it is none."""
    try:
        refuse_earlier(error)
    except UserError as refusal:
        error = refusal
    return str(error) if isinstance(error, UserError) else ""
