"""Reading sources of Python while other threads do."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from difix3d_ns.io.sources import parse


def test_a_mismatch_of_pythons_own_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, failures = ast.parse, [SystemError("AST constructor recursion depth mismatch")] * 3

    def parses(*arguments: Any) -> ast.Module:
        if failures:
            raise failures.pop()
        return honest(*arguments)

    monkeypatch.setattr(ast, "parse", parses)
    assert ast.unparse(parse("a = 1")) == "a = 1" and not failures
    with pytest.raises(SyntaxError):
        parse("a =")
