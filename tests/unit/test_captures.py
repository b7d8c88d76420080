"""Captures that used to train wrongly without a word: they train as the same scene read rightly does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from nerfstudio.scripts.train import _set_random_seed
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from difix3d_ns.errors import UserError
from difix3d_ns.io.images import open_picture, read_mask, read_picture, read_stored, write_picture
from difix3d_ns.ns.datamanager import SceneDatamanager
from difix3d_ns.ns.patches.held_out_loader import compose_before
from tests.unit.lens_scene import HEIGHT, PLACES, WIDTH, pinhole, rays_of, seen, write_lens_scene
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import datamanager, write_scene

FISHEYE = {"camera_model": "OPENCV_FISHEYE", "fl_x": 62.0, "fl_y": 61.0, "cx": 47.0, "cy": 37.0}
BENT_FISHEYE = FISHEYE | {"k1": 0.06, "k2": -0.02, "k3": 0.01, "k4": -0.003}
BROWN = {"k1": -0.2, "k2": 0.06, "p1": 0.004, "p2": -0.003, "k3": -0.01}
ARIA = {
    "camera_model": "FISHEYE624",
    "fl_x": 62.0,
    "fl_y": 62.0,
    "distortion_params": [0.05, -0.02, 0.004, 0.0, 0.0, 0.0, 0.002, -0.001, 0.001, 0.0, -0.001, 0.0],
}
LENSES: dict[str, tuple[dict[str, Any], bool]] = {
    "fisheye, once": (BENT_FISHEYE, False),
    "fisheye per frame": (BENT_FISHEYE, True),
    "fisheye without coefficients": (FISHEYE, False),
    "is_fisheye of instant-ngp": (
        {k: v for k, v in BENT_FISHEYE.items() if k != "camera_model"} | {"is_fisheye": True},
        False,
    ),
    "OPENCV, once": (BROWN, False),
    "OPENCV per frame": (BROWN | {"camera_model": "OPENCV"}, True),
    "FISHEYE624": (ARIA, False),
    "FISHEYE624 per frame": (ARIA, True),
    "FISHEYE624 with crop radius": (ARIA | {"fisheye_crop_radius": 34.0}, False),
    "fisheye with crop radius": (BENT_FISHEYE | {"fisheye_crop_radius": 30.0}, False),
    "a wide fisheye": (FISHEYE | {"w": 384, "h": 288, "fl_x": 120.0, "fl_y": 120.0, "cx": 190.0, "cy": 143.0}, False),
}


def psnr(a: Any, b: Any) -> float:
    return float(-10 * np.log10(np.mean((np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) ** 2)))


def truth(manager: SceneDatamanager, index: int, held_out: bool = False) -> np.ndarray:
    """What the dataset's pinhole of a photograph sees, in closed form."""
    dataset = manager.eval_dataset if held_out else manager.train_dataset
    camera = dataset.cameras[index]
    matrix = camera.get_intrinsics_matrices().numpy()
    lens = {"fl_x": matrix[0, 0], "fl_y": matrix[1, 1], "cx": matrix[0, 2], "cy": matrix[1, 2]}
    place = PLACES[index + len(PLACES) - 2] if held_out else PLACES[index]
    return seen(pinhole(place).position, rays_of(lens, int(camera.width), int(camera.height)))


@pytest.mark.parametrize("name", LENSES)
def test_any_lens_becomes_a_pinhole(name: str, tmp_path: Path) -> None:
    lens, per_frame = LENSES[name]
    manager = datamanager(write_lens_scene(tmp_path / "scene", lens, per_frame=per_frame))
    for index in (0, 5):
        data, camera = manager.cached_train[index], manager.train_cameras[index]
        assert int(camera.camera_type) == CameraType.PERSPECTIVE.value
        image, expected = data["image"].numpy() / 255, truth(manager, index)
        assert image.shape == expected.shape
        used = data["mask"].numpy()[..., 0] if "mask" in data else np.ones(image.shape[:2], bool)
        assert ("mask" in data) == ("crop radius" in name)
        smooth = maximum_filter(expected, (5, 5, 1)) - minimum_filter(expected, (5, 5, 1))  # not the card's edges
        used = used & (smooth.max(-1) < 0.45)
        assert used.mean() > 0.45
        assert psnr(image[used], expected[used]) > 36, name


