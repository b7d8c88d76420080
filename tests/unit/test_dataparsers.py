"""Captures of every kind of transforms file: right lenses, poses, sizes and splits, or the cause and remedy by name."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.picture_files import TURN, UNTAG, choose_copy, read_header
from difix3d_ns.ns.dataparsers.scene_parser import SceneParser, describe, take_over
from difix3d_ns.ns.scene_checks import check_precision
from tests.unit.tiny_scene import ring, write_ply, write_scene

Change = Callable[[dict[str, Any]], None]
FISHEYE624 = [0.01 * i for i in range(12)]


def _parse(config: DataParserConfig, split: str = "train") -> DataparserOutputs:
    assert take_over(config)
    outputs: DataparserOutputs = config.setup().get_dataparser_outputs(split)
    return outputs


def _scene(folder: Path, split: str = "train", **settings: Any) -> DataparserOutputs:
    return _parse(NerfstudioDataParserConfig(data=folder, load_3D_points=True, **settings), split)


def _names(outputs: DataparserOutputs) -> list[str]:
    return [Path(path).stem for path in outputs.image_filenames]


def _no_lists(meta: dict[str, Any]) -> None:
    for split in ("train", "val", "test"):
        meta.pop(f"{split}_filenames", None)


def _rewrite(scene: Path, change: Change) -> Path:
    path = scene / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    return scene


def _keep(*keep: str) -> Change:
    """Leave poses and pictures alone in the frames, and these keys."""

    def change(meta: dict[str, Any]) -> None:
        _no_lists(meta)
        left = {"file_path", "transform_matrix", *keep}
        meta["frames"] = [{key: frame[key] for key in frame if key in left} for frame in meta["frames"]]

    return change


# lenses


def test_each_key_of_a_frame_overrides_that_of_the_scene(tmp_path: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        _keep()(meta)
        meta |= {"fl_x": 50, "fl_y": 51, "cx": 20, "cy": 15, "w": 40, "h": 30, "k1": 0.1, "p2": 0.02}
        meta["frames"][1] |= {"fl_x": 60, "k1": 0.2, "k2": 0.03, "cy": 14.5}
        meta["frames"][2]["distortion_params"] = [1, 2, 3, 0, 5, 6]

    cameras = _scene(write_scene(tmp_path / "scene", change=change), eval_mode="all").cameras
    assert cameras.fx[:3, 0].tolist() == [50, 60, 50] and cameras.fy[:3, 0].tolist() == [51, 51, 51]
    assert cameras.cy[:3, 0].tolist() == [15, 14.5, 15]
    expected = [[0.1, 0, 0, 0, 0, 0.02], [0.2, 0.03, 0, 0, 0, 0.02], [1, 2, 3, 0, 5, 6]]
    torch.testing.assert_close(cameras.distortion_params[:3], torch.tensor(expected))


@pytest.mark.parametrize("by_frame", [True, False])
@pytest.mark.parametrize(
    ("keys", "kind", "width"),
    [
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1}, CameraType.FISHEYE, 6),
        ({"camera_model": None, "is_fisheye": True, "k1": 0.1}, CameraType.FISHEYE, 6),
        ({"camera_model": "FISHEYE624", "distortion_params": FISHEYE624}, CameraType.FISHEYE624, 12),
        ({"camera_model": "SIMPLE_RADIAL", "k1": 0.1}, CameraType.PERSPECTIVE, 6),
    ],
)
def test_one_model_is_read_wherever_it_stands(
    by_frame: bool, keys: dict[str, Any], kind: CameraType, width: int, tmp_path: Path
) -> None:
    def change(meta: dict[str, Any]) -> None:
        del meta["camera_model"]
        for place in meta["frames"] if by_frame else [meta]:
            place |= keys

    for radius in (None, 12.5):
        scene = write_scene(tmp_path / f"scene_{radius}", change=change)
        if radius is not None:
            _rewrite(scene, lambda meta: meta["frames"][0].update(fisheye_crop_radius=12.5))
        cameras = _scene(scene).cameras
        assert set(cameras.camera_type.flatten().tolist()) == {kind.value}
        assert tuple(cameras.distortion_params.shape) == (5, width)
        assert float(cameras.distortion_params[0, 1 if width == 12 else 0]) == pytest.approx(
            0.01 if width == 12 else 0.1
        )
        radii = (cameras.metadata or {}).get("fisheye_crop_radius")
        if radius is None or kind is CameraType.PERSPECTIVE:
            assert radii is None
        else:
            assert radii[0].item() == 12.5 and radii[1:].isnan().all() and tuple(radii.shape) == (5, 1)


def test_perspective_models_are_of_one_kind(tmp_path: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        for frame, model in zip(meta["frames"], ["PINHOLE", "SIMPLE_RADIAL", "OPENCV"], strict=False):
            frame["camera_model"] = model

    assert len(_scene(write_scene(tmp_path / "scene", change=change)).image_filenames) == 5


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "mixture": (
        {"camera_model": "OPENCV_FISHEYE"},
        ["mixes", "frame_000.png is perspective", "frame_001.png is fisheye"],
    ),
    "panorama": ({"camera_model": "EQUIRECTANGULAR"}, ["frame_001.png", "EQUIRECTANGULAR", "ns-process-data images"]),
    "stereo": ({"camera_model": "VR180_L"}, ["frame_001.png", "VR180_L"]),
    "orthophoto": ({"camera_model": "ORTHOPHOTO"}, ["frame_001.png", "ORTHOPHOTO"]),
    "unknown": ({"camera_model": "FULL_OPENCV"}, ["frame_001.png", "'FULL_OPENCV'", "PINHOLE"]),
    "contradiction": ({"is_fisheye": True}, ["frame_001.png", "is_fisheye", "OPENCV"]),
    "no focal length": ({"fl_x": 0}, ["focal length fl_x of images/frame_001.png is 0"]),
    "negative": ({"fl_y": -3.5}, ["focal length fl_y of images/frame_001.png is -3.5"]),
    "NaN": ({"fl_x": math.nan}, ["focal length fl_x of images/frame_001.png is nan"]),
    "no number": ({"fl_x": None}, ["fl_x of images/frame_001.png is None"]),
    "principal point": ({"cx": math.nan}, ["principal point cx, cy of images/frame_001.png"]),
    "no width": ({"w": 0}, ["w and h of images/frame_001.png are 0 and 30"]),
    "distortion": ({"k1": math.inf}, ["distortion of images/frame_001.png is not finite"]),
    "fourth": ({"k4": 0.1}, ["4th", "k4", "frame_001.png"]),
    "too short": ({"distortion_params": [1, 2]}, ["distortion_params of images/frame_001.png", "6 numbers"]),
    "pose": ({"transform_matrix": np.full((4, 4), math.inf).tolist()}, ["pose of images/frame_001.png is not finite"]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_trained_on_is_named(name: str, tmp_path: Path) -> None:
    values, words = BAD[name]
    scene = write_scene(tmp_path / "scene", change=lambda meta: meta["frames"][1].update(values))
    with pytest.raises(UserError) as refused:
        _scene(scene)
    for word in [*words, str(scene / "transforms.json")]:
        assert word in str(refused.value)


# instant-ngp and NeRF's synthetic scenes


def _instant_ngp(meta: dict[str, Any]) -> None:
    _keep()(meta)
    meta |= {"camera_angle_x": 0.8, "camera_angle_y": 0.6, "aabb_scale": 4, "is_fisheye": False}
    meta.pop("camera_model")
    for frame in meta["frames"]:
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")
    meta["frames"].reverse()


def test_instant_ngp_is_read_with_its_dataparser_and_without(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=4, change=_instant_ngp)
    theirs, ours = _parse(InstantNGPDataParserConfig(data=scene)), _scene(scene)
    for outputs in (theirs, ours):
        cameras = outputs.cameras
        assert (int(cameras.width[0]), int(cameras.height[0])) == (40, 30)
        assert float(cameras.fx[0]) == pytest.approx(20 / math.tan(0.4))
        assert float(cameras.fy[0]) == pytest.approx(15 / math.tan(0.3))
        assert (float(cameras.cx[0]), float(cameras.cy[0])) == (20, 15)
        assert all(path.suffix == ".png" and path.is_file() for path in outputs.image_filenames)
    assert _names(theirs) == [f"frame_{i:03d}" for i in (3, 2, 1, 0)] and _names(ours) == sorted(_names(theirs))
    expected = np.stack([pose[:3, 3] for pose in ring(4)])[::-1] * 0.3333
    np.testing.assert_allclose(theirs.cameras.camera_to_worlds[:, :, 3].numpy(), expected, atol=1e-6)
    assert theirs.scene_box.aabb[1].tolist() == [2, 2, 2] and theirs.dataparser_scale == 0.3333


def _blender(folder: Path) -> Path:
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        (folder / split).mkdir(parents=True)
        frames = []
        for index, pose in enumerate(ring(count)):
            Image.new("RGBA", (32, 24), (200, 100, 50, 0)).save(folder / split / f"r_{index}.png")
            frames.append({"file_path": f"./{split}/r_{index}", "rotation": 0.1, "transform_matrix": pose.tolist()})
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.69, "frames": frames}))
    return folder


def test_a_synthetic_scene_is_as_nerfstudios_own_reads_it(tmp_path: Path) -> None:
    scene = _blender(tmp_path / "lego")
    for split in ("train", "val", "test"):
        config = BlenderDataParserConfig(data=scene, scale_factor=1.5)
        theirs, ours = Blender(config).get_dataparser_outputs(split), _parse(config, split)
        assert ours.image_filenames == theirs.image_filenames
        torch.testing.assert_close(ours.cameras.camera_to_worlds, theirs.cameras.camera_to_worlds, atol=1e-6, rtol=0)
        for name in ("fx", "fy", "cx", "cy", "width", "height"):
            torch.testing.assert_close(
                getattr(ours.cameras, name), getattr(theirs.cameras, name), check_dtype=False, atol=1e-5, rtol=0
            )
        assert ours.alpha_color is not None and ours.alpha_color.tolist() == [1, 1, 1]
    write_ply(scene / "points.ply")
    config = BlenderDataParserConfig(data=scene, alpha_color=None, ply_path=Path("points.ply"))
    assert _parse(config).alpha_color is None and len(_parse(config).metadata["points3D_xyz"]) == 60


def test_a_synthetic_scene_needs_no_dataparsers_name(tmp_path: Path) -> None:
    scene = _blender(tmp_path / "lego")
    for data in (scene, scene / "transforms_train.json"):
        outputs = {split: _scene(data, split) for split in ("train", "val", "test")}
        parents = {split: {path.parent.name for path in one.image_filenames} for split, one in outputs.items()}
        assert parents == {split: {split} for split in outputs}
        assert outputs["train"].alpha_color is not None
    (scene / "transforms_val.json").unlink()
    assert {path.parent.name for path in _scene(scene, "val").image_filenames} == {"test"}


# paths


@pytest.mark.parametrize(
    ("folder", "file", "named"),
    [
        ("images", "a b.png", "images\\a b.png"),
        ("images", "ä ö.png", unicodedata.normalize("NFD", "images/ä ö.png")),
        ("images", unicodedata.normalize("NFD", "ä.png"), unicodedata.normalize("NFC", "images/ä.png")),
        ("run.1", "0001.JPG", "./run.1/0001"),
        ("images", "0001.5.png", "images//./0001.5"),
    ],
)
def test_paths_as_other_programs_write_them(folder: str, file: str, named: str, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "v1.2 scene")
    (scene / folder).mkdir(exist_ok=True)
    Image.open(scene / "images/frame_000.png").save(scene / folder / file)

    def change(meta: dict[str, Any]) -> None:
        _no_lists(meta)
        meta["frames"][0]["file_path"] = named
        meta["val_filenames"] = [f"{folder}/{file}"]

    outputs = _scene(_rewrite(scene, change), "val")
    assert [path.resolve() for path in outputs.image_filenames] == [(scene / folder / file).resolve()]


def test_a_byte_order_mark_and_nan_elsewhere_do_not_matter(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", change=lambda meta: meta.update(sharpness=math.nan))
    path = scene / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(_scene(scene).image_filenames) == 5


def test_a_scene_is_only_read(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    before = {path: path.stat().st_mtime_ns for path in [scene, *scene.rglob("*")]}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        for split in ("train", "val"):
            _scene(scene, split)
    finally:
        for path in before:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert before == {path: path.stat().st_mtime_ns for path in [scene, *scene.rglob("*")]}


# splits


@pytest.mark.parametrize(("count", "held_out"), [(8, []), (9, []), (10, [0, 8]), (17, [0, 8, 16])])
def test_every_eighth_of_ten_or_more_is_held_out(
    count: int, held_out: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_scene(tmp_path / "scene", count=count, change=_no_lists)
    train, val = _scene(scene), _scene(scene, "val")
    log = " ".join(capsys.readouterr().out.split())
    assert _names(val) == [f"frame_{i:03d}" for i in held_out] == _names(_scene(scene, "test"))
    assert len(train.image_filenames) == count - len(held_out)
    assert isinstance(val.cameras, Cameras) and len(val.cameras) == len(held_out)
    if held_out:
        assert f"{len(held_out)} of {count} photos are held out for evaluation, every 8th: frame_000.png" in log
    else:
        assert f"All {count} photos are trained on" in log
        assert "`val_filenames` in transforms.json" in log and "nerfstudio-data --eval-mode interval" in log
        # both do what the sentence says
        assert _names(_scene(scene, "val", eval_mode="interval")) == ["frame_000", "frame_008"][: 1 + (count > 8)]
        _rewrite(scene, lambda meta: meta.update(val_filenames=["images/frame_003.png"]))
        assert _names(_scene(scene, "val")) == ["frame_003"] and len(_scene(scene).image_filenames) == count - 1


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"train": [0, 1], "val": [2], "test": [3]}, {"train": [0, 1], "val": [2], "test": [3]}),
        ({"train": [0, 1], "test": [3]}, {"train": [0, 1], "val": [3], "test": [3]}),
        ({"train": [0, 1], "val": [3]}, {"train": [0, 1], "val": [3], "test": [3]}),
        ({"train": [0, 1]}, {"train": [0, 1], "val": [2, 3], "test": [2, 3]}),
        ({"test": [3]}, {"train": [0, 1, 2], "val": [3], "test": [3]}),
        ({"train": [0, 1], "val": []}, {"train": [0, 1], "val": [], "test": []}),
    ],
)
def test_lists_of_the_scene_win(lists: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        _no_lists(meta)
        meta.update({f"{split}_filenames": [f"./images\\frame_{i:03d}" for i in at] for split, at in lists.items()})

    scene = write_scene(tmp_path / "scene", count=4, change=change)
    for split, indices in expected.items():
        assert _names(_scene(scene, split, eval_mode="all")) == [f"frame_{i:03d}" for i in indices]


def test_flags_for_splits_are_nerfstudios(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", change=_no_lists)
    assert _names(_scene(scene, "val", train_split_fraction=0.5)) == ["frame_001", "frame_003", "frame_004"]
    assert len(_scene(scene, "val", eval_mode="all").image_filenames) == 6
    with pytest.raises(UserError, match=r"--eval-mode filename cannot split .*train/eval in its name"):
        _scene(scene, eval_mode="filename")


# sizes


def _copies(scene: Path, factor: int, size: tuple[int, int] | None = None, what: str = "images") -> None:
    (scene / f"{what}_{factor}").mkdir()
    for path in (scene / what).iterdir():
        picture = Image.open(path)
        picture.resize(size or (picture.width // factor, picture.height // factor)).save(
            scene / f"{what}_{factor}" / path.name
        )


def _remove(scene: Path, what: str = "images") -> None:
    for path in (scene / what).iterdir():
        path.unlink()


SIZES: dict[str, tuple[tuple[int, int], dict[int, tuple[int, int] | None], bool, int | None, str, tuple[int, int]]] = {
    # size of the originals, copies, whether the originals are there, --downscale-factor -> folder, size
    "originals": ((40, 30), {2: None}, True, None, "images", (40, 30)),
    "large with copies": ((1800, 60), {2: None, 4: None}, True, None, "images_2", (900, 30)),
    "large without": ((1800, 60), {}, True, None, "images", (900, 30)),
    "larger than its copies": ((3600, 60), {2: None}, True, None, "images_2", (900, 15)),
    "off by one": ((1801, 61), {2: (901, 31)}, True, None, "images_2", (901, 31)),
    "only copies": ((40, 30), {4: None, 2: None}, False, None, "images_2", (20, 15)),
    "only small copies": ((40, 30), {4: (10, 8)}, False, None, "images_4", (10, 8)),
    "by flag": ((40, 30), {2: None}, True, 2, "images_2", (20, 15)),
    "by flag without": ((40, 30), {}, True, 3, "images", (13, 10)),
    "by flag with others": ((40, 30), {2: None}, True, 4, "images_2", (10, 7)),
    "large at full size": ((1800, 60), {2: None}, True, 1, "images", (1800, 60)),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_camera_has_the_size_of_the_copy_that_is_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size, copies, originals, factor, folder, expected = SIZES[name]
    scene = write_scene(tmp_path / "scene", count=3, size=size)
    for number, small in copies.items():
        _copies(scene, number, small)
    if not originals:
        _remove(scene)
    outputs = _scene(scene, downscale_factor=factor)
    log, cameras = " ".join(capsys.readouterr().out.split()), outputs.cameras
    assert {path.parent.name for path in outputs.image_filenames} == {folder}
    assert all(path.is_file() for path in outputs.image_filenames)
    assert (int(cameras.width[0]), int(cameras.height[0])) == expected
    x, y = expected[0] / size[0], expected[1] / size[1]
    assert float(cameras.fx[0]) == pytest.approx(0.9 * max(size) * x)
    assert float(cameras.fy[0]) == pytest.approx(0.92 * max(size) * y)
    assert float(cameras.cx[0]) == pytest.approx((size[0] / 2 + 1.25) * x)
    assert float(cameras.cy[0]) == pytest.approx((size[1] / 2 - 0.75) * y)
    assert (f"trained on at {expected[0]} x {expected[1]} pixels" in log) == (expected != size)


def test_masks_and_depth_maps_are_reduced_alike_and_may_be_absent(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", masks=True, change=lambda meta: meta["frames"][1].pop("mask_path"))
    (scene / "depth").mkdir()
    Image.new("I;16", (8, 6)).save(scene / "depth/2.png")
    _rewrite(scene, lambda meta: meta["frames"][2].update(depth_file_path="depth/2.png"))
    _copies(scene, 2)
    _copies(scene, 2, what="masks")
    outputs = _scene(scene, downscale_factor=2, depth_unit_scale_factor=0.01)
    masks = outputs.mask_filenames
    assert masks is not None and masks[1] is None and masks[0] == scene / "masks_2/frame_000.png"
    assert outputs.metadata["depth_filenames"] == [None, None, scene / "depth/2.png", None, None]
    assert outputs.metadata["depth_unit_scale_factor"] == 0.01
    assert outputs.metadata["depth_confidence_filenames"] is None
    assert _scene(scene).mask_filenames[0] == scene / "masks/frame_000.png"  # type: ignore[index]


def test_absent_photos_leave_sizes_as_stated(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene")
    _remove(scene)
    assert int(_scene(scene).cameras.width[0]) == 40


# rotation by EXIF


def _tagged(path: Path, size: tuple[int, int], orientation: int) -> None:
    picture = Image.new("RGB", size, (10, 20, 30))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize(
    ("size", "orientation", "message"),
    [
        ((30, 40), 6, "its EXIF tag (orientation 6) says to turn it"),
        ((30, 40), 1, "width and height are exchanged"),
        ((40, 30), 6, None),  # poses were found in the pixels as they are stored
        ((50, 30), 6, "correct w and h"),
    ],
)
def test_exchanged_sizes_name_rotation(
    size: tuple[int, int], orientation: int, message: str | None, ending: str, tmp_path: Path
) -> None:
    name = f"images/turned.{ending}"
    scene = write_scene(tmp_path / "scene", change=lambda meta: meta["frames"][0].update(file_path=name))
    _rewrite(scene, _no_lists)
    _tagged(scene / name, size, orientation)
    if message is None:
        assert len(_scene(scene).image_filenames) == 6
        return
    with pytest.raises(UserError) as refused:
        _scene(scene)
    assert message in str(refused.value) and f"turned.{ending}" in str(refused.value)
    assert (TURN in str(refused.value)) == (size == (30, 40) and orientation == 6)
    if TURN in str(refused.value):
        _run(TURN, scene / name)
        assert read_header(scene / name) == ((40, 30), 1)
        assert len(_scene(scene).image_filenames) == 6


def test_square_pictures_are_named_too(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", size=(30, 30))
    picture = scene / "images/frame_000.png"
    _tagged(picture, (30, 30), 3)
    with pytest.raises(UserError, match=r"frame_000.png is square .*orientation 3"):
        _scene(scene)
    before = np.asarray(Image.open(picture))
    _run(UNTAG, picture)
    assert read_header(picture) == ((30, 30), 1) and np.array_equal(np.asarray(Image.open(picture)), before)
    assert len(_scene(scene).image_filenames) == 5


def _run(command: str, path: Path) -> None:
    words = shlex.split(command.replace("FILES", shlex.quote(str(path))))
    subprocess.run([sys.executable, *words[1:]], check=True, env={**os.environ})


# coordinates far from the origin


@pytest.mark.parametrize("offset", [(5e5, 4e6, 120.0), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("kind", ["nerfstudio", "train frame", "instant-ngp", "blender"])
def test_far_coordinates_are_centred_without_loss(kind: str, offset: tuple[float, ...], tmp_path: Path) -> None:
    def parse(folder: Path, moved: np.ndarray) -> DataparserOutputs:
        def move(meta: dict[str, Any]) -> None:
            for frame in meta["frames"]:
                for axis in range(3):
                    frame["transform_matrix"][axis][3] += moved[axis]

        if kind == "blender":
            scene = _blender(folder)
            for file in scene.glob("*.json"):
                meta = json.loads(file.read_text())
                move(meta)
                file.write_text(json.dumps(meta))
            return _parse(BlenderDataParserConfig(data=scene))
        scene = write_scene(folder, points=False, change=move)
        _double_ply(scene / "points.ply", moved)
        _rewrite(scene, lambda meta: meta.update(ply_file_path="points.ply"))
        if kind == "instant-ngp":
            return _parse(InstantNGPDataParserConfig(data=scene))
        config = NerfstudioDataParserConfig(data=scene, load_3D_points=True)
        take_over(config, "train" if kind == "train frame" else "all")
        return config.setup().get_dataparser_outputs("train")  # type: ignore[no-any-return]

    near, far = (parse(tmp_path / name, np.array(moved)) for name, moved in (("near", [0.0] * 3), ("far", offset)))
    poses, expected = far.cameras.camera_to_worlds, near.cameras.camera_to_worlds.clone()
    shift = poses[0, :, 3] - expected[0, :, 3] if kind in ("instant-ngp", "blender") else torch.zeros(3)
    expected[..., 3] += shift
    torch.testing.assert_close(poses, expected, atol=1e-6, rtol=0)
    if kind != "blender":
        points = near.metadata["points3D_xyz"] + shift
        torch.testing.assert_close(far.metadata["points3D_xyz"], points, atol=1e-6, rtol=0)
    back = far.transform_poses_to_original_space(poses, "opengl")[:, :, 3].numpy()
    home = near.transform_poses_to_original_space(near.cameras.camera_to_worlds, "opengl")[:, :, 3].numpy()
    np.testing.assert_allclose(back, home + np.array(offset), atol=1e-5)
    assert far.metadata["origin"].dtype == np.float64 and far.dataparser_transform.dtype == torch.float64
    if any(offset):
        np.testing.assert_allclose(far.metadata["origin"], offset, atol=3)
    saved = tmp_path / "dataparser_transforms.json"
    far.save_dataparser_transform(saved)
    assert json.loads(saved.read_text())["transform"] == far.dataparser_transform.tolist()


def _double_ply(path: Path, offset: np.ndarray) -> None:
    from plyfile import PlyData, PlyElement

    points = np.random.default_rng(0).normal(0, 0.3, (20, 3)) + offset
    rows = np.array([tuple(point) for point in points], dtype=[(axis, "f8") for axis in "xyz"])
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def test_uncentred_coordinates_that_float32_loses_are_refused(tmp_path: Path) -> None:
    poses = [pose + np.array([[0, 0, 0, 5e5], [0] * 4, [0] * 4, [0] * 4]) for pose in ring(6)]
    scene = write_scene(tmp_path / "scene", poses=poses)
    with pytest.raises(UserError, match=r"--center-method none: .*transforms.json.*500002.*--center-method poses"):
        _scene(scene, center_method="none")


def test_precision_of_other_dataparsers_is_checked(tmp_path: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio

    for offset in (0.0, 5e5):
        poses = [pose + np.array([[0, 0, 0, offset], [0] * 4, [0] * 4, [0] * 4]) for pose in ring(6)]
        scene = write_scene(tmp_path / f"scene_{offset:g}", poses=poses)
        for method in ("poses", "none"):
            config = NerfstudioDataParserConfig(data=scene, center_method=method)
            outputs = Nerfstudio(config).get_dataparser_outputs("train")
            if not offset:
                check_precision(outputs)
                continue
            with pytest.raises(UserError, match=r"far from the origin .*transforms\.json"):
                check_precision(outputs)


def test_settings_name_their_reader(tmp_path: Path) -> None:
    from nerfstudio.data.dataparsers.phototourism_dataparser import PhototourismDataParserConfig

    other = PhototourismDataParserConfig(data=tmp_path)
    target = other._target
    assert not take_over(other) and other._target is target
    ours = NerfstudioDataParserConfig(data=write_scene(tmp_path / "scene"))
    assert take_over(ours) and ours._target is SceneParser and len(describe(ours).frames) == 6


def test_points_of_the_colmap_model_beside_transforms_are_taken(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", points=False)
    model = scene / "colmap/sparse/0"
    model.mkdir(parents=True)
    (model / "points3D.txt").write_text("1 1.0 2.0 3.0 10 20 30 0.1 1 0\n2 -1.0 0.5 2.0 40 50 60 0.1 1 1\n")
    config = NerfstudioDataParserConfig(
        data=scene, load_3D_points=True, orientation_method="none", center_method="none", auto_scale_poses=False
    )
    take_over(config)
    metadata = config.setup().get_dataparser_outputs("train").metadata
    # as ns-process-data applies to COLMAP's poses: x and y exchanged, z turned
    assert metadata["points3D_xyz"].tolist() == [[2.0, 1.0, -3.0], [0.5, -1.0, -2.0]]
    assert metadata["points3D_rgb"].tolist() == [[10, 20, 30], [40, 50, 60]]


def test_a_mask_is_not_looked_for_among_reduced_photos(tmp_path: Path) -> None:
    """Of the same name beside its photo, with another ending."""
    for folder, size in (("images", (40, 30)), ("images_2", (20, 15))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", size).save(tmp_path / folder / "1.jpg")
    mask = tmp_path / "images/1.png"
    Image.new("L", (40, 30)).save(mask)
    assert choose_copy(mask, 2, tmp_path, "masks") == mask
    assert choose_copy(tmp_path / "images/1.jpg", 2, tmp_path) == tmp_path / "images_2/1.jpg"


def test_a_synthetic_folder_of_training_photos_alone_holds_some_out(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=10)
    meta = json.loads((scene / "transforms.json").read_text())
    (scene / "transforms_train.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": meta["frames"]}))
    (scene / "transforms.json").unlink()
    config = NerfstudioDataParserConfig(data=scene)
    take_over(config)
    assert [len(config.setup().get_dataparser_outputs(split).image_filenames) for split in ("train", "test")] == [8, 2]
