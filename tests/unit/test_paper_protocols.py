"""Protocols of papers: folders of their data sets are read as published. No training is run here."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from difix3d_ns.cli import main
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation import runs
from difix3d_ns.evaluation.bench import provenance
from difix3d_ns.evaluation.bench.bench_run import bench
from difix3d_ns.evaluation.bench.job import Job, Scene
from difix3d_ns.evaluation.bench.kept_pictures import kept_mask, kept_views
from difix3d_ns.evaluation.bench.rows import read_rows
from difix3d_ns.evaluation.evaluation_masks import read_masks
from difix3d_ns.evaluation.protocols import dataset_writer
from difix3d_ns.evaluation.protocols.co3d_scenes import SIZE, box_around, read_sequences
from difix3d_ns.evaluation.protocols.dataset_writer import Shot, write_dataset
from difix3d_ns.evaluation.protocols.gso_scenes import orbit_pose
from difix3d_ns.evaluation.protocols.nerfbusters_scenes import video_of
from difix3d_ns.evaluation.protocols.protocol import Protocol, load_protocol, shipped_protocols, write_scenes
from difix3d_ns.evaluation.protocols.scene_source import Misfit
from difix3d_ns.evaluation.runs import Evaluation, HeldOutView
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import project
from difix3d_ns.io.images import read_stored
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.dataparsers.described_scene import Lens
from tests.unit.bench_states import finish
from tests.unit.colmap_captures import write_model, write_pictures
from tests.unit.data_sets import (
    CARD,
    co3d_cameras,
    write_co3d,
    write_dl3dv,
    write_gso,
    write_llff,
    write_mipnerf360,
    write_nerfbusters,
)
from tests.unit.tiny_scene import datamanager

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "protocol"


def _write(name: str, data: Path, output: Path) -> dict[str, Path]:
    return {path.name: path for path in write_scenes(load_protocol(name), [data], output)}


def _split(scene: Path) -> tuple[list[str], list[str]]:
    meta = json.loads((scene / "transforms.json").read_text())
    assert meta["val_filenames"] == meta["test_filenames"] and meta["downscale_factor"] == 1
    return tuple([Path(name).name for name in meta[f"{part}_filenames"]] for part in ("train", "test"))  # type: ignore


def test_nerfbusters(tmp_path: Path) -> None:
    for name in ("aloe", "car"):
        write_nerfbusters(tmp_path / "data" / name)
    scenes = _write("nerfbusters", tmp_path / "data", tmp_path / "out")
    assert list(scenes) == ["aloe", "car"]
    train, test = _split(scenes["aloe"])
    assert train == [f"frame_{i:05d}.png" for i in range(1, 6)]
    assert test == [f"frame_1_{i:05d}.png" for i in range(1, 4)]
    picture = scenes["aloe"] / "images" / train[0]
    assert picture.is_symlink() and picture.resolve() == tmp_path / "data" / "aloe" / "images" / train[0]
    masks = sorted((scenes["aloe"] / "evaluation_masks").iterdir())
    assert [mask.name for mask in masks] == test
    first, last = (np.array(Image.open(mask)) for mask in (masks[0], masks[-1]))
    assert first.shape == (32, 48) and not first[:, :12].any() and first[:, 12:].all() and not last.any()
    manager = datamanager(scenes["aloe"])
    assert "mask" not in manager.eval_dataset.get_data(0)  # nothing is trained with them
    assert len(manager.train_dataset) == 5 and manager.train_dataparser_outputs.metadata["points3D_xyz"].shape == (
        60,
        3,
    )
    # large photos are those that nerfstudio takes
    write_nerfbusters(tmp_path / "large" / "plant", 3, 1, size=(1920, 64), masks=False)
    (plant,) = _write("nerfbusters", tmp_path / "large", tmp_path / "other").values()
    assert Image.open(plant / "images" / "frame_00001.png").size == (960, 32)
    assert not (plant / "evaluation_masks").exists()
    frame = json.loads((plant / "transforms.json").read_text())["frames"][0]
    assert (frame["w"], frame["h"], frame["fl_x"]) == (960, 32, 40.0)


def test_dl3dv(tmp_path: Path) -> None:
    write_dl3dv(tmp_path / "data" / "0a1b2c")
    (scene,) = _write("dl3dv", tmp_path / "data", tmp_path / "out").values()
    assert scene.name == "0a1b2c"
    train, test = _split(scene)  # the two places; the smaller cluster is held out
    assert train == [f"frame_{i:05d}.png" for i in range(1, 5)]
    assert test == [f"frame_{i:05d}.png" for i in range(5, 8)]
    assert (scene / "images" / train[0]).resolve().parent.name == "images_4"
    frame = json.loads((scene / "transforms.json").read_text())["frames"][0]
    assert (frame["w"], frame["fl_x"], frame["k1"]) == (48, 40.0, 0.01)
    content = yaml.safe_load((CONFIGS / "dl3dv.yaml").read_text())
    content["reading"]["every"] = 3
    (tmp_path / "every.yaml").write_text(yaml.safe_dump(content))
    (other,) = write_scenes(load_protocol(tmp_path / "every.yaml"), [tmp_path / "data" / "0a1b2c"], tmp_path / "every")
    assert _split(other)[1] == [f"frame_{i:05d}.png" for i in (1, 4, 7)]


def test_mipnerf360(tmp_path: Path) -> None:
    write_mipnerf360(tmp_path / "data" / "garden")
    (scene,) = _write("mipnerf360", tmp_path / "data", tmp_path / "out").values()
    train, test = _split(scene)
    assert test == ["_DSC8600.png", "_DSC8608.png"] and len(train) == 8
    with Image.open(scene / "images" / test[0]) as picture:  # images_4 of 50 x 34, in multiples of 4
        assert picture.size == (48, 32)
        whole = np.array(Image.open(tmp_path / "data" / "garden" / "images_4" / "_DSC8600.JPG"))
        assert (np.array(picture) == whole[1:33, 1:49]).all()
    frame = json.loads((scene / "transforms.json").read_text())["frames"][0]
    assert (frame["cx"], frame["cy"], frame["fl_x"]) == pytest.approx((24, 16, 45))
    recipe = load_protocol("mipnerf360")
    assert recipe.long_side == "photos" and recipe.flags["pipeline.datamanager.camera-res-scale-factor"] == 0.25
    manager = datamanager(scene, camera_res_scale_factor=0.25, reduction="bicubic")
    assert manager.train_dataset.get_data(0)["image"].shape[:2] == (8, 12)  # what methods learn from
    assert manager.eval_dataset.original_size(0) == (48, 32)  # and are compared with
    (half,) = _write("mipnerf360-x8x4", tmp_path / "data", tmp_path / "half").values()
    assert Image.open(half / "images" / "_DSC8600.JPG").size == (100, 68)  # images_2 as it is
    assert (half / "images" / "_DSC8600.JPG").is_symlink()


RIG = [f"cam{camera}/{number:04d}.png" for number in range(1, 6) for camera in (1, 2)]


@pytest.mark.parametrize("linked", [True, False])
def test_photos_of_a_rig_keep_their_folders_and_their_originals(linked: bool, tmp_path: Path) -> None:
    scene = tmp_path / "data" / "rig"
    size = (64, 48) if linked else (66, 54)  # the second is cut to multiples of 4, so that pictures are made
    write_pictures(scene / "images_4", RIG, size)
    write_model(scene / "sparse" / "0", RIG, size=(4 * size[0], 4 * size[1]))
    before = {path: path.read_bytes() for path in scene.rglob("*.png")}
    (written,) = _write("mipnerf360", tmp_path / "data", tmp_path / "out").values()
    meta = json.loads((written / "transforms.json").read_text())
    assert sorted(frame["file_path"] for frame in meta["frames"]) == sorted(f"images/{name}" for name in RIG)
    for name in RIG:
        picture = written / "images" / name
        assert picture.is_symlink() is linked
        expected = Image.open(scene / "images_4" / name).getpixel((9, 9))
        assert Image.open(picture).getpixel((9, 9)) == expected
    assert {path: path.read_bytes() for path in before} == before
    manager = datamanager(written)
    assert len(manager.train_dataset) == 8 and len(manager.eval_dataset) == 2


def _shot(name: str, picture: Any) -> Shot:
    return Shot(name, Lens(8, 6, 9.0, 9.0, 4.0, 3.0), np.eye(4), picture, held_out=True)


def test_photos_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    original = tmp_path / "x.png"
    Image.new("RGB", (8, 6), "red").save(original)
    content = original.read_bytes()
    shots = [_shot("x.png", original), _shot("x.png", lambda: Image.new("RGB", (8, 6), "blue"))]  # of x.jpg
    for pair in (shots, shots[:1] * 2, shots[::-1]):
        with pytest.raises(UserError, match=r"scene: 2 photos of the data set would become images/x\.png: rename"):
            write_dataset(tmp_path / "scene", pair)
    masks = {f"cam{camera}/x.png": np.ones((6, 8, 1), bool) for camera in (1, 2)}
    with pytest.raises(UserError, match=r"2 photos of the data set would become evaluation_masks/x\.png"):
        write_dataset(tmp_path / "scene", [_shot(name, original) for name in masks], masks=masks)
    assert original.read_bytes() == content and list(tmp_path.iterdir()) == [original]


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = []
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        photos.append(tmp_path / name)
        Image.new("RGB", (8, 6), colour).save(photos[-1])
    content = photos[0].read_bytes()
    link = tmp_path / "link.png"
    link.symlink_to(photos[0])
    with pytest.raises(FileExistsError):
        dataset_writer._link(photos[1], link)
    dataset_writer._save(Image.open(photos[1]), link)
    assert photos[0].read_bytes() == content and not link.is_symlink()

    def no_links(*_: object) -> None:
        raise OSError("a disk without links")

    monkeypatch.setattr(dataset_writer.os, "symlink", no_links)
    dataset_writer._link(photos[0], tmp_path / "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == content


@pytest.mark.parametrize("name", ["0001.png", "frame.png", "frame_x_1.png", "frame_1_2_3.png", "photo_1.png"])
def test_a_name_that_says_no_video_is_refused(name: str) -> None:
    with pytest.raises(Misfit, match=f"the name of {name} does not say which video it is of"):
        video_of(name)
    assert (video_of("frame_00007.png"), video_of("frame_1_00007.png")) == (0, 1)


def test_llff(tmp_path: Path) -> None:
    write_llff(tmp_path / "data" / "fern", size=(3300, 64))
    (scene,) = _write("llff-x8x4", tmp_path / "data", tmp_path / "out").values()
    assert _split(scene)[1] == ["IMG_4026.png", "IMG_4034.png"]
    picture = Image.open(scene / "images" / "IMG_4027.png")
    original = tmp_path / "data" / "fern" / "images" / "IMG_4027.JPG"
    expected = read_stored(original, (1650, 32), "bicubic")[:, 1:1649]
    assert picture.size == (1648, 32) and (np.array(picture) == expected).all()
    assert json.loads((scene / "transforms.json").read_text())["frames"][0]["k1"] == 0.01
    manager = datamanager(scene, camera_res_scale_factor=1.0)  # larger than 1600 pixels, and reduced no more
    assert int(manager.train_dataset.cameras.width[0]) == pytest.approx(1648, abs=2)


def test_gso(tmp_path: Path) -> None:
    write_gso(tmp_path / "data" / "chicken")
    (scene,) = _write("gso", tmp_path / "data", tmp_path / "out").values()
    train, test = _split(scene)
    assert train == ["000.png"] and test == [f"{view:03d}.png" for view in range(16)]
    frame = json.loads((scene / "transforms.json").read_text())["frames"][4]
    assert (frame["fl_x"], frame["cx"]) == (70.0, 32.0)
    pose = np.array(frame["transform_matrix"])
    expected = [0, 1.5 * np.cos(np.pi / 6), 0.75]  # view 4 is a quarter of the way round
    np.testing.assert_allclose(pose[:3, 3], expected, atol=1e-9)
    np.testing.assert_allclose(pose[:3, 2] * 1.5, expected, atol=1e-9)  # it looks at the origin
    np.testing.assert_allclose(orbit_pose(0, 0.0)[:3, :3], [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-9)
    (four,) = _write("gso-4photos", tmp_path / "data" / "chicken", tmp_path / "four").values()
    assert _split(four)[0] == ["000.png", "004.png", "008.png", "012.png"]
    flags = load_protocol("gso").flags
    assert flags["pipeline.model.background-color"] == "white" and "pipeline.datamanager.pose-frame" not in flags
    one, more = load_protocol("gso"), load_protocol("gso-4photos")  # a single photo is for hi3d a picture file
    assert "hi3d" in more.methods and "hi3d" not in one.methods and "picture file" in " ".join(one.differs)


@pytest.mark.parametrize("isotropic", [True, False])
def test_co3d(isotropic: bool, tmp_path: Path) -> None:
    write_co3d(tmp_path / "data", isotropic, ["106_1_2", "104_1_2"])
    scenes = _write("co3d-fewview", tmp_path / "data", tmp_path / "out")
    assert list(scenes) == ["vase-104_1_2-2", "vase-106_1_2-2"]
    cameras = co3d_cameras()
    for number, scene in enumerate(scenes.values()):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(number)).tolist()
        train, test = _split(scene)
        assert train == [f"frame_{index + 1:05d}.png" for index in sorted(order[:2])] and len(test) == 10
    meta = json.loads((scene / "transforms.json").read_text())
    for number, (frame, camera) in enumerate(zip(meta["frames"], cameras, strict=True)):
        pose = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
        np.testing.assert_allclose(pose, camera.camera_to_world.numpy(), atol=1e-5)
        lens = torch.tensor([[frame["fl_x"], 0, frame["cx"]], [0, frame["fl_y"], frame["cy"]], [0, 0, 1]])
        pixels, _ = project(CARD, Pinhole(torch.from_numpy(pose).float(), lens.float(), SIZE, SIZE))
        square = np.asarray(Image.open(scene / frame["file_path"]))
        assert square.shape == (SIZE, SIZE, 4)
        rows, columns = np.nonzero(square[..., 3] > 127)
        assert columns.min() == pytest.approx(float(pixels[:, 0].min()), abs=6)  # the mask has whole pixels
        assert rows.max() == pytest.approx(float(pixels[:, 1].max()), abs=6)
        share = max(np.ptp(rows), np.ptp(columns)) / SIZE
        if number < len(cameras) - 1:
            assert share == pytest.approx(1 / 1.3, abs=0.02)
        else:
            assert share > 1 / 1.3 + 0.03  # the box ends with the picture
        middle = rows.size // 2
        assert (square[rows[middle], columns[middle], :3] == (200, 50, 20)).all()
    assert load_protocol("co3d-fewview").flags["pipeline.model.background-color"] == "black"


def test_boxes_of_masks() -> None:
    mask = np.zeros((80, 120))
    mask[20:60, 30:50] = 0.3  # below the threshold, which is lowered
    assert box_around(mask) == (27, 14, 53, 66)
    mask[20:60, 0:50] = 1.0
    assert box_around(mask) == (0, 14, 58, 66)  # within the picture
    assert box_around(np.zeros((80, 120))) == (0, 0, 120, 80)


def test_short_and_unlisted_sequences_of_co3d_are_left_out(tmp_path: Path) -> None:
    write_co3d(tmp_path, sequences=["104_1_2", "105_1_2"])
    listed = tmp_path / "vase" / "set_lists" / "set_lists_fewview_dev.json"
    lists = json.loads(listed.read_text())
    lists["test"] = [entry for entry in lists["test"] if entry[0] == "104_1_2" or entry[1] < 5]
    listed.write_text(json.dumps(lists))
    assert list(read_sequences(tmp_path / "vase", "fewview_dev")) == ["104_1_2"]


def test_a_category_of_co3d_or_a_sequence_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_co3d(tmp_path / "data", sequences=["106_1_2", "104_1_2"])
    whole = _write("co3d-fewview", tmp_path / "data", tmp_path / "whole")
    category = tmp_path / "data" / "vase"
    assert list(_write("co3d-fewview", category, tmp_path / "category")) == list(whole)
    monkeypatch.chdir(category)
    assert list(_write("co3d-fewview", Path(), tmp_path / "here")) == list(whole)
    ((name, scene),) = _write("co3d-fewview", category / "106_1_2", tmp_path / "sequence").items()
    assert name == "vase-106_1_2-2" and _split(scene) == _split(whole[name])  # its number, and with it the split
    with pytest.raises(UserError, match=r"fewview_dev has no sequence set_lists of 11 frames .*: the protocol co3d"):
        _write("co3d-fewview", category / "set_lists", tmp_path / "no")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "write", "removed", "missing"),
    [
        ("nerfbusters", write_nerfbusters, "scene/transforms.json", "scene/transforms.json|SCENE/transforms.json"),
        ("nerfbusters", write_nerfbusters, "scene/images/frame_00002.png", "frame_00002.png"),
        ("nerfbusters", write_nerfbusters, "scene/visibility_median_count/00001.png", "visibility_median_count has 2"),
        ("dl3dv", write_dl3dv, "scene/nerfstudio/images_4", "scene/nerfstudio/images_4"),
        ("mipnerf360", write_mipnerf360, "scene/sparse", "SCENE/sparse/0"),
        ("gso", write_gso, "scene/007.png", "scene/007.png"),
        (
            "co3d-fewview",
            lambda path: write_co3d(path.parent),
            "vase/set_lists",
            "vase/set_lists/set_lists_fewview_dev",
        ),
    ],
)
def test_another_layout_is_one_message(name: str, write: Any, removed: str, missing: str, tmp_path: Path) -> None:
    write(tmp_path / "data" / "scene")
    _remove(tmp_path / "data" / removed)
    with pytest.raises(UserError, match=missing) as caught:
        _write(name, tmp_path / "data", tmp_path / "out")
    text = str(caught.value)
    if "frame_00002" not in missing:  # which the dataset's own transforms.json names
        assert f"the protocol {name} reads " in text and load_protocol(name).layout[0] in text and "\n" not in text
    assert not any((tmp_path / "out").rglob("transforms.json"))


def test_masks_are_for_all_scenes_or_none(tmp_path: Path) -> None:
    write_nerfbusters(tmp_path / "data" / "aloe")
    write_nerfbusters(tmp_path / "data" / "car", masks=False)
    with pytest.raises(UserError, match=r"car/visibility_median_count is missing, which other scenes have: the proto"):
        _write("nerfbusters", tmp_path / "data", tmp_path / "out")


def test_masks_by_which_nothing_counts_are_named(tmp_path: Path) -> None:
    (tmp_path / "scene" / "evaluation_masks").mkdir(parents=True)
    masks = [tmp_path / "scene" / "evaluation_masks" / f"{name}.png" for name in ("a", "b")]
    for mask in masks:
        Image.new("L", (8, 6)).save(mask)
    views = [HeldOutView(torch.zeros(6, 8, 3), torch.zeros(6, 8, 3), None, f"{mask.stem}.jpg") for mask in masks]
    with pytest.raises(UserError, match=r"scene/evaluation_masks: by these masks no pixel of any held-out photo"):
        read_masks(tmp_path / "scene", views)
    Image.new("L", (8, 6), 255).save(masks[1])
    found = read_masks(tmp_path / "scene", views)
    assert found is not None and [bool(mask.any()) for mask in found.values()] == [False, True]


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is no folder: give that of Nerfbusters .*/transforms\.json"):
        _write("nerfbusters", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="no data set given: difix3d bench FOLDER --protocol gso --output DIR"):
        write_scenes(load_protocol("gso"), [], tmp_path / "out")
    write_gso(tmp_path / "a" / "chicken")
    write_gso(tmp_path / "b" / "chicken")
    with pytest.raises(UserError, match="there are two scenes chicken"):
        write_scenes(load_protocol("gso"), [tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_written_scenes_are_left_as_they_are(tmp_path: Path) -> None:
    write_gso(tmp_path / "data" / "chicken")
    said: list[object] = []
    for protocol in ("gso", "gso", "gso-4photos"):
        write_scenes(load_protocol(protocol), [tmp_path / "data"], tmp_path / "out", said.append)
    assert said == [f"Writing {tmp_path}/out/scenes/chicken"] * 2  # again for other settings alone


@pytest.mark.parametrize("module", ["gso_scenes", "dataset_writer"])
def test_scenes_are_written_again_by_another_reader_or_writer(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gso(tmp_path / "data" / "chicken")
    protocol, said = load_protocol("gso"), list[object]()
    (scene,) = write_scenes(protocol, [tmp_path / "data"], tmp_path / "out")
    (scene / "transforms.json").write_text("as the former code wrote it")
    changed, origin = tmp_path / "changed.py", provenance._origin
    changed.write_text("# another split")
    names = {f"difix3d_ns.evaluation.protocols.{module}": changed}
    monkeypatch.setattr(provenance, "_origin", lambda name: names.get(name) or origin(name))
    for _ in range(2):
        write_scenes(protocol, [tmp_path / "data"], tmp_path / "out", said.append)
    assert said == [f"Writing {scene}"] and len(_split(scene)[1]) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reader": "scannet"}, "reader is one of nerfbusters, dl3dv, colmap, co3d, gso"),
        ({"reading": {"photo": 2}}, "reading: photo: the reader gso has photos, elevation"),
        ({"scoring": {"ssim": "skimage"}}, "scoring.ssim is one of full, inner, own-range"),
        ({"quoted": [{"source": "a", "date": "b", "rows": {"c": {"pnsr": 1}}}]}, "quoted has pnsr, which is no metric"),
        ({"long_side": "photo"}, "long_side"),
    ],
)
def test_a_protocol_that_makes_no_sense(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = yaml.safe_load((CONFIGS / "gso.yaml").read_text()) | change
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        load_protocol(tmp_path / "mine.yaml")


def test_protocols_that_ship_say_what_is_published_and_what_is_not() -> None:
    protocols = shipped_protocols()
    assert {"nerfbusters", "dl3dv", "mipnerf360", "llff-x8x4", "co3d-fewview", "gso"} <= protocols.keys()
    for protocol in protocols.values():
        assert isinstance(protocol, Protocol) and protocol.layout and protocol.published and protocol.differs
        assert protocol.quoted and all(entry.source and entry.date for entry in protocol.quoted)
        assert protocol.flags["pipeline.datamanager.camera-res-scale-factor"] in (1.0, 0.25)  # not the device's size


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nerfbusters' protocol on one scene, with stand-ins for trainings; folder with data, out and console.txt."""
    write_nerfbusters(tmp_path / "data" / "aloe")
    protocol = load_protocol("nerfbusters").chosen(["splatfacto", "sparse"])
    protocol = Protocol(**{**vars(protocol), "steps": 2000})
    (scene,) = write_scenes(protocol, [tmp_path / "data"], tmp_path / "out")
    for training in ("splatfacto", "sparse"):
        job = Job(Scene(scene, "aloe"), training, 0)
        finish(job, protocol, tmp_path / "out", {})
        shutil.rmtree(tmp_path / "out" / "runs" / "aloe" / training / "seed-0" / "rows.jsonl", ignore_errors=True)
    requested: list[dict[str, Any]] = []

    def evaluate(config: Path, **options: Any) -> Evaluation:
        requested.append(options)
        truth = torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(0))
        error = 0.1 if "splatfacto/seed" in str(config) and "/splatfacto/" in str(config) else 0.01
        render = torch.where(torch.arange(48)[None, :, None] < 12, 1 - truth, truth + error)  # spoilt outside the mask
        views = [HeldOutView(truth, render, None, f"frame_1_{i:05d}.png") for i in (1, 2, 3)]
        return Evaluation(views, 100, 0.0, (96, 64))

    monkeypatch.setattr(runs, "evaluate", evaluate)
    monkeypatch.setattr("difix3d_ns.evaluation.bench.job.agreements", lambda folder: [])
    console = Console(file=io.StringIO(), width=160)
    bench(
        [tmp_path / "data"],
        tmp_path / "out",
        methods=["splatfacto", "sparse"],
        protocol="nerfbusters",
        record=tmp_path / "record",
        console=console,
    )
    assert {options["reduced"] for options in requested} == {2} and len(requested) == 2
    (tmp_path / "console.txt").write_text(console.file.getvalue())  # type: ignore[attr-defined]
    return tmp_path


