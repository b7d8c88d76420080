"""Packages that the package imports are those that pyproject.toml asks for."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.unit.test_layers import FILES, PACKAGE, imports

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
OPTIONAL = {"heic", "ray"}
"""extras whose packages are imported where they are needed"""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared() -> None:
    requirements = [*PROJECT["dependencies"], *(each for e in OPTIONAL for each in PROJECT["optional-dependencies"][e])]
    declared = {_normal(found[0]) for each in requirements if (found := re.match(r"[\w.-]+", each))}
    known = packages_distributions()
    names = {(one.name.partition(".")[0], str(one)) for module, path in FILES.items() for one in imports(module, path)}
    foreign = {(name, where) for name, where in names if name not in {*sys.stdlib_module_names, PACKAGE}}
    assert len(foreign) > 100
    wrong = [
        where for name, where in sorted(foreign) if not declared & {_normal(each) for each in known.get(name, [name])}
    ]
    assert not wrong, "\n" + "\n".join(wrong)
