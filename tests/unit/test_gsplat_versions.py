"""gsplat's versions: what is called of it is there in both recorded releases, with the same defaults."""

from __future__ import annotations

import ast
import inspect
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gsplat
import pytest
from nerfstudio.models import splatfacto

import difix3d_ns
from difix3d_ns.rasterization import rasterization
from difix3d_ns.splats.strategies.capped import CappedStrategy
from difix3d_ns.splats.strategies.mcmc import DeviceFreeMCMCStrategy

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "gsplat_versions.py"))
RELEASES: dict[str, dict[str, dict[str, Any]]] = SCRIPT["load"]()
PACKAGE = Path(str(difix3d_ns.__file__)).parent
ONLY_PINNED = {("isect_tiles", "n_cameras"), ("isect_offset_encode", "n_cameras")}
"""keywords that the newer release no longer has, as the page says"""
OVERRIDES = {
    "DefaultStrategy": (CappedStrategy, ("_update_state", "_grow_gs")),
    "MCMCStrategy": (DeviceFreeMCMCStrategy, ("step_post_backward",)),
}

each_release = pytest.mark.parametrize("version", RELEASES)


def test_the_record_is_of_the_installed_release() -> None:
    pinned, newest = RELEASES
    assert pinned == gsplat.__version__ != newest
    assert SCRIPT["read"](Path(str(gsplat.__file__)).parent) == RELEASES[pinned]
    assert set(RELEASES[newest]) == set(RELEASES[pinned]), "nothing that is used is gone"


def test_the_page_is_written_from_the_record() -> None:
    assert (DOCS / "gsplat_versions.md").read_text() == SCRIPT["page"](RELEASES)


@each_release
def test_our_rasterizer_has_their_arguments_and_defaults(version: str) -> None:
    theirs = RELEASES[version]["rasterization"]["arguments"]
    ours = inspect.signature(rasterization).parameters
    for name, parameter in ours.items():
        default = None if parameter.default is parameter.empty else repr(parameter.default)
        written = None if theirs[name] is None else repr(ast.literal_eval(theirs[name]))
        assert default == written, name
    positional = [name for name, parameter in ours.items() if parameter.default is parameter.empty]
    assert list(theirs)[: len(positional)] == positional
    if version == gsplat.__version__:
        assert list(theirs) == list(ours)


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Calls of gsplat's recorded functions and classes that a file imports, by their name in gsplat."""
    tree = ast.parse(path.read_text())
    names = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gsplat")
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield names[node.func.id], node


@each_release
def test_every_call_fits(version: str) -> None:
    calls = [call for path in [Path(splatfacto.__file__), *sorted(PACKAGE.rglob("*.py"))] for call in _calls(path)]
    assert {"rasterization", "DefaultStrategy", "remove", "_fully_fused_projection"} <= {name for name, _ in calls}
    for name, call in calls:
        arguments = RELEASES[version][name]["arguments"]
        given = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        if version != gsplat.__version__:
            given -= {keyword for function, keyword in ONLY_PINNED if function == name}
        assert given <= set(arguments), f"{name}: {given - set(arguments)}"
        assert len(call.args) <= len(arguments)


@each_release
@pytest.mark.parametrize("base", OVERRIDES)
def test_our_strategies_fit_theirs(version: str, base: str) -> None:
    ours, methods = OVERRIDES[base]
    release = RELEASES[version]
    for name, default in release[base]["arguments"].items():
        assert getattr(ours, name) == ast.literal_eval(default), name
    for name in methods:
        assert list(inspect.signature(getattr(ours, name)).parameters) == list(release[f"{base}.{name}"]["arguments"])
