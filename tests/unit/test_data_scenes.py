"""Scenes: how they are named, and datasets of several kinds read as ns-train would see them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.data.capture import procedural_capture, thinned
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.data.procedural import photograph_world, training_world, write_views
from difix3d_ns.data.procedural.dataset import structure_points
from difix3d_ns.data.scene_names import expand
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.ns.capture_reader import read_dataset

LENS = {"k1": -0.2, "k2": 0.05, "p1": 0.002, "p2": -0.001}


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    return photograph_world(training_world(3), rng, width=96, height=64, train_views=6, test_views=4, label=None)


@pytest.fixture
def dataset(views, tmp_path):
    return write_views(views, tmp_path / "yard", np.random.default_rng(1), points=400, image_format="png")


def load(source, **options):
    (scene,) = expand([str(source)])
    return scene.load(CurationOptions(**{"long_side": 96, **options}), read_dataset)


def change(dataset, edit) -> None:
    transforms = json.loads((dataset / "transforms.json").read_text())
    edit(transforms)
    (dataset / "transforms.json").write_text(json.dumps(transforms))


def without_splits(transforms) -> None:
    for split in ("train", "val", "test"):
        transforms.pop(f"{split}_filenames", None)


def seen(capture, view: int) -> torch.Tensor:
    """Which of the scene's points are inside the picture, and the colours found there beside those expected."""
    camera = capture.cameras[view]
    local = (capture.points - camera.position) @ camera.camera_to_world[:3, :3]
    pixels = (local @ camera.intrinsics.T)[:, :2] / local[:, 2:]
    inside = (local[:, 2] > 0) & (pixels > 0).all(1)
    inside &= (pixels < torch.tensor([camera.width, camera.height])).all(1)
    column, row = pixels[inside].long().unbind(1)
    return (capture.images[view][row, column] - capture.colours[inside]).abs().mean(1)


@pytest.mark.slow
def test_procedural_scenes_are_counted_or_named_by_seed(tmp_path):
    names = [scene.name for scene in expand(["procedural:2", "procedural-seed:7"], first_seed=40)]
    assert names == ["procedural_00040", "procedural_00041", "procedural_00007"]
    (scene,) = expand(["procedural-seed:7"])
    capture = scene.load(CurationOptions(long_side=48))
    assert capture.name == scene.name
    assert len(capture.depths) == len(capture.images) == len(capture.cameras)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no scene given"),
        (["procedural"], "procedural: write procedural:8 .* procedural-seed:7"),
        (["procedural:x"], "procedural:x: write procedural:8"),
        (["procedural:2", "procedural-seed:1"], "would both be procedural_00001: rename one"),
        (["a/yard", "b/yard"], "would both be yard: rename one"),
    ],
)
def test_bad_names_are_told_apart(texts, message):
    with pytest.raises(UserError, match=message):
        expand(texts)


def test_a_dataset_is_read_with_its_split_and_points(dataset, views):
    capture = load(dataset)
    assert (len(capture.train), len(capture.test)) == (6, 4)
    assert capture.notes == ()
    assert capture.masks is None and capture.background is None and capture.devices is None
    training = [view for view in views if view.training]
    for index, view in zip(capture.train, training, strict=True):
        assert (capture.images[index] - view.image).abs().max() < 0.004  # 8 bits
        errors = seen(capture, index)
        assert len(errors) > 50
        assert errors.median() < 0.1
    assert capture.name == "yard"
    assert load(dataset / "transforms.json").name == "yard"


def test_pictures_shrink_and_never_grow(dataset):
    full, small = load(dataset, long_side=500), load(dataset, long_side=48)
    assert full.images[0].shape == (64, 96, 3)
    assert small.images[0].shape == (32, 48, 3)
    assert full.cameras[0].intrinsics[0, 0] == pytest.approx(2 * small.cameras[0].intrinsics[0, 0].item())


