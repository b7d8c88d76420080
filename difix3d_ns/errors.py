"""Mistakes a user can make and correct."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can correct; the message names the file or flag and the remedy."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its type's name if it has none."""
    return str(error).partition("\n")[0] or type(error).__name__
