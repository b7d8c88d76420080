"""The frame a scene is trained in: nerfstudio's own, or one found from the training poses alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.phototourism_dataparser import PhototourismDataParserConfig

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.point_file import read_points
from difix3d_ns.ns.dataparsers.scene_parser import SceneParser, TrainFramedSceneParser
from difix3d_ns.ns.photo_dataset import PhotoDataset
from tests.unit.tiny_scene import datamanager, write_scene

ALL = {"eval_mode": "all"}


def _parse(kind: type[DataParser], folder: Path, split: str = "train", **settings: Any) -> DataparserOutputs:
    config = NerfstudioDataParserConfig(data=folder, load_3D_points=kind is not Nerfstudio, **settings)
    return kind(config).get_dataparser_outputs(split)


def _without_lists(meta: dict[str, Any]) -> None:
    for split in ("train", "val", "test"):
        del meta[f"{split}_filenames"]


def _with_transform(meta: dict[str, Any]) -> None:
    _without_lists(meta)
    meta["applied_transform"] = [[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 0]]
    meta["applied_scale"] = 0.5
    meta["frames"].reverse()


def _overriding(meta: dict[str, Any]) -> None:
    _without_lists(meta)
    meta["orientation_override"] = "none"


@pytest.mark.parametrize("method", ["up", "vertical", "pca", "none"])
@pytest.mark.parametrize("center", ["poses", "focus", "none"])
@pytest.mark.parametrize("change", [_without_lists, _with_transform, _overriding])
@pytest.mark.parametrize("kind", [SceneParser, TrainFramedSceneParser])
def test_where_all_pictures_are_trained_on_the_frame_is_nerfstudios(
    kind: type[SceneParser], method: str, center: str, change: Any, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene", change=change)
    settings = {**ALL, "orientation_method": method, "center_method": center, "scale_factor": 1.5}
    theirs, ours = (_parse(parser, scene, **settings) for parser in (Nerfstudio, kind))
    # theirs is computed in float32, whose last digits differ from one kind of CPU to another
    torch.testing.assert_close(ours.dataparser_transform.float(), theirs.dataparser_transform, atol=1e-5, rtol=1e-5)
    assert ours.image_filenames == theirs.image_filenames
    if method == "pca" and change is not _overriding:
        return  # nerfstudio's mirrors two of the cameras alone
    assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale, rel=1e-6)
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "distortion_params", "camera_type"):
        given, expected = getattr(ours.cameras, name), getattr(theirs.cameras, name)
        torch.testing.assert_close(given, expected, atol=1e-6, rtol=1e-6, check_dtype=False)
    points = read_points(scene / "points.ply")
    assert points is not None
    applied = np.eye(4)
    if change is _with_transform:
        applied[:3] = [[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 0]]
    transform = np.concatenate([theirs.dataparser_transform.numpy(), [[0, 0, 0, 1]]]) @ np.linalg.inv(applied)
    expected_points = (points.positions @ transform[:3, :3].T + transform[:3, 3]) * theirs.dataparser_scale
    np.testing.assert_allclose(ours.metadata["points3D_xyz"].numpy(), expected_points, atol=2e-6)


def test_colmaps_folder_beside_stands_for_its_transform(tmp_path: Path) -> None:
    (tmp_path / "scene/colmap/sparse/0").mkdir(parents=True)
    scene = write_scene(tmp_path / "scene", points=False, change=_without_lists)
    theirs, ours = (_parse(kind, scene, **ALL).dataparser_transform for kind in (Nerfstudio, SceneParser))
    torch.testing.assert_close(ours.float(), theirs, atol=1e-6, rtol=1e-6)


def test_a_scene_may_override_the_orientation(tmp_path: Path) -> None:
    def parse(override: str) -> torch.Tensor:
        scene = write_scene(tmp_path / override, change=lambda meta: meta.update(orientation_override=override))
        return _parse(
            TrainFramedSceneParser, scene, center_method="none", auto_scale_poses=False
        ).dataparser_transform.float()

    assert torch.equal(parse("none"), torch.eye(4)[:3])
    scene = write_scene(tmp_path / "flag")
    flag = _parse(TrainFramedSceneParser, scene, center_method="none", orientation_method="up", auto_scale_poses=False)
    assert torch.equal(parse("up"), flag.dataparser_transform.float())


def test_evaluation_cameras_stand_where_they_did_among_the_training_cameras(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    for split in ("train", "test"):
        theirs, ours = (_parse(kind, scene, split) for kind in (SceneParser, TrainFramedSceneParser))
        places = [
            outputs.transform_poses_to_original_space(outputs.cameras.camera_to_worlds) for outputs in (theirs, ours)
        ]
        torch.testing.assert_close(places[0], places[1], atol=1e-5, rtol=1e-5)
        assert ours.dataparser_scale != theirs.dataparser_scale
    training = _parse(TrainFramedSceneParser, scene).cameras.camera_to_worlds[:, :3, 3]
    assert float(training.abs().max()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(training.mean(0), 0, atol=1e-5)


def test_the_flag_chooses_the_frame(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    poses = {frame: datamanager(scene, pose_frame=frame).train_dataset.cameras for frame in ("all", "train")}
    assert not torch.allclose(poses["all"].camera_to_worlds, poses["train"].camera_to_worlds)
    expected = _parse(TrainFramedSceneParser, scene).cameras.camera_to_worlds
    assert torch.equal(poses["train"].camera_to_worlds, expected)


def test_other_dataparsers_have_no_such_frame(tmp_path: Path) -> None:
    from difix3d_ns.ns.datamanager import SceneDatamanager, SceneDatamanagerConfig

    config = SceneDatamanagerConfig(data=tmp_path, dataparser=PhototourismDataParserConfig(), pose_frame="train")
    with pytest.raises(UserError, match="pose-frame train: not with this dataparser, only with nerfstudio-data"):
        SceneDatamanager(config)


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_mode": "fraction"},
        {"eval_mode": "interval", "eval_interval": 3},
        {"eval_mode": "fraction", "train_split_fraction": 0.6},
    ],
)
def test_no_held_out_picture_is_opened_to_read_one_for_training(settings: dict[str, Any], tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=12, change=_without_lists)
    training = _parse(SceneParser, scene, **settings)
    for path in (scene / "images").iterdir():
        if path not in training.image_filenames:
            path.write_bytes(b"no picture")
    again = _parse(SceneParser, scene, **settings)
    assert again.image_filenames == training.image_filenames and len(training.image_filenames) < 12
    held_out = _parse(SceneParser, scene, "test", **settings)
    with pytest.raises(UserError, match="cannot be read as a picture"):
        PhotoDataset(held_out).get_numpy_image(0)