@pytest.mark.usefixtures("no_weights")
def test_a_protocol_is_scored_and_printed_beside_its_paper(measured: Path) -> None:
    (row,) = [row for row in read_rows(measured / "record" / "bench-nerfbusters.jsonl") if row["method"] == "sparse"]
    assert row["metrics"]["psnr"] > 35 and "cc_psnr" not in row["metrics"]  # inside the masks alone
    assert row["evaluation"]["scoring"] == {
        "psnr": "channels",
        "ssim": "full",
        "masks": True,
        "reduced": 2,
        "lpips_unscaled": False,
    }
    command = "difix3d bench FOLDER --output DIR --protocol nerfbusters --methods sparse --seeds 0"
    assert row["command"] == command and str(measured) not in json.dumps(row)
    kept = kept_views(measured / "out", row)
    assert len(kept) == 2  # of the last view nothing counts
    mask = kept_mask(next(iter(kept.values())))
    assert mask is not None and not mask[:, :12].any() and mask[:, 12:].all()
    assert not np.array(Image.open(next(iter(kept))))[:, :12].any()  # black outside
    printed = (measured / "console.txt").read_text()
    page = (measured / "out" / "table.md").read_text()
    assert page.startswith("# Benchmark: protocol nerfbusters")
    assert "## Published, and ours" in page and "Published, and ours" in (measured / "out" / "report.html").read_text()
    psnr = json.loads((measured / "out" / "results.json").read_text())["aloe"]["sparse"]["psnr"]
    for said in ("Difix3D+ (3DGS) [1]", "18.51", "0.6858", "0.2637", "41.77", "sparse (ours, 1 scene)", f"{psnr:.2f}"):
        assert said in printed and said in page, said
    for said in ("arXiv 2503.01774), table 2, March 2025", "over 12 scenes", "Not as published, or not known"):
        assert said in printed and said in page, said


