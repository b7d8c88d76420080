"""A training in a process of its own: its status, its memory, and its end."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from difix3d_ns.evaluation import process
from tests.conftest import execute


def test_windows_has_no_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delitem(sys.modules, process.__name__)
    assert importlib.import_module(process.__name__).own_peak()["resident_mb"] > 1


@pytest.mark.slow
def test_the_peak_is_that_of_the_process(tmp_path: Path) -> None:
    code = (
        "import json, sys; from difix3d_ns.evaluation.process import own_peak; before = own_peak(); "
        "block = b'1' * (300 * 2**20); del block; "
        "print(json.dumps([before, own_peak()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert 290 < after["resident_mb"] - before["resident_mb"] < 500
    assert after["cuda_mb"] is None


@pytest.mark.slow
def test_a_mistake_in_the_flags_is_a_status(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as file:
        code, peak = process.run(["no-such-method"], tmp_path / "peak.json", file)
    assert code != 0
    assert peak > 100  # torch and nerfstudio were loaded
    assert "no-such-method" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_training_ends_with_who_started_it(tmp_path: Path) -> None:
    """Even if that was killed."""
    code = (
        "import sys; from pathlib import Path; from difix3d_ns.evaluation import process; "
        "process.run(['--help'], Path(sys.argv[1]) / 'peak.json')"
    )
    # a start that takes its time
    slow = tmp_path / "nerfstudio"
    slow.mkdir()
    (slow / "__init__.py").write_text(f"import time\nopen({str(tmp_path / 'started')!r}, 'w')\ntime.sleep(600)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "started").exists():
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        (child,) = psutil.Process(parent.pid).children()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    child.wait(60)
    assert not child.is_running()


@pytest.mark.slow
def test_the_package_that_measures_is_measured(tmp_path: Path) -> None:
    """Whatever lies in the current folder."""
    (tmp_path / "difix3d_ns").mkdir()
    (tmp_path / "difix3d_ns" / "__init__.py").write_text("raise SystemExit('another package')\n")
    code = (
        "import sys; from pathlib import Path; from difix3d_ns.evaluation import process; import os; "
        f"os.chdir({str(tmp_path)!r}); sys.exit(process.run(['--help'], Path('peak.json'))[0])"
    )
    done = execute([sys.executable, "-P", "-c", code])
    assert done.returncode == 0 and "another package" not in done.stdout and "difix3d-splatfacto" in done.stdout
