"""Pairs: a splat that learns, samples with the documented keys, restarts, and errors that name the remedy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from difix3d_ns.curation.capture import _object_masks, load_capture
from difix3d_ns.curation.pairs import WORTHLESS, PairOptions, make_pairs
from difix3d_ns.curation.procedural import photograph_world, training_world, write_views
from difix3d_ns.curation.reconstruct import Schedule, _similarity, reconstruct

STEPS = 60


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "yard"
    rng = np.random.default_rng(0)
    views = photograph_world(training_world(3), rng, width=96, height=64, train_views=6, test_views=4, label=None)
    return write_views(views, folder, rng, points=800, image_format="png")


@pytest.fixture(scope="module")
def pairs(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    options = PairOptions(long_side=96, steps=STEPS, max_gaussians=1500, references=3, prefix="val_")
    return root, options, make_pairs(str(dataset), root, options)


def test_capture_is_read_as_written(dataset):
    capture = load_capture(str(dataset), 48)
    assert capture.images.shape == (10, 32, 48, 3)
    assert (len(capture.train), len(capture.test)) == (6, 4)
    full = load_capture(str(dataset), 500)  # never enlarged
    assert full.images.shape[1:3] == (64, 96)
    assert full.cameras[0].intrinsics[0, 0] == pytest.approx(2 * capture.cameras[0].intrinsics[0, 0].item())
    assert torch.allclose(capture.cameras[0].camera_to_world[:3, :3].det(), torch.tensor(1.0), atol=1e-5)
    assert capture.cameras[0].forward[1] > 0  # into the courtyard: axes are OpenCV's


def test_reconstruction_learns_and_keeps_to_its_cap(dataset):
    capture = load_capture(str(dataset), 96)
    seen = []
    splats = reconstruct(
        capture, capture.train, Schedule(150, max_gaussians=1000), snapshots=(0.25,), on_step=lambda: seen.append(1)
    )
    assert len(seen) == 150
    error = {}
    for share, splat in splats.items():
        image, depth, alpha = splat.render(capture.cameras[capture.train[0]])
        assert image.shape == (64, 96, 3)
        assert depth.shape == alpha.shape == (64, 96, 1)
        error[share] = (image - capture.images[capture.train[0]]).square().mean()
    assert error[1.0] < 0.7 * error[0.25]
    assert len(splats[1.0].means) <= 1000
    assert len(splats[1.0].means) > len(capture.points)


def test_reconstruction_needs_views_and_points(dataset):
    capture = load_capture(str(dataset), 96)
    with pytest.raises(ValueError, match="too few"):
        reconstruct(capture, capture.train[:1])


def test_similarity_is_one_for_equal_images_and_falls_with_noise():
    image = torch.rand(40, 50, 3, generator=torch.Generator().manual_seed(0))
    noisy = (image + 0.2 * torch.randn(40, 50, 3, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert _similarity(image, image) == pytest.approx(1, abs=1e-5)
    assert _similarity(image, noisy) < 0.9
    assert _similarity(image, 1 - image) < 0


def test_samples_have_the_documented_keys(pairs):
    root, _, summaries = pairs
    assert {"full", "full_25", "full_50", "full_75", "half_a", "half_b"} == set(summaries)
    files = sorted((root / "val_yard").glob("*/*.npz"))
    assert len(files) == sum(s["samples"] for s in summaries.values()) > 0
    wanted = {
        "image": (np.uint16, (64, 96, 3)),
        "truth": (np.uint8, (64, 96, 3)),
        "depth": (np.float16, (64, 96)),
        "alpha": (np.uint8, (64, 96)),
        "camera_to_world": (np.float32, (4, 4)),
        "intrinsics": (np.float32, (3, 3)),
        "ref_image": (np.uint8, (3, 64, 96, 3)),
        "ref_depth": (np.float16, (3, 64, 96)),
        "ref_alpha": (np.uint8, (3, 64, 96)),
        "ref_camera_to_world": (np.float32, (3, 4, 4)),
        "ref_intrinsics": (np.float32, (3, 3, 3)),
    }
    for file in files:
        with np.load(file) as sample:
            assert {k: (sample[k].dtype.type, sample[k].shape) for k in sample.files} == wanted
            error = np.mean((sample["image"] / 65535 - sample["truth"] / 255) ** 2)
            assert -10 * np.log10(error) > WORTHLESS - 0.01
            assert np.isfinite(sample["depth"]).all()


def test_a_view_is_never_its_own_reference_nor_trained_on(pairs, dataset):
    root, _, _ = pairs
    capture = load_capture(str(dataset), 96)
    for file in sorted((root / "val_yard").glob("*/*.npz")):
        index = int(file.stem)
        with np.load(file) as sample:
            np.testing.assert_allclose(sample["camera_to_world"], capture.cameras[index].camera_to_world, atol=1e-6)
            for pose in sample["ref_camera_to_world"]:
                assert not np.allclose(pose, sample["camera_to_world"])
        trained = {"full": capture.train, "half_a": capture.train[::2], "half_b": capture.train[1::2]}
        assert index not in trained[file.parent.name.partition("_2")[0].partition("_5")[0].partition("_7")[0]]


def test_restart_makes_only_what_is_missing(pairs, dataset):
    root, options, before = pairs
    untouched = root / "val_yard/full/summary.json"
    stamp = untouched.stat().st_mtime_ns
    (root / "val_yard/half_b/summary.json").unlink()
    after = make_pairs(str(dataset), root, options)
    assert set(after) == set(before)
    assert untouched.stat().st_mtime_ns == stamp
    assert after["half_b"]["psnr"] == pytest.approx(before["half_b"]["psnr"], abs=0.01)
    assert not list(root.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("scene", "error", "message"),
    [
        ("procedural:x", ValueError, "procedural:SEED"),
        ("nowhere", FileNotFoundError, "transforms.json does not exist"),
    ],
)
def test_bad_scenes_are_named(scene, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_capture(scene, 96)


def test_a_dataset_without_held_out_views_or_points_is_named(dataset, tmp_path):
    transforms = json.loads((dataset / "transforms.json").read_text())
    for name in ("images", "sparse_pc.ply"):
        (tmp_path / name).symlink_to(dataset / name)
    (tmp_path / "transforms.json").write_text(json.dumps(transforms | {"test_filenames": []}))
    with pytest.raises(ValueError, match="test_filenames"):
        load_capture(str(tmp_path), 96)
    (tmp_path / "transforms.json").write_text(json.dumps(transforms))
    (tmp_path / "sparse_pc.ply").unlink()
    with pytest.raises(FileNotFoundError, match=r"sparse_pc\.ply"):
        load_capture(str(tmp_path), 96)


def test_object_masks_keep_the_object_and_drop_shadows_and_specks():
    image = torch.full((1, 60, 60, 3), 0.97)
    image[0, 40:50, 10:50] = 0.75  # a shadow on white
    image[0, 2, 2] = 0.0  # a speck
    image[0, 15:40, 20:40] = torch.tensor([0.6, 0.4, 0.2])
    mask = _object_masks(image)[0, ..., 0]
    assert mask[16:39, 21:39].all()
    assert not mask[42:50].any()
    assert mask[2, 2] == 0
