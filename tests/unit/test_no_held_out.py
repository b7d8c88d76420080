"""Captures of which no photo is held out, and where exported splats of captures lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report.held_out import measure
from difix3d_ns.evaluation.runs import evaluate
from difix3d_ns.ns.dataparsers.scene_parser import check_folder
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.unit.lens_scene import write_lens_scene
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import datamanager, write_scene

HOW = "list them under val_filenames"


def _without_lists(meta: dict) -> None:
    for split in ("train", "val", "test"):
        del meta[f"{split}_filenames"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> GuidedTrainer:
    """A training on six photos, evaluated in between if it could be."""
    scene = write_scene(tmp_path_factory.mktemp("all") / "scene", change=_without_lists)
    config = short_config(scene, steps=6)
    config.steps_per_eval_image = config.steps_per_eval_all_images = 2
    return train(config)


def test_all_photos_train_up_to_nine(trained: GuidedTrainer) -> None:
    assert len(trained.pipeline.datamanager.train_dataset) == 6
    assert len(trained.pipeline.datamanager.eval_dataset) == 0


@pytest.mark.parametrize("count", [9, 10, 17])
def test_every_eighth_is_held_out_from_ten_on(count: int, tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", count=count, change=_without_lists))
    held_out = [path.name for path in manager.eval_dataset.image_filenames]
    expected = [] if count < 10 else [f"frame_{index:03d}.png" for index in range(0, count, 8)]
    assert held_out == expected
    assert len(manager.train_dataset) == count - len(expected)


def test_each_command_says_how_to_hold_some_out(trained: GuidedTrainer, tmp_path: Path) -> None:
    from nerfstudio.scripts.eval import ComputePSNR
    from nerfstudio.scripts.render import DatasetRender

    found = trained.base_dir / "config.yml"
    with pytest.raises(UserError, match=HOW):
        ComputePSNR(found, tmp_path / "metrics.json").main()
    with pytest.raises(UserError, match=f"--split train.*{HOW}"):
        DatasetRender(found, tmp_path / "out").main()
    DatasetRender(found, tmp_path / "out", split="train", rendered_output_names=["rgb"]).main()
    assert len(list((tmp_path / "out/train/rgb").iterdir())) == 6
    assert evaluate(found, enhance=False).views == []
    assert any(HOW in part for part in measure([], None, None).parts())
    with pytest.raises(UserError, match=HOW):
        check_folder(trained.config.data)


def test_interpolate_names_the_other_source(trained: GuidedTrainer) -> None:
    from nerfstudio.cameras.camera_paths import get_interpolated_camera_path

    with pytest.raises(UserError, match=f"--pose-source train.*{HOW}"):
        get_interpolated_camera_path(trained.pipeline.datamanager.eval_dataset.cameras, steps=3, order_poses=False)
    cameras = trained.pipeline.datamanager.train_dataset.cameras
    assert len(get_interpolated_camera_path(cameras, steps=3, order_poses=False)) == 3 * 5


def test_an_exported_splat_comes_with_the_way_back(tmp_path: Path) -> None:
    exporter = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=ImportError)  # open3d needs libusb
    offset = (512_345.678, 4_123_456.789, 312.5)
    config = short_config(write_lens_scene(tmp_path / "scene", offset=offset), steps=1)
    train(config)
    exporter.ExportGaussianSplat(config.get_base_dir() / "config.yml", tmp_path / "exports").main()
    frame = json.loads((tmp_path / "exports/splat_frame.json").read_text())
    vertices = PlyData.read(str(tmp_path / "exports/splat.ply"))["vertex"]
    splat = np.stack([vertices[axis] for axis in "xyz"], -1).astype(np.float64)
    assert np.abs(splat).max() < 100
    original = np.hstack([splat, np.ones((len(splat), 1))]) @ np.array(frame["splat_to_original"])[:3].T
    given = PlyData.read(str(tmp_path / "scene/points.ply"))["vertex"]
    expected = np.stack([given[axis] for axis in "xyz"], -1)
    assert len(expected) == len(original)
    assert np.abs(np.sort(original, 0) - np.sort(expected, 0)).max() < 0.1  # moved by one step of training
