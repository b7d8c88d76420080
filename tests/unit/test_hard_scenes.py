"""Captures that are hard to fix differ from the steady one in just what they are named for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.hard_scenes import rig, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[np.ndarray]]]:
    folder = tmp_path_factory.mktemp("hard")
    found = {}
    for kind in ("steady", "moving", "exposure", "white", "far"):
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


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """Camera-to-world matrices [N, 4, 4] of the splits, and the focal length."""
    found = {}
    for kind in ("steady", "outside-two", "poses-1", "focal", "street"):
        path = write(tmp_path_factory.mktemp("cameras") / kind, kind, width=48, height=32, test_views=2)
        content = json.loads((path / "transforms.json").read_text())
        frames = {frame["file_path"]: frame for frame in content["frames"]}
        found[kind] = {
            split: np.stack([frames[name]["transform_matrix"] for name in content[f"{split}_filenames"]])
            for split in ("train", "val")
        }
        found[kind]["focal"] = np.asarray(content.get("fl_x", content["frames"][0].get("fl_x")))
    return found


def test_held_out_cameras_are_outside(cameras: dict[str, dict[str, np.ndarray]]) -> None:
    photographs = cameras["steady"]["train"][:, :3, 3]
    spacing = np.linalg.norm(np.diff(photographs, axis=0), axis=1).mean()
    outside = cameras["outside-two"]
    assert np.allclose(outside["train"][:, :3, 3], photographs, atol=0.02)
    nearest = np.linalg.norm(outside["val"][:, None, :3, 3] - photographs, axis=-1).min(1)
    assert nearest.min() > 1.8 * spacing and nearest.max() < 2.8 * spacing


def test_poses_and_focal_length_are_off(cameras: dict[str, dict[str, np.ndarray]]) -> None:
    exact, turned, longer = (cameras[kind] for kind in ("steady", "poses-1", "focal"))
    traces = np.einsum("nij,nij->n", exact["train"][:, :3, :3], turned["train"][:, :3, :3])
    pixels = exact["focal"] * np.arccos(np.clip((traces - 1) / 2, -1, 1))
    assert 0.7 < pixels.mean() < 3 and np.allclose(exact["val"], turned["val"])
    assert turned["focal"] == exact["focal"] and longer["focal"] == pytest.approx(1.01 * exact["focal"])


def test_a_rig_sees_to_its_sides(cameras: dict[str, dict[str, np.ndarray]]) -> None:
    poses = [(np.eye(4), True), (np.eye(4), False)]
    (middle, trained), *sides = rig(poses, np.random.default_rng(0))
    assert trained and np.array_equal(middle, np.eye(4)) and len(sides) == 2
    left, right = (pose for pose, training in sides if not training)
    assert len(cameras["street"]["val"]) == 2 * len(cameras["street"]["train"])
    assert left[0, 3] < 0 < right[0, 3] and left[0, 2] < -0.5 and right[0, 2] > 0.5  # apart, and turned outwards
