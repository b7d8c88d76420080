"""The field's words in names, docstrings, messages, flags and pages, instead of our own."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "difix3d_ns"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / ".github").rglob("*.*ml"))]

OURS = {
    r"wish(es|ed)?": "request",
    r"settles?|settled|settling": "fit, resolve or blend",
    r"strips?": "tile; panel",
    r"remoteness": "pose distance",
    r"usefulness": "coverage",
    r"clearances?|clear views?": "floater pruning; min-depth",
    r"anew": "again",
    r"journal": "tracker",
    r"continuity": "temporal filter",
    r"glue": "ns",
    r"standpoints?": "camera",
    r"mend(s|ed|ing)?": "fix",
    r"shared references": "reused references",
}
"""words of ours, anywhere, and the field's"""
IN_NAMES = {
    r"told|said|tells?": "message, format_*, report_*",
    r"looks|looked": "evaluate, evaluation",
    r"worth": "coverage",
    r"reference slots?": "MAX_REFERENCES",
    r"trust": "confidence",
    r"(?<!at )least|few|sure|little": "MIN_*, MAX_*, EPS, *_TOLERANCE",
}
"""words that are good English and no good names"""
TO_USERS = {r"photographs?": "photo"}
"""words of pages, messages and help"""
RIDDLES = r"(Of|Meanwhile|Nothing, if|What|How|Whether|Where|When|Who|Which|To|In|For|By)\b"
"""how no docstring begins: its first sentence reads without the name"""


def _found(words: dict[str, str], text: str) -> list[str]:
    return [
        f"{match[0]!r}: say {better}"
        for ours, better in words.items()
        for match in re.finditer(rf"\b(?:{ours})\b", text, flags=re.I)
    ]


def _in_name(name: str) -> list[str]:
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).replace("_", " ").strip()
    return _found(OURS | IN_NAMES, parts)


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a file gives to something."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def _docstrings(tree: ast.AST) -> Iterator[tuple[str, int, bool]]:
    """(text, line, whether it is the one of a module, class or function) of all strings that stand alone."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for place, entry in enumerate(body if isinstance(body, list) else []):
            value = entry.value if isinstance(entry, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
                yield value.value, entry.lineno, place == 0 and isinstance(node, documented)


def _messages(tree: ast.AST, docstrings: set[int]) -> Iterator[tuple[str, int]]:
    """Strings with a space in them that are no docstrings."""
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " in text.strip() and node.lineno not in docstrings:
            yield text, node.lineno


def _comments(source: str) -> Iterator[tuple[str, int]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string, token.start[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page: Path) -> None:
    wrong = []
    text = re.sub(r"^```.*?^```", lambda code: "\n" * code[0].count("\n"), page.read_text(), flags=re.S | re.M)
    for number, line in enumerate(text.splitlines(), start=1):
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)
        wrong += [f"{page.name}:{number}: {found}" for found in _found(OURS | TO_USERS, prose)]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("folder", sorted({p.relative_to(PACKAGE).parts[0] for p in PACKAGE.rglob("*.py")}))
def test_package(folder: str) -> None:
    paths = [PACKAGE / folder] if folder.endswith(".py") else sorted((PACKAGE / folder).rglob("*.py"))
    wrong = []
    for path in paths:
        source = path.read_text()
        tree = ast.parse(source)
        docstrings = list(_docstrings(tree))
        lines = {line for text, start, _ in docstrings for line in range(start, start + text.count("\n") + 1)}
        found = [(line, word) for name, line in _names(tree) for word in _in_name(name)]
        found += [(line, word) for text, line in _messages(tree, lines) for word in _found(OURS | TO_USERS, text)]
        helped = OURS | TO_USERS if folder == "cli" else OURS  # their docstrings are the commands' help
        found += [(line, word) for text, line, _ in docstrings for word in _found(helped, text)]
        found += [(line, word) for text, line in _comments(source) for word in _found(OURS, text)]
        found += [
            (line, f"{text.split('.')[0]!r}: begin with a noun or an imperative")
            for text, line, own in docstrings
            if own and re.match(RIDDLES, text)
        ]
        wrong += [f"{path.relative_to(ROOT)}:{line}: {word}" for line, word in found]
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_two_files_share_a_name() -> None:
    """But for ``__init__``, ``base``, and what is called by the name of a prior that is chosen by it."""
    from difix3d_ns.priors.base import Fixer, OrbitGenerator, OrbitRefiner, ViewGenerator
    from difix3d_ns.priors.registry import available_priors

    names = Counter(path.stem for path in PACKAGE.rglob("*.py"))
    own = {name for kind in (Fixer, OrbitGenerator, OrbitRefiner, ViewGenerator) for name in available_priors(kind)}
    own = {name.replace("-", "_") for name in own} | {"__init__", "base"}
    assert [name for name, count in names.items() if count > 1 and name not in own] == []


def test_tests_are_called_by_what_they_test() -> None:
    assert not list((ROOT / "tests").rglob("test_glue_*"))


@pytest.mark.parametrize("name", ["ask_for_wishes", "_REFERENCE_SLOTS", "_LEAST_TRUST", "worthOf", "settled"])
def test_odd_names_are_noticed(name: str) -> None:
    assert _in_name(name)


def test_common_names_are_not() -> None:
    for name in ("MAX_REFERENCES", "requests", "photographs", "listed", "check_at_least", "look_at"):
        assert not _in_name(name), name