def test_distortion_is_undone(views, dataset):
    k = views[0].camera.intrinsics.numpy().astype(np.float64)
    at_centres = k - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    lens = np.array([LENS["k1"], LENS["k2"], LENS["p1"], LENS["p2"]])
    grid = np.stack(np.meshgrid(np.arange(96.0), np.arange(64.0)), -1).reshape(-1, 1, 2)
    source = cv2.undistortPoints(grid, at_centres, lens, P=at_centres).reshape(64, 96, 2).astype(np.float32)

    def distort(path) -> None:
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), cv2.remap(image, source, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))

    for path in (dataset / "images").iterdir():
        distort(path)
    bent = load(dataset)
    change(dataset, lambda transforms: transforms.update(LENS))
    straight = load(dataset)
    index = straight.train[0]
    truth = next(view for view in views if view.training).image.numpy()
    camera = straight.cameras[index]

    def error(image: torch.Tensor, intrinsics: torch.Tensor) -> float:
        """Against the undistorted photograph, looked up where these intrinsics put each pixel; the rim left out."""
        height, width = image.shape[:2]
        pixels = np.stack([*np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), np.ones((height, width))], -1)
        there = (pixels @ np.linalg.inv(intrinsics.numpy()).T @ k.T)[..., :2].astype(np.float32) - 0.5
        wanted = cv2.remap(truth, np.ascontiguousarray(there), None, cv2.INTER_LINEAR)
        return float(np.abs(image.numpy() - wanted)[8:-8, 8:-8].mean())

    undone = error(straight.images[index], camera.intrinsics)
    assert undone < 0.02
    assert undone < 0.4 * error(bent.images[index], bent.cameras[index].intrinsics)


def test_pictures_may_differ_in_size(views, dataset):
    path = dataset / "images/frame_00001.png"
    with Image.open(path) as file:
        file.resize((48, 32), Image.Resampling.BOX).save(path)

    def halve(transforms) -> None:
        frame = transforms["frames"][0]
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            frame[key] = frame[key] / 2 if key[0] in "fc" else frame[key] // 2

    change(dataset, halve)
    capture = load(dataset)
    assert sorted({tuple(image.shape[:2]) for image in capture.images}) == [(32, 48), (64, 96)]
    for image, camera in zip(capture.images, capture.cameras, strict=True):
        assert image.shape[:2] == (camera.height, camera.width)
        assert camera.intrinsics[0, 2] == pytest.approx(camera.width / 2)


def test_a_size_that_does_not_fit_the_camera_names_the_file(dataset):
    path = dataset / "images/frame_00002.png"
    with Image.open(path) as file:
        file.resize((48, 36)).save(path)
    with pytest.raises(UserError, match=r"frame_00002\.png has 48 x 36 pixels where .* 96 x 64"):
        load(dataset)


def test_without_test_views_some_training_views_are_held_out(dataset):
    def all_train(transforms) -> None:
        names = [frame["file_path"] for frame in transforms["frames"]]
        without_splits(transforms)
        transforms["train_filenames"] = names

    change(dataset, all_train)
    capture = load(dataset, hold_out=5)
    assert (capture.train, capture.test) == ([0, 1, 3, 4, 5, 6, 8, 9], [2, 7])
    assert "every 5th of 10 is held out (--hold-out)" in capture.notes[0]


def test_a_split_of_the_dataparser_is_kept(dataset):
    change(dataset, without_splits)
    capture = load(dataset)  # from ten photos on every eighth is held out
    assert (len(capture.train), len(capture.test)) == (8, 2)
    assert capture.notes == ()


def test_too_few_views_are_named(dataset):
    def one(transforms) -> None:
        transforms["train_filenames"] = transforms["train_filenames"][:1]

    change(dataset, one)
    with pytest.raises(UserError, match=r"yard has 1 training and 4 other views, which is too few"):
        load(dataset)


def test_masks_and_cut_out_objects(dataset):
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :48] = 255
    Image.fromarray(mask).save(dataset / "mask.png")
    change(dataset, lambda t: [frame.update(mask_path="mask.png") for frame in t["frames"]])
    masked = load(dataset)
    assert masked.background is None
    assert masked.masks[3][:, :48].min() == 1 and masked.masks[3][:, 48:].max() == 0

    for path in (dataset / "images").iterdir():
        with Image.open(path) as file:
            picture = file.convert("RGB")
        picture.putalpha(Image.fromarray(mask))
        picture.save(path)
    cut_out = load(dataset)
    assert cut_out.background == (1, 1, 1)
    assert (cut_out.images[0][:, 48:] == 1).all() and (cut_out.images[0][:, :48] < 1).any()
    assert cut_out.masks[0][:, 48:].max() == 0