@pytest.mark.parametrize("model", ["EQUIRECTANGULAR", "VR180_L", "OMNIDIRECTIONALSTEREO_R", "ORTHOPHOTO"])
@pytest.mark.parametrize("per_frame", [False, True])
def test_what_splats_cannot_show_is_refused_by_name(model: str, per_frame: bool, tmp_path: Path) -> None:
    scene = write_lens_scene(tmp_path / "scene")
    lens = {"camera_model": model}
    write_lens_scene(tmp_path / "panoramas", lens, per_frame=per_frame)
    with pytest.raises(UserError, match=model):
        datamanager(tmp_path / "panoramas")
    assert len(datamanager(scene).train_dataset) == len(PLACES) - 2


def held_out_psnr(scene: Path, steps: int = 160) -> float:
    """Mean PSNR of the held-out photographs, as they are in closed form, after a short training of plain splatfacto."""
    # the scenes compared have the same draws, and no Gaussian is split: in so few steps either is worth up to a decibel
    _set_random_seed(0)
    config = short_config(scene, steps=steps, name=scene.name)
    config.pipeline.model.num_downscales = 0
    config.pipeline.model.stop_split_at = 0
    pipeline = train(config).pipeline
    pipeline.eval()
    values = []
    for index in range(len(pipeline.datamanager.eval_dataset)):
        camera = pipeline.datamanager.eval_dataset.cameras[index : index + 1]
        image = pipeline.model.get_outputs_for_camera(camera)["rgb"]
        values.append(psnr(image.numpy(), truth(pipeline.datamanager, index, held_out=True)))
    return float(np.mean(values))


def as_pinholes(scene: Path, folder: Path) -> Path:
    """The scene again, taken with the pinholes its photographs are undistorted to."""
    camera = datamanager(scene).train_dataset.cameras[0]
    matrix = camera.get_intrinsics_matrices().tolist()
    lens = {"w": int(camera.width), "h": int(camera.height), "fl_x": matrix[0][0], "fl_y": matrix[1][1]}
    return write_lens_scene(folder, lens | {"cx": matrix[0][2], "cy": matrix[1][2]})


