"""The scripts for a CUDA machine, checked without one: what they import, and two checks on a pretended device."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from difix3d_ns.io.sources import parse
from tests.unit.official_difix import UNET, VAE

RUN = Path(__file__).parents[1] / "gpu" / "run"
SCRIPTS = sorted(RUN.glob("*.py"))
SHELLS = sorted(RUN.glob("*.sh"))
CALLS = {"gpu_run.sh": "gpu_smoke", "networks_run.sh": "networks"}
"""scripts to call, and whose checks they run"""


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


def embedded(shell: Path) -> str:
    """Python that a shell script runs."""
    return "\n".join(re.findall(r"<<P\n(.*?)\nP\n", shell.read_text(), re.DOTALL))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_names_they_import_exist(script: Path) -> None:
    importlib.import_module(f"tests.gpu.run.{script.stem}")
    assert missing(script.read_text()) == []


def test_what_the_shell_scripts_embed_exists() -> None:
    assert named(embedded(RUN / "gpu_run.sh")) == [("difix3d_ns.data.procedural", "demo_scene")]
    for shell in SHELLS:
        assert missing(embedded(shell)) == []
        assert subprocess.run(["bash", "-n", str(shell)]).returncode == 0
        for module in re.findall(r"python3 -m ([\w.]+)", shell.read_text()):
            assert importlib.util.find_spec(module) or module == "pip", f"{shell.name}: {module}"


@pytest.mark.parametrize("call", CALLS)
def test_every_check_is_run(call: str) -> None:
    checks = importlib.import_module(f"tests.gpu.run.{CALLS[call]}").check
    lines = [line for line in (RUN / call).read_text().splitlines() if "timeout" in line and "$OUT/" in line]
    run = {word for line in lines for word in re.split(r"[ )]", line)} & set(checks)
    assert run == set(checks)


def test_methods_are_found_where_the_package_is_not_installed() -> None:
    """nerfstudio reads them from a variable there, in the words of the entry point."""
    (given,) = re.findall(r"NERFSTUDIO_METHOD_CONFIGS=(\S+)", (RUN / "environment.sh").read_text())
    points = {point.name: point.value for point in entry_points(group="nerfstudio.method_configs")}
    named = dict(entry.split("=") for entry in given.split(","))
    assert named.items() <= points.items() and {"difix3d-splatfacto", "3dsr-splatfacto"} == named.keys()


@pytest.mark.slow
def test_fine_tuning_is_timed_at_a_tiny_size(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    networks = importlib.import_module("tests.gpu.run.networks")
    write = networks.write_sd_turbo_shaped
    monkeypatch.setattr(networks, "write_sd_turbo_shaped", lambda folder, device: write(folder, UNET, VAE, device))
    found = networks.fine_tuning(steps=2, size=(192, 288), device="cpu")
    assert found["steps"] == 2 and found["pictures a step"] == 4
    assert found["steps an hour"] == pytest.approx(3600 / found["seconds a step"], rel=0.01)


def test_a_failed_check_does_not_end_the_others(tmp_path: Path) -> None:
    check = importlib.import_module("tests.gpu.run.checks").Checks()

    @check
    def broken() -> None:
        raise RuntimeError("no kernels")

    @check
    def sound() -> int:
        return 7

    report = check.run(tmp_path / "out" / "checks.json")
    assert report["broken"]["result"].startswith("FAILED") and "no kernels" in report["broken"]["result"]
    assert json.loads((tmp_path / "out" / "checks.json").read_text())["sound"]["result"] == 7
    assert list(check.run(tmp_path / "one.json", ["broken"])) == ["broken"]


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
