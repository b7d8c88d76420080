"""Photos above the size they are trained at: as truth, never enlarged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.io.images import read_stored
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.dataparsers.picture_files import find_full_size
from difix3d_ns.ns.photo_dataset import PhotoDataset
from tests.unit.lens_scene import FOCAL, HEIGHT, PLACES, WIDTH, rays_of, seen, write_lens_scene
from tests.unit.lens_scene import pinhole as camera_of
from tests.unit.tiny_scene import datamanager, write_scene

LARGE = {"w": 2 * WIDTH, "h": 2 * HEIGHT, "fl_x": 2 * FOCAL, "fl_y": 2 * FOCAL, "cx": 1.0 * WIDTH, "cy": 1.0 * HEIGHT}


def _dataset(scene: Path, factor: float = 0.5, **settings: Any) -> PhotoDataset:
    return datamanager(scene, camera_res_scale_factor=factor, **settings).train_dataset


def test_the_original_is_the_file_reduced_as_pillow_does(tmp_path: Path) -> None:
    dataset = _dataset(write_scene(tmp_path / "scene", size=(80, 60)), 0.25)
    assert dataset.stored_size(0) == (20, 15) and dataset.original_size(0) == (80, 60)
    file = Image.open(dataset.image_filenames[0])
    for size in ((80, 60), (40, 30)):
        expected = np.array(file.resize(size, Image.Resampling.BICUBIC)) / 255
        found = dataset.original(0, size)
        assert found is not None and found.shape == (size[1], size[0], 3)
        assert np.abs(found.numpy() - expected).max() < 1e-6
    enlarged = dataset.original(0, (160, 120))
    assert enlarged is not None and enlarged.shape == (60, 80, 3)  # of its own size


@pytest.mark.parametrize("factor", [1.0, 0.999])
def test_there_is_none_where_the_file_is_no_larger(factor: float, tmp_path: Path) -> None:
    dataset = _dataset(write_scene(tmp_path / "scene"), factor)
    assert (dataset.original_size(0) is None) == (factor == 1)
    assert (dataset.original(0, (80, 60)) is None) == (factor == 1)


def test_reduced_copies_have_theirs_beside_them(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", size=(80, 60))
    shutil.copytree(scene / "images", scene / "images_4")
    for path in (scene / "images_4").iterdir():
        Image.open(path).resize((20, 15)).save(path)
    copy = scene / "images_4" / "frame_000.png"
    assert find_full_size(copy) == scene / "images" / "frame_000.png"
    (scene / "images" / "frame_000.png").rename(scene / "images" / "frame_000.webp")
    Image.open(scene / "images" / "frame_001.png").save(scene / "images" / "frame_000.webp")
    assert find_full_size(copy) == scene / "images" / "frame_000.webp"
    (scene / "images" / "frame_000.webp").unlink()
    assert find_full_size(copy) == copy


def test_another_camera_is_no_original(tmp_path: Path) -> None:
    for folder in ("camera", "camera_2"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (80, 60)).save(tmp_path / folder / "a.png")
    assert find_full_size(tmp_path / "camera_2" / "a.png") == tmp_path / "camera_2" / "a.png"


LENSES: dict[str, dict[str, Any]] = {
    "none": {},
    "bent": {"k1": -0.25, "k2": 0.06, "p1": 0.004},
    "fisheye": {"camera_model": "OPENCV_FISHEYE", "k1": 0.06, "k2": -0.01},
}


@pytest.mark.parametrize("name", LENSES)
def test_an_original_shows_what_the_photo_shows(name: str, tmp_path: Path) -> None:
    dataset = _dataset(write_lens_scene(tmp_path / "scene", LARGE | LENSES[name]))
    own = dataset.original_size(3)
    assert own is not None
    found = dataset.original(3, own)
    assert found is not None and found.shape[:2] == own[::-1]
    pinhole = to_pinhole(dataset.cameras[3:4]).resized(*own)
    k = pinhole.intrinsics
    lens = {"w": own[0], "h": own[1], "fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
    lens = {key: float(value) for key, value in lens.items()}
    truth = seen(camera_of(PLACES[3]).position, rays_of(lens, *own))
    error = np.abs(found.numpy() - truth).max(-1)
    assert np.quantile(error, 0.97) < 0.02, error.mean()  # edges of the card aside
    rim = np.concatenate([error[0], error[-1], error[:, 0], error[:, -1]])
    assert np.quantile(rim, 0.95) < 0.03


def test_alpha_is_laid_on_the_scenes_colour_and_kept_without_one(tmp_path: Path) -> None:
    dataset = _dataset(write_scene(tmp_path / "scene", size=(80, 60), mode="RGBA"))
    found = dataset.original(0, (80, 60))
    assert found is not None and found.shape[-1] == 4
    dataset._dataparser_outputs.alpha_color = torch.ones(3)
    laid = dataset.original(0, (80, 60))
    assert laid is not None
    assert torch.allclose(laid, found[..., :3] * found[..., 3:] + 1 - found[..., 3:])


def test_photos_may_be_reduced_bicubically(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", size=(80, 60))
    plain, bicubic = (_dataset(scene, 0.25, **given) for given in ({}, {"reduction": "bicubic"}))
    file = Image.open(plain.image_filenames[0])
    for dataset, resampling in ((plain, Image.Resampling.BILINEAR), (bicubic, Image.Resampling.BICUBIC)):
        assert (dataset.get_numpy_image(0) == np.array(file.resize((20, 15), resampling))).all()
    assert (plain.get_numpy_image(0) != bicubic.get_numpy_image(0)).any()
    assert (read_stored(plain.image_filenames[0], (20, 15)) == plain.get_numpy_image(0)).all()
