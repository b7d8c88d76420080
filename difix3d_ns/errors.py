"""Mistakes a user can make and mend."""

from __future__ import annotations

import sys
from types import TracebackType


class UserError(Exception):
    """Something the user can mend; the message names the file or flag and the remedy."""


def tell_user_errors_plainly() -> None:
    """Let a UserError that nobody catches end the process with its message alone, and status 1.

    nerfstudio's commands have no place for this but Python's own hook. All other exceptions are left to the hook there
    was before.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, UserError):
            before(kind, error, traceback)
            return
        from rich.console import Console
        from rich.text import Text

        message = Text.assemble(("Error: ", "bold red"), str(error))
        Console(stderr=True, highlight=False).print(message, soft_wrap=True)

    sys.excepthook = hook
