"""The numbered examples of docs/examples, run as files in an empty folder, on a small scene."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.conftest import execute

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def _run(name: str, folder: Path, *arguments: object) -> str:
    """What an example says."""
    command = [str(EXAMPLES / name), *map(str, arguments)]
    if commands.can_fork({}):
        status, text = commands.run_forked(command, {}, folder)
    else:
        done = execute([sys.executable, *command], cwd=folder)
        status, text = done.returncode, done.stdout
    assert status == 0, text[-3000:]
    return " ".join(text.split())


def _columns(path: Path, count: int) -> list[np.ndarray]:
    """Pictures [H, W, 3] that stand side by side in a file, levels of 255."""
    with Image.open(path) as picture:
        return np.split(np.asarray(picture.convert("RGB"), float), count, axis=1)


@pytest.fixture(scope="module")
def trained(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder that 05_train.py wrote into, and what it said."""
    folder = tmp_path_factory.mktemp("trained_by_example")
    return folder, _run("05_train.py", folder, tiny_scene, 60)


def test_a_picture_is_repaired(tiny_scene: Path, tmp_path: Path) -> None:
    said = _run("01_fix_picture.py", tmp_path, tiny_scene)
    before, after = (float(found) for found in re.findall(r"(?:before|after): (\S+) dB", said))
    assert after > before + 0.3
    blurred, fixed, photo = _columns(tmp_path / "fixed.png", 3)
    assert photo.shape == (96, 128, 3)
    assert np.abs(fixed - photo).mean() < np.abs(blurred - photo).mean()


def test_training_is_measured_and_exported(trained: tuple[Path, str]) -> None:
    folder, said = trained
    found = re.search(r"(\d+) Gaussians; held-out photos: (\S+) dB, SSIM (\S+)", said)
    assert found is not None, said[-3000:]
    assert int(found[1]) > 100 and float(found[2]) > 12 and 0 < float(found[3]) < 1
    assert b"element vertex" in (folder / "splat.ply").read_bytes()[:2000]
    assert "<html" in (folder / "report.html").read_text()[:500]


def test_a_splat_is_enhanced(trained: tuple[Path, str], tiny_scene: Path, tmp_path: Path) -> None:
    _run("02_enhance_splat.py", tmp_path, tiny_scene, trained[0] / "splat.ply")
    files = sorted((tmp_path / "enhanced").iterdir())
    assert len(files) == 3  # held-out photos
    for file in files:
        render, enhanced, photo = _columns(file, 3)
        assert np.abs(render - enhanced).mean() > 0.1
        assert np.abs(render - photo).mean() < 60  # the same place


def test_depth_of_photos(tiny_scene: Path, tmp_path: Path) -> None:
    said = _run("03_depth_of_photos.py", tmp_path, tiny_scene)
    shares = [int(found) for found in re.findall(r"(\d+)% of it within 2 %", said)]
    assert len(shares) == 6 and max(shares) > 20
    files = sorted((tmp_path / "depth").iterdir())
    assert len(files) == 6
    photo, depth, chance = _columns(files[0], 3)
    assert depth.std() > 5 and chance.std() > 5 and photo.shape == (96, 128, 3)


def test_a_photo_is_enlarged(tiny_scene: Path, tmp_path: Path) -> None:
    with Image.open(min((tiny_scene / "images").iterdir())) as photo:
        photo.resize((32, 24)).save(tmp_path / "small.png")
    said = _run("04_enlarge_photo.py", tmp_path, tmp_path / "small.png")
    found = re.search(r"differs from the photo by (\S+) levels", said)
    assert found is not None and float(found[1]) < 4
    bicubic, result = _columns(tmp_path / "enlarged.png", 2)
    assert result.shape == (96, 128, 3) and np.abs(bicubic - result).mean() > 0.3
