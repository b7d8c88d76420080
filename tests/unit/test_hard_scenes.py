"""Captures that are hard to fix differ from the steady one in just what they are named for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.hard_scenes import KINDS, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[np.ndarray]]]:
    folder = tmp_path_factory.mktemp("hard")
    found = {}
    for kind in KINDS:
        path = write(folder / kind, kind, width=96, height=64, test_views=2)
        content = json.loads((path / "transforms.json").read_text())
        found[kind] = {
            split: [_picture(path / name) for name in content[f"{split}_filenames"]] for split in ("train", "val")
        }
    return found


def _picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(float) / 255


def test_a_ball_moves_through_the_photographs_alone(captures: dict) -> None:
    steady, moving = captures["steady"], captures["moving"]
    for before, after in zip(steady["val"], moving["val"], strict=True):
        assert np.array_equal(before, after)
    changed = [np.abs(a - b).max(-1) > 0.1 for a, b in zip(steady["train"], moving["train"], strict=True)]
    assert all(0.002 < mask.mean() < 0.2 for mask in changed)


def test_the_background_is_white(captures: dict) -> None:
    for picture in captures["white"]["train"] + captures["white"]["val"]:
        assert 0.3 < (picture.min(-1) > 0.98).mean() < 0.95


def test_exposure_changes(captures: dict) -> None:
    def spread(kind: str) -> float:
        """Of the brightness of the wall on the top, by which photographs of one camera hardly differ."""
        return float(np.std([np.log2(picture[:20, 20:60].mean()) for picture in captures[kind]["train"]]))

    assert spread("exposure") > 0.2 > spread("steady")


def test_few_photographs_are_far_apart(captures: dict) -> None:
    assert len(captures["far"]["train"]) == 3 and len(captures["steady"]["train"]) == 6