def test_an_object_before_white_is_masked_without_its_shadow_and_specks(dataset):
    image = np.full((64, 96, 3), 247, np.uint8)
    image[45:55, 10:60] = 190  # a shadow on white
    image[2, 2] = 0  # a speck
    image[15:45, 20:50] = (150, 100, 50)
    for path in (dataset / "images").iterdir():
        Image.fromarray(image).save(path)
    mask = load(dataset, white_background=True).masks[0][..., 0]
    assert mask[16:44, 21:49].all()
    assert not mask[47:].any()
    assert mask[2, 2] == 0
    assert load(dataset).masks is None


def test_without_points_a_splat_starts_from_random_ones_in_view(dataset):
    change(dataset, lambda transforms: transforms.pop("ply_file_path"))
    capture = load(dataset)
    assert any("random" in note for note in capture.notes)
    inside = [len(seen(capture, view)) for view in capture.train]
    assert min(inside) > len(capture.points) / 10


def colmap(folder, views, several: bool):
    """A COLMAP text model: quaternions world to camera, centres at +0.5, points without tracks."""
    from scipy.spatial.transform import Rotation

    model = folder / "sparse/0"
    model.mkdir(parents=True)
    (folder / "images").mkdir()
    cameras, images = [], []
    for number, view in enumerate(views, start=1):
        device = 1 + (number % 2 if several else 0)
        k, pose = view.camera.intrinsics, view.camera.world_to_camera.double().numpy()
        # The second of two devices sees the middle of the picture only.
        crop = 8 * (device - 1)
        line = f"{device} OPENCV {96 - 2 * crop} 64 {k[0, 0]} {k[1, 1]} {k[0, 2] - crop} {k[1, 2]} 0 0 0 0"
        if line not in cameras:
            cameras.append(line)
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        images += [f"{number} {w} {x} {y} {z} {' '.join(map(str, pose[:3, 3]))} {device} {number:02d}.png", ""]
        pixels = (view.image[:, crop : 96 - crop].clamp(0, 1) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"images/{number:02d}.png")
    xyz, rgb = structure_points(views, np.random.default_rng(1), 400)
    points = [
        f"{i} {' '.join(map(str, p))} {' '.join(map(str, c))} 0.5"
        for i, (p, c) in enumerate(zip(xyz, rgb, strict=True), 1)
    ]
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (model / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("several", [False, True])
def test_a_colmap_folder_is_read(views, tmp_path, several):
    capture = load(colmap(tmp_path / "yard", views, several))
    assert (len(capture.train), len(capture.test)) == (8, 2)  # every eighth, as nerfstudio does
    errors = seen(capture, capture.train[0])
    assert len(errors) > 50
    assert errors.median() < 0.1
    assert (capture.devices is not None) == several
    if several:
        assert len({(capture.devices[i], capture.images[i].shape) for i in range(10)}) == 2


def test_other_dataparsers_are_named(dataset, tmp_path):
    capture = load(f"nerfstudio-data:{dataset}")
    assert (capture.name, len(capture.train)) == ("yard", 6)
    with pytest.raises(UserError, match=r"no dataparser nonsense: give one of .*blender-data"):
        load(f"nonsense:{dataset}")


@pytest.mark.parametrize(("name", "message"), [("nowhere", "does not exist"), ("", "holds nothing to train on")])
def test_folders_nobody_can_read_are_named(tmp_path, name, message):
    with pytest.raises(UserError, match=f"{tmp_path / name}.*{message}"):
        load(tmp_path / name)


@pytest.mark.slow
def test_dense_captures_are_thinned():
    capture = procedural_capture(3, 48)
    few = thinned(capture, 4)
    assert len(few.train) == 4
    assert sorted(few.train + few.test) == list(range(len(capture.cameras)))
    assert {few.train[0], few.train[-1]} == {capture.train[0], capture.train[-1]}
    assert "--views" in few.notes[0]
    assert thinned(capture, 100) is capture
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(3, 40) == [0, 1, 2] and evenly_spaced(0, 4) == evenly_spaced(4, 0) == []
    assert evenly_spaced(5, 2, ends=False) == [1, 3] and evenly_spaced(2, 5, ends=False) == [0, 1]
