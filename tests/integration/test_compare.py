"""Two trainings in one video."""

from __future__ import annotations

import shutil
from pathlib import Path

import mediapy
import numpy as np
import pytest

from difix3d_ns.apps.compare_trainings import wiped
from difix3d_ns.ns.splat_frame import SplatFrame
from tests.conftest import Command

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is missing: apt-get install ffmpeg")


def test_a_pose_goes_to_original_coordinates_and_back() -> None:
    turn = np.array([[0.0, -1.0, 0.0, 3.0], [1.0, 0.0, 0.0, -2.0], [0.0, 0.0, 1.0, 7.0]])
    frame = SplatFrame(turn, 0.25)
    pose = np.array([[1.0, 0.0, 0.0, 0.5], [0.0, 0.0, -1.0, 0.1], [0.0, 1.0, 0.0, -0.3]])
    np.testing.assert_allclose(frame.pose_of(frame.original_pose(pose)), pose, atol=1e-12)


def test_a_wipe_has_both_and_a_line_between() -> None:
    left, right = np.full((4, 10, 3), 20, np.uint8), np.full((4, 10, 3), 90, np.uint8)
    picture = wiped(left, right, 0.6)
    assert picture[0, :, 0].tolist() == [20] * 5 + [255, 255] + [90] * 3


@needs_ffmpeg
def test_a_training_beside_itself(run: Command, trained: Path, tmp_path: Path) -> None:
    video = tmp_path / "wipe.mp4"
    printed = run("difix3d", "compare", trained, trained, "--output", video, "--seconds", 0.5).stdout
    frames = np.asarray(mediapy.read_video(video))
    assert frames.shape == (12, 96, 128, 3)
    assert frames.std(axis=(1, 2, 3)).min() > 10
    assert np.abs(frames[0].astype(float) - frames[-1]).mean() > 1  # the camera moves
    first, second = (line for line in printed.splitlines() if "held-out photos, as rendered: PSNR" in line)
    assert first == second
    again = run("difix3d", "compare", trained, trained, "--output", video, status=1)
    assert "wipe.mp4 exists already; --force overwrites" in again.stdout
    wrong = run("difix3d", "compare", trained, trained, "--output", tmp_path / "b.mp4", "--output-name", "x", status=1)
    assert "--output-name x" in wrong.stdout and "enhanced" in wrong.stdout
