"""Real trainings whose disk is full or whose folder is closed: nothing saved is lost, and one line says what to do."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from difix3d_ns.io import checkpoints
from tests.commands import run_forked
from tests.conftest import command_line, execute
from tests.full_disk import can_mount, limit_files, mount
from tests.integration.conftest import SMALL


def _command(scene: Path, output: Path, *flags: object) -> list[str]:
    arguments = ["difix3d-splatfacto", "--data", scene, "--output-dir", output, "--experiment-name", "scene"]
    return command_line("ns-train", *arguments, "--timestamp", "run", *SMALL, *flags)


def _train(command: list[str], before: Callable[[], object] = int) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(command, *run_forked(command, {}, None, before))


def test_files_that_grow_too_large(tiny_scene: Path, tmp_path: Path) -> None:
    """Past a file-size limit writing fails as on a full disk: here for checkpoints and curves, not for the pool."""
    done = _train(_command(tiny_scene, tmp_path), functools.partial(limit_files, 200_000))
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "The checkpoint of step 149 could not be saved" in said and "File too large" in said
    assert "training goes on" in said and "go on with --load-dir" in said
    assert "Traceback" not in said
    folder = tmp_path / "scene" / "difix3d-splatfacto" / "run"
    assert checkpoints.checkpoint_steps(folder / "nerfstudio_models") == []
    assert list(folder.glob(".*.part*")) == []
    # 8 views, and the 4 that were made anew: replaced ones stay until a checkpoint is saved
    assert len(list((folder / "pseudo_views").glob("view_*.safetensors"))) == 12


def test_a_disk_that_fills_up_keeps_what_was_saved(tiny_scene: Path, trained: Path, tmp_path: Path) -> None:
    size = next((trained.parent / "nerfstudio_models").iterdir()).stat().st_size
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("mounting is not permitted here")
    # two checkpoints and half of a third
    done = _train(_command(tiny_scene, disk), functools.partial(mount, disk, size * 5 // 2, saved))
    assert not any(disk.iterdir())
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "No space left on device" in said and "go on with --load-dir" in said
    assert "Traceback" not in said
    folder = saved / "scene" / "difix3d-splatfacto" / "run"
    steps = checkpoints.checkpoint_steps(folder / "nerfstudio_models")
    assert len(steps) == 2
    resumed = _train(_command(tiny_scene, tmp_path / "resumed", "--load-dir", folder / "nerfstudio_models"))
    assert resumed.returncode == 0
    assert f"going on at step {steps[0] + 1}" in " ".join(resumed.stdout.split())


@pytest.mark.parametrize("closed", ["output", "pool"])
def test_folders_that_may_not_be_written(closed: str, tiny_scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    pool = folder / "scene" / "difix3d-splatfacto" / "run" / "pseudo_views"
    pool.mkdir(parents=True)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:  # root may write everywhere
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is missing: apt-get install util-linux")
        prefix = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
        for path in (tiny_scene, *tiny_scene.rglob("*"), *tiny_scene.parents, *folder.parents):
            if path.is_relative_to(tmp_path.parents[1]) or path == tmp_path.parents[1]:
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
        reach = [*prefix, sys.executable, "-c", f"import nerfstudio, os; os.listdir({str(tiny_scene)!r})"]
        if subprocess.run(reach, capture_output=True, check=False).returncode:
            pytest.skip("an unprivileged user cannot reach this environment")
    (folder if closed == "output" else pool).chmod(0o555)
    name = "closed" if closed == "output" else "scene"
    try:
        done = execute([*prefix, *_command(tiny_scene, folder, "--experiment-name", name)])
    finally:
        folder.chmod(0o755)
        pool.chmod(0o755)
    said = " ".join(done.stdout.split())
    assert done.returncode == 1, done.stdout[-3000:]
    assert "Error: cannot write to --output-dir" in said and str(folder) in said
    assert "choose another" in said or "choose a folder" in said
    assert "Traceback" not in said
