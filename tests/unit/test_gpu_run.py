"""The scripts for a CUDA machine, checked without one: what they import, and two checks on a pretended device."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from difix3d_ns.io.sources import parse

RUN = Path(__file__).parents[1] / "gpu" / "run"
SCRIPTS = sorted(RUN.glob("*.py"))
SHELL = RUN / "gpu_run.sh"


def named(source: str) -> list[tuple[str, str]]:
    """(module, name in it or "") of everything of the package that a script imports, also inside functions."""
    found = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] == "difix3d_ns"]


def missing(source: str) -> list[str]:
    """Imports of a script that lead to nothing."""
    wrong = []
    for module, name in named(source):
        try:
            found = importlib.import_module(module)
            if name and not hasattr(found, name):
                importlib.import_module(f"{module}.{name}")
        except ImportError:
            wrong.append(f"{module} {name}".strip())
    return wrong


def embedded() -> str:
    """Python that the shell script runs."""
    return "\n".join(re.findall(r"<<P\n(.*?)\nP\n", SHELL.read_text(), re.DOTALL))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_names_they_import_exist(script: Path) -> None:
    importlib.import_module(f"tests.gpu.run.{script.stem}")
    source = script.read_text()
    assert named(source)
    assert missing(source) == []


def test_the_shell_script_names_what_exists() -> None:
    assert named(embedded()) == [("difix3d_ns.data.procedural", "demo_scene")]
    assert missing(embedded()) == []
    assert subprocess.run(["bash", "-n", str(SHELL)]).returncode == 0
    smoke = importlib.import_module("tests.gpu.run.gpu_smoke")
    wanted = re.findall(r'gpu_smoke\.py "\S+" ([a-z_ ]+)\)', SHELL.read_text())
    assert sorted(" ".join(wanted).split()) == sorted(smoke.check)


def test_a_name_that_moved_is_noticed() -> None:
    source = "def f():\n    from difix3d_ns.errors import Nothing, UserError\n    import difix3d_ns.nowhere\n"
    assert missing(source) == ["difix3d_ns.errors Nothing", "difix3d_ns.nowhere"]


@pytest.mark.slow
def test_checks_run_on_a_pretended_device() -> None:
    """In a process of its own, since the device is pretended everywhere in it."""
    code = (
        "from tests.gpu.run import gpu_smoke as smoke\n"
        "from tests.pretended_cuda import counting, pretended_cuda\n"
        "with pretended_cuda(), counting() as traffic:\n"
        "    print(smoke.median_depth(()))\n"
        "    print(smoke.pool_step(((64, 48),), 5))\n"
        "print(traffic.table())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=RUN.parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'hit differs': 0.0" in done.stdout and "5 of 5 in RAM" in done.stdout
    assert "kernels: " in done.stdout
