"""difix3d doctor: what it tries here, and what it says of what is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from difix3d_ns.apps.doctor import missing
from tests.commands import run_forked, script
from tests.unit.tiny_scene import write_scene


def _doctor(path: Path, *arguments: object) -> tuple[int, dict[str, str]]:
    """Run it with these programs alone on the PATH; (exit status, {what was tried: its row in one line})."""
    env = {"PATH": str(path), "CUDA_VISIBLE_DEVICES": ""}
    status, output = run_forked([script("difix3d"), "doctor", *arguments], env, path)
    rows: dict[str, str] = {}
    what = ""
    for line in output.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if len(cells) == 3:
            what = cells[0] or what
            rows[what] = " ".join(filter(None, [rows.get(what), *cells[1:]]))
    assert {"packages", "rasterization", "fixer"} <= set(rows), output
    return status, rows


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.mark.slow
def test_training_works_where_only_other_programs_are_broken(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=6, size=(40, 30))
    programs = tmp_path / "programs"
    programs.mkdir()
    _program(programs / "ffmpeg", "echo 'Unknown encoder libx264' >&2; exit 1")
    _program(programs / "colmap", '[ "$1" = help ] && echo "COLMAP 3.8 -- Structure-from-Motion and Multi-View Stereo"')
    _program(programs / "nvidia-smi", "exit 0")  # a GPU that CUDA_VISIBLE_DEVICES hides is no fault
    status, rows = _doctor(programs, "--data", scene, "--output", tmp_path / "outputs")
    assert status == 0, rows
    assert "torch" in rows["packages"] and "gsplat 1.4.0" in rows["packages"]
    assert rows["device"].startswith("CPU") and "CUDA_VISIBLE_DEVICES hides any GPU" in rows["device"]
    assert rows["rasterization"] == "one Gaussian on cpu"
    assert "embedded repairs a picture on cpu" in rows["fixer"]
    assert "GiB free" in rows["disk"]
    assert "cannot encode H.264 (Unknown encoder libx264)" in rows["ffmpeg"]
    assert "optional: apt-get install -y ffmpeg" in rows["ffmpeg"]
    assert rows["colmap"] == "runs"
    assert "photos to train on, up to 40 x 30" in rows["scene"]


@pytest.mark.slow
def test_a_broken_fixer_no_scene_and_no_folder_end_with_status_1(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"no weights")
    _program(tmp_path / "colmap", "echo 'cannot open shared object file' >&2; exit 127")
    arguments = ("--weights", weights, "--data", tmp_path / "nowhere", "--output", weights / "outputs")
    status, rows = _doctor(tmp_path, *arguments)
    assert status == 1, rows
    assert "nothing can be written" in rows["disk"] and "--output-dir" in rows["disk"]
    assert "weights.safetensors" in rows["fixer"] and "--weights" in rows["fixer"]
    assert "nowhere" in rows["scene"] and "ns-train" in rows["scene"]
    assert "missing: needed by ns-render" in rows["ffmpeg"] and "optional: apt-get install -y ffmpeg" in rows["ffmpeg"]
    assert "colmap help fails" in rows["colmap"] and "optional: apt-get install -y colmap" in rows["colmap"]


def test_programs_are_found_without_being_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = {finding.what: finding for finding in missing()}
    assert {"ffmpeg", "colmap"} <= set(absent)
    assert all(finding.optional and finding.remedy.startswith("apt-get install") for finding in absent.values())
    for name in ("ffmpeg", "colmap"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    assert {finding.what for finding in missing()} <= {"libusb"}


def test_a_broken_torch_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('half installed')\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    env = {**os.environ, "PYTHONPATH": path, "PATH": str(tmp_path), "COLUMNS": "200"}
    found = subprocess.run([sys.executable, "-m", "difix3d_ns.cli", "doctor"], env=env, capture_output=True, text=True)
    assert found.returncode == 1 and "Traceback" not in found.stderr, found.stderr
    assert re.search(r"packages .*torch \S+ cannot be imported: half installed .*--force-reinstall", found.stdout)
    assert re.search(r" torch==\S+ +│", found.stdout)
    assert not re.search(r"(gsplat|diffusers)==", found.stdout), "they import torch, and are well"
    assert re.search(r"fixer .*not tried: half installed", found.stdout)
