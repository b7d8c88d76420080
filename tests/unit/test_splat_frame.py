"""The way back from a splat to its capture's own coordinates, beside what ns-export writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from scipy.spatial.transform import Rotation

from difix3d_ns.ns.patches.exports import write_frame_beside
from difix3d_ns.ns.splat_frame import SplatFrame
from tests.unit.tiny_scene import datamanager, write_scene

FAR = np.array([5e5, 4e6, 120.0])  # as of a georeferenced survey, in metres
CENTRE = np.array([500003.0, 3999995.0, 121.0])  # of its cameras
SPACING = 2.0


@pytest.fixture
def frame() -> SplatFrame:
    rotation = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()
    return SplatFrame(np.hstack([rotation, -rotation @ (CENTRE)[:, None]]), 0.04)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """nerfstudio's exporter as far as it is replaced; the whole takes seconds to import."""

    class ExportGaussianSplat:
        @staticmethod
        def write_ply(filename: str, count: int, tensors: dict[str, Any]) -> None:
            Path(filename).write_text(f"ply {count}")

    module: Any = ModuleType("exporter")
    module.ExportGaussianSplat = ExportGaussianSplat
    module.collect_camera_poses_for_dataset = lambda dataset, optimizer: [
        {"file_path": str(path), "transform": pose.tolist()}
        for path, pose in zip(dataset.image_filenames, dataset.cameras.camera_to_worlds, strict=True)
    ]
    for name in ("nerfstudio.scripts.exporter", "nerfstudio.exporter.exporter_utils"):
        monkeypatch.setitem(sys.modules, name, module)
    return module


def test_points_far_from_the_origin_come_back(frame: SplatFrame) -> None:
    points = FAR + np.random.default_rng(0).normal(size=(50, 3)) * 10
    homogeneous = np.hstack([points, np.ones((50, 1))])
    of_splat = frame.scale * homogeneous @ frame.transform.T
    assert np.abs(of_splat).max() < 2
    content = json.loads(json.dumps(frame.as_json()))
    back = np.hstack([of_splat, np.ones((50, 1))]) @ np.array(content["splat_to_original"])[:3].T
    assert np.abs(back - points).max() < 1e-6 * SPACING
    rounded = np.hstack([of_splat.astype(np.float32), np.ones((50, 1))])  # as a .ply has them
    back = rounded @ np.array(content["splat_to_original"])[:3].T
    assert np.abs(back - points).max() < 1e-6 / frame.scale
    np.testing.assert_allclose(content["offset"], CENTRE, rtol=0, atol=1e-6 * SPACING)


def test_an_exported_splat_has_its_frame_beside_it(
    frame: SplatFrame, exporter: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frame_beside(SplatFrame(np.eye(3, 4), 1.0))
    write_frame_beside(frame)  # with the next pipeline
    exporter.ExportGaussianSplat.write_ply(str(tmp_path / "splat.ply"), 3, {})
    assert (tmp_path / "splat.ply").read_text() == "ply 3"
    assert json.loads((tmp_path / "splat_frame.json").read_text()) == frame.as_json()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "offset 500003 3999995 121" in printed
    assert str(tmp_path / "splat_frame.json") in printed


def test_exported_cameras_have_original_poses(exporter: Any, frame: SplatFrame, tmp_path: Path) -> None:
    dataset = datamanager(write_scene(tmp_path / "scene")).train_dataset
    outputs: DataparserOutputs = dataset._dataparser_outputs
    outputs.dataparser_transform, outputs.dataparser_scale = torch.from_numpy(frame.transform), frame.scale
    write_frame_beside(frame)
    frames = exporter.collect_camera_poses_for_dataset(dataset)
    assert len(frames) == 5
    for entry in frames:
        pose, original = np.array(entry["transform"]), np.array(entry["original_transform"])
        again = frame.scale * (frame.transform @ [*original[:, 3], 1.0])
        np.testing.assert_allclose(again, pose[:, 3], rtol=0, atol=1e-6 * SPACING * frame.scale)
        np.testing.assert_allclose(frame.transform[:, :3] @ original[:, :3], pose[:, :3], atol=1e-6)


def test_nerfstudios_transform_is_followed(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    outputs = datamanager(scene).train_dataparser_outputs
    frame = SplatFrame.of(outputs)
    given = {
        entry["file_path"]: entry["transform_matrix"]
        for entry in json.loads((scene / "transforms.json").read_text())["frames"]
    }
    for path, pose in zip(outputs.image_filenames, outputs.cameras.camera_to_worlds, strict=True):
        original = frame.original_pose(pose.double().numpy())
        np.testing.assert_allclose(original, np.array(given[f"images/{path.name}"])[:3], atol=1e-5)