def test_protocols_on_the_command_line(
    measured: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["difix3d", "bench", *map(str, words)])
        with contextlib.suppress(SystemExit):
            main()
        said = capsys.readouterr()
        return said.out + said.err

    data = (measured / "data", "--output", measured / "out")
    said = run(*data, "--protocol", "nerfbusters", "--recipe", "smoke")
    assert said == "Error: --protocol nerfbusters brings methods and settings of its own: leave --recipe out\n"
    said = run(*data, "--protocol", "nerfbusters", "--methods", "plain")
    assert "--methods plain: the protocol nerfbusters has splatfacto, sparse, difix3d, difix3d+" in said
    assert "no protocol scannet: give a YAML file or one of co3d-fewview, dl3dv, gso" in run(
        *data, "--protocol", "scannet"
    )
    filled = run("--fill", "lpips", measured / "out", "--protocol", "nerfbusters", "--record", measured / "record")
    assert "lpips_alex is left out" in filled and "Difix3D+ (3DGS) [1]" in filled  # without data and trainings


def test_a_scene_says_by_how_much_it_is_reduced(tmp_path: Path) -> None:
    write_gso(tmp_path / "data" / "chicken")
    (scene,) = _write("gso", tmp_path / "data", tmp_path / "out").values()
    path = scene / "transforms.json"
    path.write_text(path.read_text().replace('"downscale_factor": 1', '"downscale_factor": 2'))
    assert to_pinhole(datamanager(scene).train_dataset.cameras[:1]).width == 32
    path.write_text(path.read_text().replace('"downscale_factor": 2', '"downscale_factor": 0.5'))
    with pytest.raises(UserError, match=r"downscale_factor 0.5 is no whole number from 1 on; correct or remove it"):
        datamanager(scene)


def test_the_flags_help_names_every_protocol() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("- `--protocol ")]
    names = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    assert f": {', '.join(names)}, or the path" in line and list(shipped_protocols()) == names


def test_the_page_is_written_from_the_same_files() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "protocols.py"))["page"]()
    assert (ROOT / "docs" / "protocols.md").read_text() == written, "run `make docs`"
    for protocol in shipped_protocols().values():
        assert f"## {protocol.name}\n" in written and all(line in written for line in protocol.layout)
        for entry in protocol.quoted:
            assert entry.source in written and all(f"| {method} [" in written for method in entry.rows)
