"""The layers of the package: imports point downwards and in no circle, and nerfstudio stays at the top.

Every import in the source counts: at the top of a file, inside a function, or for types alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import difix3d_ns
from difix3d_ns.io.sources import parse

PACKAGE = "difix3d_ns"
LAYERS = (
    ("geometry", "metrics", "io", "errors"),
    ("rasterization",),
    ("splats", "priors"),
    ("views", "data", "initialization"),
    ("guidance", "enhance", "training", "meshing"),
    ("ns",),
    ("methods",),
    ("evaluation",),
    ("apps",),
    ("cli",),
)
"""rooms of the package from the lowest layer to the highest; rooms of one layer may import each other"""

RANKS = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
ALLOWED_OF_NERFSTUDIO = "nerfstudio.configs.base_config.InstantiateConfig"  # below ns


class Import(NamedTuple):
    """One name that a file imports."""

    file: str  # a module's name
    line: int
    name: str  # a module's name, or a module's with that of something in it

    def __str__(self) -> str:
        return f"{self.file.replace('.', '/')}.py:{self.line} imports {self.name}"


def modules(root: Path) -> dict[str, Path]:
    """Files of the package at ``root`` by module; a folder's ``__init__`` goes by the folder's name."""
    paths = {path.relative_to(root.parent).with_suffix(""): path for path in sorted(root.rglob("*.py"))}
    return {".".join(part.parts).removesuffix(".__init__"): path for part, path in paths.items()}


def imports(module: str, path: Path) -> Iterator[Import]:
    """Names that a file imports, relative ones in full, "module.*" for a star."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(module, node.lineno, f"{source}.{alias.name}") for alias in node.names)


def target(name: str, files: dict[str, Path]) -> str:
    """The file of the package behind an imported name; empty for others."""
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name


def room(module: str) -> str:
    """The folder of the package, or the file beside the folders; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def foreign_rooms(files: dict[str, Path]) -> list[str]:
    return sorted({room(module) for module in files} - RANKS.keys() - {""})


def upward(files: dict[str, Path]) -> list[str]:
    """Imports of a higher room than the file's own."""
    found = [(one, target(one.name, files)) for module, path in files.items() for one in imports(module, path)]
    return [
        f"{one}: {room(one.file)} lies below {room(to)}"
        for one, to in found
        if RANKS.get(room(one.file), len(LAYERS)) < RANKS.get(room(to), -1)
    ]


def of_nerfstudio(files: dict[str, Path]) -> list[str]:
    """Imports of nerfstudio below ``ns``, but for the one name that configs need."""
    return [
        f"{one}: below ns/ only {ALLOWED_OF_NERFSTUDIO} may be"
        for module, path in files.items()
        if RANKS.get(room(module), -1) < RANKS["ns"]
        for one in imports(module, path)
        if one.name.split(".")[0] == "nerfstudio" and one.name != ALLOWED_OF_NERFSTUDIO
    ]


def circles(files: dict[str, Path]) -> list[str]:
    """A shortest circle of imports through each file that is in one, each circle once."""
    edges = {
        module: sorted({target(one.name, files) for one in imports(module, path)} - {"", module})
        for module, path in files.items()
    }
    found: dict[frozenset[str], str] = {}
    for start in files:
        before: dict[str, str] = {}
        waiting = [start]
        while waiting and start not in before:
            module = waiting.pop(0)
            for other in edges[module]:
                if other not in before:
                    before[other] = module
                    waiting.append(other)
        if start in before:
            circle = [start, before[start]]
            while circle[-1] != start:
                circle.append(before[circle[-1]])
            found.setdefault(frozenset(circle), " -> ".join(reversed(circle)))
    return list(found.values())


FILES = modules(Path(difix3d_ns.__file__).parent)


def test_every_room_has_a_layer() -> None:
    assert foreign_rooms(FILES) == []
    assert len(FILES) > 100


def test_imports_point_downwards() -> None:
    assert not (wrong := upward(FILES)), "\n" + "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not (wrong := circles(FILES)), "\n" + "\n".join(wrong)


def test_below_ns_nerfstudio_is_unknown() -> None:
    assert not (wrong := of_nerfstudio(FILES)), "\n" + "\n".join(wrong)


def test_public_names_are_for_others() -> None:
    inside = [one for module, path in FILES.items() if module != PACKAGE for one in imports(module, path)]
    assert [str(one) for one in inside if target(one.name, FILES) == PACKAGE and one.name != PACKAGE] == []


@pytest.fixture
def house(tmp_path: Path) -> dict[str, Path]:
    """A package with one mistake of each kind."""
    sources = {
        "__init__": "",
        "geometry/__init__": "",
        "geometry/low": "def f():\n    from ..ns import high\n",
        "priors/__init__": "from nerfstudio.configs.base_config import InstantiateConfig, MachineConfig\n",
        "ns/__init__": "import nerfstudio\n",
        "ns/high": "import difix3d_ns.geometry.low as low\nfrom difix3d_ns import priors\n",
        "cellar/__init__": "",
        "views/a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import b\n",
        "views/b": "from difix3d_ns.views.a import *\n",
    }
    for name, source in sources.items():
        path = tmp_path / PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return modules(tmp_path / PACKAGE)


def test_each_kind_of_mistake_is_named(house: dict[str, Path]) -> None:
    assert foreign_rooms(house) == ["cellar"]
    assert upward(house) == ["difix3d_ns/geometry/low.py:2 imports difix3d_ns.ns.high: geometry lies below ns"]
    (wrong,) = of_nerfstudio(house)
    assert wrong.startswith("difix3d_ns/priors.py:1 imports nerfstudio.configs.base_config.MachineConfig: below ns/")
    assert circles(house) == [
        "difix3d_ns.geometry.low -> difix3d_ns.ns.high -> difix3d_ns.geometry.low",
        "difix3d_ns.views.a -> difix3d_ns.views.b -> difix3d_ns.views.a",
    ]
