"""Force applied to nerfstudio, torch and Python: all of it in one table, each piece with a test."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import socket
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.configs import external_methods
from nerfstudio.models import splatfacto
from nerfstudio.viewer_legacy.server import viewer_utils

from difix3d_ns.io.sources import parse
from difix3d_ns.metrics.perceptual import LazyLPIPS
from difix3d_ns.ns import patches
from difix3d_ns.ns.patches import PATCHES, Patch, splatfacto_cpu
from tests.unit.short_training import console_output
from tests.unit.tiny_splat import tiny_model

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "difix3d_ns"
FOR_OTHERS = {"OMP_WAIT_POLICY", "PATH", "RAY_USAGE_STATS_ENABLED"}
"""Variables that numba's threads, gsplat's build and Ray read, and that can be told nothing otherwise."""

each_patch = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.what)


def test_rows_cover_every_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(patches.__path__)}
    assert {patch.module for patch in PATCHES} == modules


def _replaced(module: str) -> set[str]:
    """Names of attributes that a module sets on what it imports."""
    tree = parse((PACKAGE / "ns" / "patches" / f"{module}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    theirs = {(alias.asname or alias.name).partition(".")[0] for node in imports for alias in node.names}
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    found = {one.attr for one in targets if isinstance(one, ast.Attribute) and ast.unparse(one.value) in theirs}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr"]
    return found | {str(ast.literal_eval(call.args[1])) for call in calls}


def test_rows_cover_every_name_that_is_replaced() -> None:
    found = {(module, name) for module in {patch.module for patch in PATCHES} for name in _replaced(module)}
    assert len(found) > 10
    assert found <= {(patch.module, patch.what.rpartition(".")[2]) for patch in PATCHES}


@each_patch
def test_each_row_names_a_test_and_a_function(patch: Patch) -> None:
    file, name = patch.test.split("::")
    tree = parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert callable(getattr(importlib.import_module(f"difix3d_ns.ns.patches.{patch.module}"), patch.by))
    assert patch.why and patch.version


NAMES = """
import importlib, sys

def find(what):
    parts = what.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return len(found()) if parts[-1].startswith("get_safe") else found

