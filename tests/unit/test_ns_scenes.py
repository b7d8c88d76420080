"""Scenes on disk: what is wrong with them is told by file, frame and remedy; odd but sound ones load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from difix3d_ns.errors import UserError
from difix3d_ns.ns.batches import photo_view, to_batch, unit_range
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.datamanager import SceneDatamanager, SceneDatamanagerConfig
from difix3d_ns.ns.scene_checks import scene_errors
from difix3d_ns.views.view import TrainView
from tests.unit.tiny_scene import datamanager, look_at, write_scene


def _load(folder: Path) -> SceneDatamanager:
    manager = datamanager(folder)
    assert manager.cached_train and manager.cached_eval is not None
    return manager


def _edit(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda meta: meta.update(values)


def _edit_frame(index: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda meta: meta["frames"][index].update(values)


def _without(index: int, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda meta: meta["frames"][index].pop(key)


def _not_finite(meta: dict[str, Any]) -> None:
    meta["frames"][2]["transform_matrix"][0][3] = float("nan")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SCENES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no folder": (lambda d: None, ["--data", "does not exist", "give a folder"]),
    "no transforms": (lambda d: d.mkdir(), ["holds nothing to train on", "transforms.json"]),
    "broken transforms": (
        lambda d: (write_scene(d), _truncate(d / "transforms.json")),
        ["transforms.json cannot be read", "ns-process-data"],
    ),
    "no frames": (lambda d: write_scene(d, change=_edit(frames=[])), ["has no images", "ns-process-data"]),
    "no training images": (
        lambda d: write_scene(d, change=_edit(train_filenames=[])),
        ["has no training images", "train_filenames"],
    ),
    "name of no frame in a list": (
        lambda d: write_scene(d, change=_edit(val_filenames=["images/frame_009.png"])),
        ["transforms.json", "1 names in val_filenames", "images/frame_009.png", "correct the list"],
    ),
    "missing image": (
        lambda d: (write_scene(d), (d / "images/frame_002.png").unlink()),
        ["frame_002.png", "missing", "put them there"],
    ),
    "missing first image": (
        lambda d: (write_scene(d), (d / "images/frame_000.png").unlink()),
        ["frame_000.png", "missing", "put them there"],
    ),
    "missing held-out image": (
        lambda d: (write_scene(d), (d / "images/frame_004.png").unlink()),
        ["frame_004.png", "missing", "put them there"],
    ),
    "no image at all": (
        lambda d: (write_scene(d), [path.unlink() for path in (d / "images").iterdir()]),
        ["5 images", "frame_000.png", "put them there"],
    ),
    "no picture": (
        lambda d: (write_scene(d), (d / "images/frame_002.png").write_bytes(b"no picture")),
        ["frame_002.png cannot be read", "replace it"],
    ),
    "half a picture": (
        lambda d: (write_scene(d), _truncate(d / "images/frame_003.png")),
        ["frame_003.png cannot be read", "replace it"],
    ),
    "wrong size": (
        lambda d: write_scene(d, change=_edit_frame(1, w=50)),
        ["frame_001.png has 40 x 30", "50 x 30", "correct w and h"],
    ),
    "pose not finite": (lambda d: write_scene(d, change=_not_finite), ["frame_002.png is not finite", "fix"]),
    "pose of another shape": (
        lambda d: write_scene(d, change=_edit_frame(1, transform_matrix=[[1, 0], [0, 1]])),
        ["frame_001.png", "not 4 x 4"],
    ),
    "no pose": (lambda d: write_scene(d, change=_without(1, "transform_matrix")), ["frame_001.png", "is missing"]),
    "frame without a picture": (lambda d: write_scene(d, change=_without(1, "file_path")), ["file_path", "remove"]),
    "no focal length": (
        lambda d: write_scene(d, change=_without(1, "fl_x")),
        ["frame_001.png has no focal length", "fl_x", "camera_angle_x"],
    ),
    "all at one place": (
        lambda d: write_scene(d, poses=[look_at((1, 1, 1))] * 5),
        ["all 5 cameras are at one place", "add images"],
    ),
    "one image": (lambda d: write_scene(d, count=1), ["only one image", "add images"]),
    "panoramas": (
        lambda d: write_scene(d, camera_model="EQUIRECTANGULAR"),
        ["EQUIRECTANGULAR", "ns-process-data images --camera-type equirectangular"],
    ),
    "fourth distortion parameter": (
        lambda d: write_scene(d, k1=-0.1, k4=0.1),
        ["4th", "transforms.json"],
    ),
    "missing mask": (
        lambda d: (write_scene(d, masks=True), (d / "masks/frame_002.png").unlink()),
        ["masks", "frame_002.png", "put them there"],
    ),
    "unreadable points": (
        lambda d: (write_scene(d), (d / "points.ply").write_text("no points")),
        ["points.ply", "remove `ply_file_path`"],
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_bad_scene_is_told_of_plainly(name: str, tmp_path: Path) -> None:
    make, words = SCENES[name]
    scene = tmp_path / "scene"
    make(scene)
    with pytest.raises(UserError) as told:
        _load(scene)
    for word in [*words, str(tmp_path)] if name != "fourth distortion parameter" else words:
        assert word in str(told.value)
    assert "\n" not in str(told.value)


def test_no_data_flag() -> None:
    config = SceneDatamanagerConfig(dataparser=NerfstudioDataParserConfig(data=None))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--data FOLDER"):
        SceneDatamanager(config, device="cpu")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_kinds_of_pictures_load(mode: str, tmp_path: Path) -> None:
    manager = _load(write_scene(tmp_path / "scene", mode=mode))
    image = manager.cached_train[0]["image"]
    assert image.dtype == torch.uint8
    assert image.shape == (30, 40, 4 if mode == "RGBA" else 3)


def test_masks_load(tmp_path: Path) -> None:
    manager = _load(write_scene(tmp_path / "scene", masks=True))
    mask = manager.cached_train[0]["mask"]
    assert mask.shape == (30, 40, 1)
    assert not mask[:, :20].any() and mask[:, 20:].all()


def test_mixed_sizes_are_scaled_together(tmp_path: Path) -> None:
    sizes = [(960, 640), (640, 960), (700, 700), (960, 640), (960, 640), (320, 200)]
    manager = _load(write_scene(tmp_path / "scene", sizes=sizes))
    cameras = manager.train_cameras
    for index, data in enumerate(manager.cached_train):
        assert tuple(data["image"].shape[:2]) == (int(cameras.height[index]), int(cameras.width[index]))
    assert int(torch.maximum(cameras.width, cameras.height).max()) == 480
    assert tuple(manager.cached_train[1]["image"].shape[:2]) == (480, 320)


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_a_given_scale_wins(factor: float, tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", size=(640, 480)), camera_res_scale_factor=factor)
    assert manager.config.camera_res_scale_factor == factor
    assert manager.cached_train[0]["image"].shape[1] == 640 * factor


@pytest.mark.parametrize("long_side", [481, 719, 1023, 1597])
def test_any_size_is_scaled_alike_for_pictures_and_cameras(long_side: int, tmp_path: Path) -> None:
    manager = _load(write_scene(tmp_path / "scene", count=3, size=(long_side, long_side * 2 // 3)))
    height, width = manager.cached_train[0]["image"].shape[:2]
    assert 480 <= width <= 482
    assert (width, height) == (int(manager.train_cameras.width[0]), int(manager.train_cameras.height[0]))


@pytest.mark.parametrize("points", [True, False])
def test_initial_points_are_optional(points: bool, tmp_path: Path) -> None:
    manager = _load(write_scene(tmp_path / "scene", points=points))
    assert ("points3D_xyz" in manager.train_dataparser_outputs.metadata) == points


def test_named_but_missing_points_start_at_random(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene")
    (tmp_path / "scene/points.ply").unlink()
    assert "points3D_xyz" not in _load(tmp_path / "scene").train_dataparser_outputs.metadata


def test_nobody_is_asked_about_colmap_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scene/colmap/sparse/0").mkdir(parents=True)
    write_scene(tmp_path / "scene", points=False)

    def ask(*_: Any, **__: Any) -> bool:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("rich.prompt.Confirm.ask", ask)
    _load(tmp_path / "scene")


def test_no_held_out_images_is_fine(tmp_path: Path) -> None:
    manager = _load(write_scene(tmp_path / "scene", change=_edit(val_filenames=[])))
    assert len(manager.eval_dataset) == 0


def test_export_needs_no_pictures(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene")
    for path in (tmp_path / "scene/images").iterdir():
        path.unlink()
    config = SceneDatamanagerConfig(data=tmp_path / "scene", dataparser=NerfstudioDataParserConfig(load_3D_points=True))
    manager = SceneDatamanager(config, device="cpu", test_mode="inference")
    assert len(manager.train_dataset) == 5


def test_transforms_file_instead_of_a_folder(tmp_path: Path) -> None:
    assert len(_load(write_scene(tmp_path / "scene") / "transforms.json").train_dataset) == 5


def test_sampling_goes_on_where_it_was(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    one, other = datamanager(scene), datamanager(scene)
    for step in range(7):
        one.next_train(step)
    state = one.sampling_state()
    other.restore_sampling(state)
    drawn = [[m.next_train(step)[0].metadata["cam_idx"] for step in range(12)] for m in (one, other)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == set(range(5))


def test_made_views_come_without_camera_index_unless_they_stand_for_a_photograph(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    photograph, batch = manager.next_train(0)
    index = photograph.metadata["cam_idx"]
    seen_from = to_pinhole(photograph)
    made = TrainView("target/000@1", seen_from, torch.zeros(30, 40, 3), valid=torch.ones(30, 40, 1))
    camera, learnt = to_batch(made)
    assert "cam_idx" not in (camera.metadata or {}) and learnt.keys() == {"image", "mask"}
    camera, learnt = to_batch(replace(made, photo=index))
    assert camera.metadata["cam_idx"] == learnt["image_idx"] == index
    photo = photo_view(batch, seen_from, unit_range(batch["image"]))
    assert (photo.key, photo.photo, photo.valid) == (f"photo/{index:04d}", index, None)
    assert torch.equal(photo.image, batch["image"].float() / 255)
    assert len(manager.train_dataset) == 5 and np.ndim(manager.train_unseen_cameras) == 1


def test_faults_of_the_package_are_no_faults_of_a_scene(tmp_path: Path) -> None:
    for ours in (True, False):
        with (
            pytest.raises(UserError, match=r"cannot be read: .*Permission denied: 'a.json'$"),
            scene_errors(Path(), ours),
        ):
            raise PermissionError(13, "Permission denied", "a.json")
    with pytest.raises(KeyError, match="w"), scene_errors(tmp_path, ours=True):
        raise KeyError("w")
    with pytest.raises(UserError, match="read as a scene: 'w'; make it again"), scene_errors(tmp_path, ours=False):
        raise KeyError("w")
