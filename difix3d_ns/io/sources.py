"""Python files read as syntax trees, without being run."""

from __future__ import annotations

import ast

_ATTEMPTS = 10


def parse(source: str | bytes, name: str = "<unknown>") -> ast.Module:
    """The syntax tree of a source.

    Python 3.11 counts the depth of all trees under construction together, and says "recursion depth mismatch" where
    another thread, or something collected as garbage meanwhile, parses as well (CPython #106905): it is tried again.

    Raises:
        SyntaxError: it is no Python.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return ast.parse(source, name)
        except SystemError:
            continue
    return ast.parse(source, name)
