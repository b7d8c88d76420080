"""What is measured on evaluation views has been learnt from the others alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import run_forked
from tests.conftest import with_compiled_kernels

STEPS = 220
IN_BETWEEN = ("--steps-per-eval-image", 50, "--steps-per-eval-all-images", 100)
NEVER = ("--steps-per-eval-image", 0, "--steps-per-eval-all-images", 0)
STRICT = ("--pipeline.datamanager.pose-frame", "train", *NEVER)
Change = Callable[[dict[str, Any], Path], None]


def _train(scene: Path, folder: Path, *flags: object) -> dict[str, Any]:
    """What the probe recorded of a training with the defaults, but short."""
    recorded = folder / "recorded.json"
    status, output = run_forked(
        [
            *("-m", "tests.integration.probe", str(recorded), "difix3d-splatfacto"),
            *("--data", str(scene), "--output-dir", str(folder / "outputs"), "--vis", "tensorboard"),
            *("--max-num-iterations", str(STEPS), "--machine.device-type", "cpu"),
            *("--pipeline.model.max-gs-num", "3000", "--pipeline.guidance.targets.count", "4", *map(str, flags)),
        ],
        env={},
        cwd=folder,
    )
    assert status == 0, output[-4000:]
    return json.loads(recorded.read_text())


def _names(meta: dict[str, Any]) -> list[str]:
    return [Path(name).name for name in meta["test_filenames"]]


def _changed(scene: Path, folder: Path, change: Change) -> Path:
    shutil.copytree(scene, folder)
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta, folder)
    path.write_text(json.dumps(meta))
    return folder


def _evaluation_first(meta: dict[str, Any], folder: Path) -> None:
    """nerfstudio opens the first picture of the file to learn its size."""
    meta["frames"].sort(key=lambda frame: frame["file_path"] not in meta["test_filenames"])


def _noise(meta: dict[str, Any], folder: Path) -> None:
    random = np.random.default_rng(0)
    for name in meta["test_filenames"]:
        with Image.open(folder / name) as picture:
            size = picture.size
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)


def _move(meta: dict[str, Any], folder: Path) -> None:
    """Further away than any camera, tilted."""
    for number, frame in enumerate(meta["frames"]):
        if frame["file_path"] in meta["test_filenames"]:
            pose = np.array(frame["transform_matrix"])
            angle = 0.3 + 0.1 * number
            tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
            pose[:3, :3] = tilt @ pose[:3, :3]
            pose[:3, 3] = pose[:3, 3] * 3 + 1
            frame["transform_matrix"] = pose.tolist()


@pytest.fixture(scope="module")
def scene(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _changed(tiny_scene, tmp_path_factory.mktemp("leak") / "scene", _evaluation_first)


@pytest.fixture(scope="module")
def recorded(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a training with evaluation in between."""
    return with_compiled_kernels(lambda: _train(scene, tmp_path_factory.mktemp("first"), *IN_BETWEEN))


def test_evaluation_pictures_change_nothing(recorded: dict[str, Any], scene: Path, tmp_path: Path) -> None:
    noise = _changed(scene, tmp_path / "scene", _noise)
    after = _train(noise, tmp_path, *IN_BETWEEN)
    assert len(recorded["losses"]) == STEPS and len(set(recorded["losses"])) > STEPS // 2
    assert len(recorded["targets"]) == 4 and len(recorded["pool"]) >= 8 and any(recorded["references"])
    for what in ("targets", "pool", "references", "losses"):
        assert after[what] == recorded[what], what


def test_evaluation_pictures_are_opened_by_evaluation_only(
    recorded: dict[str, Any], scene: Path, tmp_path: Path
) -> None:
    held_out = set(_names(json.loads((scene / "transforms.json").read_text())))
    assert set(recorded["opened"]["training"]) and not set(recorded["opened"]["training"]) & held_out
    assert set(recorded["opened"]["evaluation"]) == held_out
    never = _train(scene, tmp_path, *NEVER)
    assert never["opened"]["evaluation"] == [] and not set(never["opened"]["training"]) & held_out
    assert never["losses"] == recorded["losses"]  # evaluating in between draws nothing that training draws


def test_evaluation_poses_change_nothing_in_the_frame_of_the_training_poses(scene: Path, tmp_path: Path) -> None:
    moved = _changed(scene, tmp_path / "scene", _move)
    runs = []
    for name, data in (("as given", scene), ("moved", moved)):
        (tmp_path / name).mkdir()
        runs.append(_train(data, tmp_path / name, *STRICT))
    for what in ("targets", "pool", "references", "losses"):
        assert runs[1][what] == runs[0][what], what


@pytest.mark.parametrize(("frame", "tolerance"), [("all", 1e-4), ("train", 0.0)])
def test_no_default_target_depends_on_an_evaluation_pose(
    frame: str, tolerance: float, scene: Path, tmp_path: Path
) -> None:
    """In the scene's own coordinates; nerfstudio's frame is found from all poses, so numbers are rounded there."""
    targets = []
    for data in (scene, _changed(scene, tmp_path / "scene", _move)):
        targets.append(_targets(data, frame, tmp_path))
    assert len(targets[0]) == 16
    extent = float(targets[0].amax(0).sub(targets[0].amin(0)).max())
    assert float((targets[0] - targets[1]).abs().max()) <= tolerance * extent


def _targets(data: Path, frame: str, folder: Path) -> torch.Tensor:  # [T, 3] positions, coordinates of transforms.json
    from difix3d_ns.ns.cameras import to_pinhole
    from difix3d_ns.views.targets import auto_targets
    from tests.unit.tiny_scene import datamanager

    manager = datamanager(data, pose_frame=frame)
    outputs = manager.train_dataparser_outputs
    cameras = [to_pinhole(manager.train_dataset.cameras[i : i + 1]) for i in range(len(manager.train_dataset))]
    found = auto_targets(cameras, outputs.metadata["points3D_xyz"], 16)
    positions = torch.stack([target.camera_to_world[:3, 3] for target in found]).double() / outputs.dataparser_scale
    transform = outputs.dataparser_transform.double()
    return (positions - transform[:, 3]) @ torch.linalg.inv(transform[:, :3]).T
