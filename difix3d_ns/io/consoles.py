"""Streams that print what they can, on consoles and in files of any encoding."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

_ERRORS = "difix3d_ns.legible"
_RAISING = ("strict", "surrogateescape")
"""ways of treating characters that end a program; C and POSIX locales have the second"""
_INSTEAD = {"→": "->", "←": "<-", "•": "*", "…": "...", "–": "-", "—": "-", "×": "x", "’": "'", "‘": "'"}
_LINES = {"HORIZONTAL": "-", "LEFT": "-", "RIGHT": "-", "VERTICAL": "|", "UP": "|", "DOWN": "|"}


def replace_unprintable() -> None:
    """Have standard output and error print something else for characters that their encoding lacks.

    A bar or an arrow is nothing a training may end at, as it does with Python's own choice: in the C locale, with
    output in a file on Windows, with PYTHONIOENCODING. A choice that raises nothing is the user's, and stays.
    """
    codecs.register_error(_ERRORS, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in _RAISING:
            stream.reconfigure(errors=_ERRORS)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_legible, error.object[error.start : error.end])), error.end


def _legible(character: str) -> str:
    """ASCII that looks alike; a question mark where nothing does."""
    if character in _INSTEAD:
        return _INSTEAD[character]
    kind, _, shape = unicodedata.name(character, "").partition(" DRAWINGS ")
    if kind == "BOX":
        return _LINES.get(shape.rpartition(" ")[2], "+") if " AND " not in shape else "+"
    return "#" if "BLOCK" in kind else "?"
