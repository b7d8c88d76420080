"""The frame a scene is trained in, and which picture is opened to learn the size of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparser import PlyfileNerfstudio, TrainFramedNerfstudio
from tests.unit.tiny_scene import datamanager, write_scene

ALL = {"eval_mode": "all"}


def _parse(kind: type[PlyfileNerfstudio], folder: Path, split: str = "train", **settings: Any) -> DataparserOutputs:
    config = NerfstudioDataParserConfig(data=folder, load_3D_points=True, **settings)
    return kind(config).get_dataparser_outputs(split)


def _without_lists(meta: dict[str, Any]) -> None:
    for split in ("train", "val", "test"):
        del meta[f"{split}_filenames"]


def _with_transform(meta: dict[str, Any]) -> None:
    _without_lists(meta)
    meta["applied_transform"] = [[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 0]]
    meta["applied_scale"] = 0.5


@pytest.mark.parametrize("method", ["up", "vertical", "none"])  # nerfstudio's pca mirrors two of the cameras alone
@pytest.mark.parametrize("center", ["poses", "focus", "none"])
@pytest.mark.parametrize("change", [_without_lists, _with_transform])
def test_where_all_pictures_are_trained_on_the_frame_is_nerfstudios(
    method: str, center: str, change: Any, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene", change=change)
    settings = {**ALL, "orientation_method": method, "center_method": center, "scale_factor": 1.5}
    theirs, ours = (_parse(kind, scene, **settings) for kind in (PlyfileNerfstudio, TrainFramedNerfstudio))
    torch.testing.assert_close(ours.cameras.camera_to_worlds, theirs.cameras.camera_to_worlds, atol=1e-5, rtol=1e-5)
    assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale)
    torch.testing.assert_close(ours.dataparser_transform, theirs.dataparser_transform, atol=1e-5, rtol=1e-5)
    for name in ("points3D_xyz", "points3D_rgb"):
        torch.testing.assert_close(ours.metadata[name], theirs.metadata[name], atol=1e-5, rtol=1e-5)


def test_a_scene_may_ask_for_no_turning_but_not_for_another_one(tmp_path: Path) -> None:
    def parse(override: str) -> DataparserOutputs:
        scene = write_scene(tmp_path / override, change=lambda meta: meta.update(orientation_override=override))
        return _parse(TrainFramedNerfstudio, scene, center_method="none", auto_scale_poses=False)

    assert torch.equal(parse("none").dataparser_transform, torch.eye(4)[:3])
    with pytest.raises(UserError, match=r"pose-frame train: remove `orientation_override` .* --orientation-method up"):
        parse("up")


def test_evaluation_cameras_stand_where_they_did_among_the_training_cameras(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")

    def in_the_scene(outputs: DataparserOutputs) -> torch.Tensor:
        transform = outputs.dataparser_transform
        positions = outputs.cameras.camera_to_worlds[:, :3, 3] / outputs.dataparser_scale
        return (positions - transform[:, 3]) @ transform[:, :3]

    for split in ("train", "test"):
        theirs, ours = (_parse(kind, scene, split) for kind in (PlyfileNerfstudio, TrainFramedNerfstudio))
        torch.testing.assert_close(in_the_scene(ours), in_the_scene(theirs), atol=1e-5, rtol=1e-5)
        assert ours.dataparser_scale != theirs.dataparser_scale
    training = _parse(TrainFramedNerfstudio, scene).cameras.camera_to_worlds[:, :3, 3]
    assert float(training.abs().max()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(training.mean(0), 0, atol=1e-5)


def test_the_flag_chooses_the_frame(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    poses = {frame: datamanager(scene, pose_frame=frame).train_dataset.cameras for frame in ("all", "train")}
    assert not torch.allclose(poses["all"].camera_to_worlds, poses["train"].camera_to_worlds)
    assert torch.equal(poses["train"].camera_to_worlds, _parse(TrainFramedNerfstudio, scene).cameras.camera_to_worlds)


def test_other_dataparsers_have_no_such_frame(tmp_path: Path) -> None:
    from difix3d_ns.ns.datamanager import SceneDatamanager, SceneDatamanagerConfig

    config = SceneDatamanagerConfig(data=tmp_path, dataparser=ColmapDataParserConfig(), pose_frame="train")
    with pytest.raises(UserError, match="pose-frame train: only for scenes with a transforms"):
        SceneDatamanager(config)


@pytest.mark.parametrize(
    ("settings", "names", "opened"),
    [
        ({"eval_mode": "fraction"}, None, "frame_000"),
        ({"eval_mode": "interval", "eval_interval": 3}, None, "frame_001"),
        ({"eval_mode": "filename"}, ("eval_", "train_"), "train_001"),
        ({"eval_mode": "all"}, None, "frame_000"),
    ],
)
def test_the_size_is_read_from_a_picture_that_is_trained_on(
    settings: dict[str, Any], names: tuple[str, str] | None, opened: str, tmp_path: Path
) -> None:
    def change(meta: dict[str, Any]) -> None:
        _without_lists(meta)
        for number, frame in enumerate(meta["frames"]):
            if names is not None:
                old = tmp_path / "scene" / frame["file_path"]
                frame["file_path"] = f"images/{names[number % 2]}{number:03d}.png"
                old.rename(tmp_path / "scene" / frame["file_path"])

    scene = write_scene(tmp_path / "scene", change=change)
    parser = PlyfileNerfstudio(NerfstudioDataParserConfig(data=scene, **settings))
    picture = parser._training_picture()
    assert picture is not None and picture.stem == opened
    trained_on = parser.get_dataparser_outputs("train").image_filenames
    assert scene / picture in trained_on