@pytest.fixture(scope="module")
def pinhole_psnr(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Of the scene without distortion, near the origin."""
    return held_out_psnr(write_lens_scene(tmp_path_factory.mktemp("captures") / "near"))


@pytest.mark.slow
def test_a_fisheye_trains_as_its_pinhole_does(tmp_path: Path) -> None:
    """Written per frame, without coefficients."""
    scene = write_lens_scene(tmp_path / "fisheye", FISHEYE, per_frame=True)
    rightly = held_out_psnr(as_pinholes(scene, tmp_path / "pinhole"))
    assert rightly > 25
    assert held_out_psnr(scene) > rightly - 0.3


@pytest.mark.slow
def test_coordinates_far_from_the_origin_train_as_near_ones(tmp_path: Path, pinhole_psnr: float) -> None:
    far = write_lens_scene(tmp_path / "far", offset=(512_345.678, 4_123_456.789, 312.5))
    assert pinhole_psnr > 22
    assert held_out_psnr(far) > pinhole_psnr - 0.3


SAVED: dict[str, tuple[str, Callable[[Image.Image, Path], None]]] = {
    "palette": (".png", lambda picture, path: picture.quantize(256).save(path)),
    "palette with transparency": (".png", lambda picture, path: picture.quantize(255).save(path, transparency=255)),
    "CMYK": (".jpg", lambda picture, path: picture.convert("CMYK").save(path, quality=95)),
    "WebP": (".webp", lambda picture, path: picture.save(path, lossless=True)),
    "TIFF": (".tif", lambda picture, path: picture.save(path)),
    "with alpha": (".png", lambda picture, path: picture.convert("RGBA").save(path)),
    "HEIC": (".heic", lambda picture, path: picture.save(path, quality=95)),
}


@pytest.mark.parametrize("name", SAVED)
def test_pictures_of_any_mode_have_their_colours(name: str, tmp_path: Path) -> None:
    suffix, save = SAVED[name]
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    manager = datamanager(write_lens_scene(tmp_path / "scene", save=save, suffix=suffix))
    image = manager.cached_train[0]["image"].numpy()
    assert image.dtype == np.uint8
    assert image.shape == (HEIGHT, WIDTH, 4 if name in ("with alpha", "palette with transparency") else 3)
    assert psnr(image[..., :3] / 255, truth(manager, 0)) > (25 if "palette" in name else 31)  # quantised


def test_grey_pictures_of_any_depth(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pictures = {
        "L": Image.fromarray(grey),
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "LA": Image.merge("LA", [Image.fromarray(grey), Image.fromarray(grey[::-1].copy())]),
        "1": Image.fromarray(grey > 127),
    }
    for mode, picture in pictures.items():
        path = tmp_path / f"{mode.replace(';', '')}.png"
        picture.save(path)
        pixels = read_stored(path)
        expected = np.where(grey > 127, 255, 0) if mode == "1" else grey
        assert pixels.dtype == np.uint8
        assert (pixels[..., :3] == expected[..., None]).all(), mode
        assert pixels.shape[2] == (4 if mode == "LA" else 3)
    assert (read_stored(tmp_path / "LA.png")[..., 3] == grey[::-1]).all()
    colours = np.random.default_rng(0).integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    import cv2

    cv2.imwrite(str(tmp_path / "deep.png"), colours)
    assert np.abs(read_stored(tmp_path / "deep.png").astype(int) - colours[..., ::-1] / 257).max() <= 1


def test_heic_without_its_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.HEIC").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.HEIC is a HEIC picture: `pip install pillow-heif`"):
        read_stored(tmp_path / "a.HEIC")


def test_masks_of_any_mode_and_size(tmp_path: Path) -> None:
    used = np.zeros((30, 40), bool)
    used[5:20, 10:30] = True
    white = Image.fromarray(np.where(used, 255, 0).astype(np.uint8))
    masks = {
        "grey.png": white,
        "ones.png": Image.fromarray(used.astype(np.uint8)),
        "bits.png": Image.fromarray(used),
        "colours.png": Image.merge("RGB", [white, white, white]),
        "red.png": Image.merge("RGB", [white, white.point(lambda v: 0), white.point(lambda v: 0)]),
        "alpha.png": Image.merge("RGBA", [*[white.point(lambda v: 90)] * 3, white]),
        "opaque.png": Image.merge("RGBA", [white, white, white, white.point(lambda v: 255)]),
        "deep.png": Image.fromarray(used.astype(np.uint16) * 65535),
        "palette.png": white.convert("P"),
        "lossy.jpg": white,
    }
    for name, mask in masks.items():
        mask.save(tmp_path / name)
        found = read_mask(tmp_path / name)
        assert found.shape == (30, 40, 1) and found.dtype == bool
        assert (found[..., 0] != used).mean() < (0.02 if name == "lossy.jpg" else 1e-9), name
        larger = read_mask(tmp_path / name, (80, 60))
        assert larger.shape == (60, 80, 1)
        assert (larger[1::2, 1::2, 0] != found[..., 0]).mean() < 0.02


def test_a_mask_of_another_size_fits_its_photo(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", size=(40, 30), masks=True)
    for path in (scene / "masks").iterdir():
        Image.open(path).resize((80, 60), Image.Resampling.NEAREST).convert("RGB").save(path)
    mask = datamanager(scene).cached_train[0]["mask"]
    assert mask.shape == (30, 40, 1)
    assert not mask[:, :20].any() and mask[:, 20:].all()


@pytest.mark.slow
def test_datasets_are_rendered_undistorted_beside_undistorted_photos(tmp_path: Path) -> None:
    from nerfstudio.scripts.render import DatasetRender

    config = short_config(write_lens_scene(tmp_path / "scene", BROWN), steps=4)
    pipeline = train(config).pipeline
    found = config.get_base_dir() / "config.yml"
    names = ["rgb", "gt-rgb"]
    DatasetRender(found, tmp_path / "out", image_format="png", rendered_output_names=names).main()
    cameras = pipeline.datamanager.eval_dataset.cameras
    pipeline.eval()
    for index, name in enumerate(["frame_09.png", "frame_10.png"]):
        written = read_stored(tmp_path / "out/test/gt-rgb" / name) / 255
        expected = truth(pipeline.datamanager, index, held_out=True)
        assert written.shape == expected.shape
        assert psnr(written, expected) > 28  # the card's edges included
        render = pipeline.model.get_outputs_for_camera(cameras[index : index + 1])["rgb"].numpy()
        assert np.abs(read_stored(tmp_path / "out/test/rgb" / name) / 255 - render).max() < 1.01 / 255


def test_pictures_of_other_ranges(tmp_path: Path) -> None:
    values = np.array([[0.0, 100.0], [200.0, 255.0]], np.float32)
    Image.fromarray(values).save(tmp_path / "wide.tif")
    Image.fromarray(values / 255).save(tmp_path / "unit.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "whole.tif")
    for name in ("wide.tif", "unit.tif", "whole.tif"):
        assert (read_stored(tmp_path / name)[..., 0] == values).all(), name
        assert np.allclose(read_picture(tmp_path / name).image[..., 0], values / 255, atol=1e-6), name
    Image.fromarray((values * 257).astype(np.uint16)).save(tmp_path / "deep.tif")
    assert np.allclose(read_picture(tmp_path / "deep.tif").image[..., 0], values / 255, atol=1e-5)


def test_what_fails_beside_a_picture_is_no_fault_of_it(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(OSError, match="No space left"), open_picture(tmp_path / "a.png"):
        raise OSError(28, "No space left on device")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half.png cannot be read as a picture"), open_picture(tmp_path / "half.png"):
        pass


@pytest.mark.parametrize(("mode", "kept"), [("RGB", True), ("L", True), ("CMYK", False), ("LAB", False)])
def test_a_profile_stays_with_the_colours_it_is_of(tmp_path: Path, mode: str, kept: bool) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif", icc_profile=b"profile")
    write_picture(tmp_path / "b.png", read_picture(tmp_path / "a.tif"))
    assert Image.open(tmp_path / "b.png").info.get("icc_profile") == (b"profile" if kept else None)


def test_rendered_photos_with_alpha_stand_before_the_renders_background(tmp_path: Path) -> None:
    """nerfstudio writes pictures of four channels in false colours."""
    dataset = datamanager(write_scene(tmp_path / "scene", mode="RGBA")).train_dataset
    colour = torch.tensor([0.2, 0.4, 0.6])
    compose_before(colour)
    _, batch = next(iter(FixedIndicesEvalDataloader(input_dataset=dataset)))
    rgba = torch.from_numpy(dataset.get_numpy_image(0)).float() / 255
    expected = rgba[..., :3] * rgba[..., 3:] + colour * (1 - rgba[..., 3:])
    assert torch.allclose(batch["image"], expected, atol=1e-6)


def test_what_lies_outside_of_a_strongly_bent_picture_is_not_used(tmp_path: Path) -> None:
    lens = {"w": 640, "h": 480, "fl_x": 300.0, "fl_y": 300.0, "cx": 320.0, "cy": 240.0, "k1": -0.3, "k2": 0.1}
    data = datamanager(write_lens_scene(tmp_path / "scene", lens)).train_dataset.get_data(0, "uint8")
    used, black = data["mask"][..., 0].numpy(), data["image"].numpy().max(-1) == 0
    assert 0.005 < black.mean() < 0.05 and 0.9 < used.mean() < 1
    assert not (used & black).any()


def test_scenes_laid_on_white_are_rendered_before_white(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", mode="RGBA")
    meta = json.loads((scene / "transforms.json").read_text())
    frames, held_out = meta.pop("frames"), set(meta["val_filenames"])
    for split in ("train", "val", "test"):
        kept = [frame for frame in frames if (frame["file_path"] in held_out) == (split != "train")]
        (scene / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": kept}))
    (scene / "transforms.json").unlink()
    pipeline = train(short_config(scene, steps=1)).pipeline
    assert pipeline.config.model.background_color == "white"
    rgba = np.array(Image.open(pipeline.datamanager.train_dataset.image_filenames[0])).astype(float)
    expected = rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]
    assert np.abs(pipeline.datamanager.cached_train[0]["image"].numpy() - expected).max() <= 1
    assert len(pipeline.datamanager.eval_dataset) == 1