import nerfstudio.engine.trainer
import nerfstudio.models.splatfacto, nerfstudio.utils.install_checks, nerfstudio.viewer.render_panel
names = sys.argv[1:]
before = [find(name) for name in names]
from difix3d_ns.ns.patches import apply  # importing anything of ns applies them
once = [find(name) for name in names]
apply()
twice = [find(name) for name in names]
kept = [name for name, old, new in zip(names, before, once) if old is new or old == new]
changed = [name for name, old, new in zip(names, once, twice) if not (old is new or old == new)]
print("RESULT", len(names), kept, changed)
"""


@pytest.mark.slow
def test_every_name_is_replaced_once() -> None:
    names = [patch.what for patch in PATCHES if patch.by == "apply"]
    assert len(names) > 5
    done = subprocess.run([sys.executable, "-c", NAMES, *names], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"RESULT {len(names)} [] []"


def test_camera_matrices_are_nerfstudios() -> None:
    random = np.random.default_rng(0)
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, :3, :3] = torch.from_numpy(np.linalg.qr(random.normal(size=(3, 3, 3)))[0]).float()
    poses[:, :3, 3] = torch.from_numpy(random.normal(size=(3, 3))).float()
    assert splatfacto.get_viewmat is splatfacto_cpu._viewmat
    spec = importlib.util.find_spec("nerfstudio.models.splatfacto")
    assert spec is not None and spec.loader is not None
    unpatched = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpatched)
    theirs = getattr(unpatched.get_viewmat, "_torchdynamo_orig_callable", unpatched.get_viewmat)
    torch.testing.assert_close(splatfacto.get_viewmat(poses[:, :3]), theirs(poses[:, :3]))


def test_models_are_made_with_a_lazy_lpips_and_others_are_not() -> None:
    from torchmetrics.image import lpip

    theirs = lpip.LearnedPerceptualImagePatchSimilarity
    assert isinstance(tiny_model().lpips, LazyLPIPS)
    assert lpip.LearnedPerceptualImagePatchSimilarity is theirs and isinstance(theirs, type)
    with pytest.raises(ZeroDivisionError), patches.splatfacto_metrics.light_metrics():
        raise ZeroDivisionError
    assert lpip.LearnedPerceptualImagePatchSimilarity is theirs


def test_psnr_is_torchmetrics() -> None:
    from torchmetrics.image import PeakSignalNoiseRatio

    model = tiny_model()
    assert not isinstance(model.psnr, PeakSignalNoiseRatio)
    generator = torch.Generator().manual_seed(0)
    for size in (1, 7, 64):
        first, second = (torch.rand(1, 3, size, size, generator=generator) for _ in range(2))
        assert torch.equal(model.psnr(first, second), PeakSignalNoiseRatio(data_range=1.0)(first, second))


IMPORTED = """
import sys
from tests.unit.short_training import console_output
from tests.unit.tiny_splat import tiny_model
tiny_model()
print([name for name in ("torchmetrics", "transformers") if name in sys.modules])
"""


@pytest.mark.slow
def test_a_model_imports_no_torchmetrics() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_icons_are_visers() -> None:
    from viser import Icon, _gui_api, _gui_handles, _icons

    names = (Icon.X, Icon.CAMERA_PLUS)
    for module in (_gui_api, _gui_handles):
        assert module.svg_from_icon is not _icons.svg_from_icon
        assert [module.svg_from_icon(name) for name in names] == [_icons.svg_from_icon(name) for name in names]


def test_methods_that_are_not_installed_are_listed_and_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    method = external_methods.external_methods[0]
    slugs = [slug for each in external_methods.external_methods for slug, _ in each.configurations]
    monkeypatch.setattr(external_methods.Confirm, "ask", lambda *_, **__: False)
    with pytest.raises(SystemExit) as chosen:  # as tyro makes it of ns-train's arguments
        external_methods.ExternalMethodDummyTrainerConfig(method_name=slugs[0], method=method)
    assert chosen.value.code == 0 and method.pip_package in "".join(capsys.readouterr().out.split())
    monkeypatch.setattr(external_methods, "inspect", None)
    configs, descriptions = external_methods.get_external_methods()
    assert list(configs) == list(descriptions) == slugs and configs[slugs[0]].method is method
    assert capsys.readouterr().out == ""


def _modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py"))]


def _name(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


def test_no_mock_outside_tests() -> None:
    found = []
    for path in _modules():
        for node in ast.walk(parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if "mock" in module.split(".") or any("mock" in name.split(".") for name in names):
                found.append(path)
    assert found == []


def _is_for_others(target: ast.AST) -> bool:
    """Whether it is a variable of others, by its name."""
    key = target.slice if isinstance(target, ast.Subscript) else None
    return isinstance(key, ast.Constant) and key.value in FOR_OTHERS


def _changes_the_environment(node: ast.AST) -> bool:
    """Whether it sets, patches or takes away variables, other than those of others."""
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
        targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
        targets = [target for target in targets if not _is_for_others(target)]
        places = [target.value if isinstance(target, ast.Subscript) else target for target in targets]
        return any(_name(place) == "os.environ" for place in places)
    if not isinstance(node, ast.Call):
        return False
    function = _name(node.func)
    if function in ("os.putenv", "os.unsetenv"):
        return True
    first = node.args[0] if node.args else None
    if function == "os.environ.setdefault":
        return not (isinstance(first, ast.Constant) and first.value in FOR_OTHERS)
    changing = ("update", "pop", "popitem", "clear", "__setitem__", "__delitem__")
    return function in {f"os.environ.{name}" for name in changing} or (
        "patch" in function and any(_name(argument) == "os.environ" for argument in node.args)
    )


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("os.environ['A'] = 'b'", True),
        ("os.environ['PATH'] = 'b'", False),
        ("del os.environ['A']", True),
        ("os.environ |= {}", True),
        ("os.environ.update(A='b')", True),
        ("os.environ.setdefault('DIFIX3D_ENHANCE', 'key')", True),
        ("os.environ.setdefault('OMP_WAIT_POLICY', 'passive')", False),
        ("monkeypatch.dict(os.environ, {})", True),
        ("x = {**os.environ, 'A': 'b'}; y = os.environ['A']; os.environ.get('A')", False),
    ],
)
def test_changes_of_the_environment_are_found(code: str, changes: bool) -> None:
    assert any(map(_changes_the_environment, ast.walk(parse(code)))) is changes


def test_the_environment_is_read_and_not_written() -> None:
    found = [path for path in _modules() if any(map(_changes_the_environment, ast.walk(parse(path.read_text()))))]
    assert found == []
    assert reduce(lambda count, path: count + path.read_text().count("os.environ"), _modules(), 0) > 3


FOREIGN = {"splatfacto", "render_panel", "RenderStateMachine", "install_checks", "lpip", "camera_utils", "writer"}
FOREIGN |= {"sys", "threading", "torch"}


def test_no_other_module_replaces_foreign_names() -> None:
    found = []
    for path in _modules():
        if path.parent == PACKAGE / "ns" / "patches":
            continue
        for node in ast.walk(parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            owners = [_name(target.value) for target in targets if isinstance(target, ast.Attribute)]
            if isinstance(node, ast.Call) and _name(node.func) == "setattr":
                owners.append(_name(node.args[0]))
            found += [(path.name, owner) for owner in owners if owner.split(".")[0] in FOREIGN]
    assert found == []


def test_a_port_in_use_is_said_and_the_next_one_taken(capsys: pytest.CaptureFixture[str]) -> None:
    patches.apply()
    free = viewer_utils.get_free_port(7600)  # as nerfstudio's viewer asks for one
    capsys.readouterr()  # it may be in use
    with socket.socket() as taken:
        taken.bind(("", free))
        taken.listen()
        port = viewer_utils.get_free_port(free)
        assert free < port <= free + 50
        assert f"Port {free} is in use: the viewer takes {port}" in console_output(capsys)
    assert viewer_utils.get_free_port(free) == free
    assert viewer_utils.get_free_port() > 0
