"""Names that survive moves: ``from difix3d_ns import ...``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import difix3d_ns
from tests.conftest import execute

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.parametrize("name", difix3d_ns.__all__)
def test_names_are_there(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from difix3d_ns import {name}", namespace)
    assert getattr(namespace[name], "__name__", "") == name
    assert name in dir(difix3d_ns)


def test_others_are_not() -> None:
    with pytest.raises(ImportError):
        exec("from difix3d_ns import FixRequests", {})


def test_all_are_lazy_and_typed() -> None:
    source = Path(difix3d_ns.__file__).read_text()
    typed = re.findall(r"^    from (\S+) import (.+)$", source, flags=re.M)
    homes = {name: module for module, names in typed for name in names.split(", ")}
    assert sorted(homes) == sorted(difix3d_ns._MODULES) == sorted(difix3d_ns.__all__)
    for name in homes:
        assert getattr(sys.modules[homes[name]], name) is getattr(difix3d_ns, name)


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, difix3d_ns; print(*{name.partition('.')[0] for name in sys.modules})"
    assert not {"torch", "numpy", "nerfstudio"} & set(execute([sys.executable, "-c", code]).stdout.split())


def test_the_page_shows_each() -> None:
    code = "".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.S | re.M))
    used = set(re.findall(r"\w+", re.sub(r"^from difix3d_ns import .*$", "", code, flags=re.M)))
    assert {"Fixer", "FixRequest", "Guidance", "TrainView", "Render"} <= used
