"""difix3d doctor: what it tries here, and what it says of what is broken."""

from __future__ import annotations

import re
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


@pytest.mark.slow
def test_training_works_where_only_other_programs_are_broken(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=6, size=(40, 30))
    programs = tmp_path / "programs"
    programs.mkdir()
    ffmpeg = programs / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\necho 'Unknown encoder libx264' >&2\nexit 1\n")
    ffmpeg.chmod(0o755)
    status, rows = _doctor(programs, "--data", scene, "--output", tmp_path / "outputs")
    assert status == 0, rows
    assert "torch" in rows["packages"] and "gsplat 1.4.0" in rows["packages"]
    assert rows["device"].startswith("CPU")
    assert rows["rasterization"] == "one Gaussian on cpu"
    assert "embedded repairs a picture on cpu" in rows["fixer"]
    assert "GiB free" in rows["disk"]
    assert "cannot encode H.264 (Unknown encoder libx264)" in rows["ffmpeg"]
    assert "optional: apt-get install -y ffmpeg" in rows["ffmpeg"]
    assert "missing" in rows["colmap"] and "optional: apt-get install -y colmap" in rows["colmap"]
    assert "photos to train on, up to 40 x 30" in rows["scene"]


@pytest.mark.slow
def test_a_broken_fixer_and_no_scene_end_with_status_1(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"no weights")
    status, rows = _doctor(tmp_path, "--weights", weights, "--data", tmp_path / "nowhere")
    assert status == 1, rows
    assert "weights.safetensors" in rows["fixer"] and "--weights" in rows["fixer"]
    assert "nowhere" in rows["scene"] and "ns-train" in rows["scene"]
    assert "missing" in rows["ffmpeg"] and "optional: apt-get install -y ffmpeg" in rows["ffmpeg"]


def test_programs_are_found_without_being_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = {finding.what: finding for finding in missing()}
    assert {"ffmpeg", "colmap"} <= set(absent)
    assert all(finding.optional and finding.remedy.startswith("apt-get install") for finding in absent.values())
    for name in ("ffmpeg", "colmap"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    assert {finding.what for finding in missing()} <= {"libusb"}
