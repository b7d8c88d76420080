"""Evaluation of a splat that is meant to be rendered larger than the photos it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.runs import evaluate
from difix3d_ns.guidance.base import GuidanceConfig
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.ns.larger_views import LargerViews
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.ns.photo_dataset import PhotoDataset
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import datamanager, write_scene
from tests.unit.tiny_splat import tiny_model


@dataclass
class EnlargingConfig(GuidanceConfig):
    """States a factor and nothing else."""

    @property
    def factor(self) -> float:
        return 2.0


def _photos(folder: Path, factor: float, **settings: Any) -> PhotoDataset:
    return datamanager(write_scene(folder, size=(80, 60), **settings), camera_res_scale_factor=factor).train_dataset


def _measured(model: SplatModel, photos: PhotoDataset, index: int = 1) -> tuple[dict[str, float], dict[str, Tensor]]:
    outputs = model.get_outputs_for_camera(photos.cameras[index : index + 1])
    return model.get_image_metrics_and_images(outputs, {"image": photos.get_image_float32(index), "image_idx": index})


@pytest.fixture
def model(no_weights: Path) -> SplatModel:
    """A splat whose training is over."""
    model = tiny_model(count=60).eval()
    del model.optimizers
    return model


def test_the_larger_render_is_reduced_to_the_photo_and_compared_with_the_original(
    model: SplatModel, tmp_path: Path
) -> None:
    photos = _photos(tmp_path / "scene", 0.25)
    plain, _ = _measured(model, photos)
    model.larger = LargerViews(photos, 4.0)
    metrics, images = _measured(model, photos)
    camera = model.larger.camera(1)
    assert (camera.width, camera.height) == (80, 60)
    render = model.get_outputs_for_camera(to_cameras(camera))["rgb"].detach()
    pixels = Image.fromarray((render * 255).round().byte().numpy()).resize((20, 15), Image.Resampling.BICUBIC)
    reduced = torch.from_numpy(np.array(pixels)) / 255
    expected = image_metrics(reduced, photos.get_image_float32(1))
    assert metrics["psnr"] == pytest.approx(expected["psnr"], abs=0.05)  # Pillow rounds to 8 bits
    assert metrics["flip"] == pytest.approx(expected["flip"], abs=5e-3)
    assert metrics["psnr"] != plain["psnr"]
    truth = torch.from_numpy(np.array(Image.open(photos.image_filenames[1]))) / 255
    full = image_metrics(render, truth)
    assert {key: metrics[f"full_{key}"] for key in full} == pytest.approx(full, abs=1e-5)
    assert images["img"].shape == (15, 40, 3) and images["full"].shape == (60, 160, 3)


def test_an_original_between_both_sizes_is_compared_at_its_own(model: SplatModel, tmp_path: Path) -> None:
    photos = _photos(tmp_path / "scene", 0.5)
    model.larger = LargerViews(photos, 4.0)
    metrics, images = _measured(model, photos)
    assert images["full"].shape == (60, 160, 3) and metrics["full_psnr"] > 0


def test_one_photo_without_a_larger_file_leaves_the_full_size_out(model: SplatModel, tmp_path: Path) -> None:
    photos = _photos(tmp_path / "scene", 0.5)
    image = Image.open(photos.image_filenames[2])
    image.resize((40, 30)).save(photos.image_filenames[2])
    model.larger = LargerViews(photos, 2.0)
    assert not [key for key in _measured(model, photos)[0] if key.startswith("full_")]
    model.larger = LargerViews(_photos(tmp_path / "none", 1.0), 2.0)
    assert {"psnr", "ssim", "flip"} == set(_measured(model, photos)[0])


def test_evaluation_between_steps_leaves_it_out(no_weights: Path, tmp_path: Path) -> None:
    model, photos = tiny_model().eval(), _photos(tmp_path / "scene", 0.25)
    model.enhancer = lambda camera, image: image * 0.5
    model.larger = LargerViews(photos, 4.0)
    metrics, images = _measured(model, photos)
    assert {"psnr", "ssim", "flip"} == set(metrics) and set(images) == {"img"}


def test_the_enhanced_picture_is_reduced_as_well(model: SplatModel, tmp_path: Path) -> None:
    photos, sizes = _photos(tmp_path / "scene", 0.25), []

    def enhancer(camera: Any, image: Tensor) -> Tensor:
        sizes.append(tuple(image.shape[:2]))
        return image * 0.5

    model.enhancer, model.larger = enhancer, LargerViews(photos, 4.0)
    metrics, images = _measured(model, photos)
    assert sizes == [(60, 80)] and images["enhanced"].shape == (15, 40, 3)
    assert metrics["enhanced_psnr"] != metrics["psnr"]


def test_pictures_with_alpha_stand_before_the_renders_background(model: SplatModel, tmp_path: Path) -> None:
    photos = _photos(tmp_path / "scene", 0.5, mode="RGBA")
    model.larger = LargerViews(photos, 2.0)
    _, images = _measured(model, photos)
    rgba = torch.from_numpy(np.array(Image.open(photos.image_filenames[1]))) / 255
    expected = rgba[..., :3] * rgba[..., 3:] + model.background_color * (1 - rgba[..., 3:])
    assert torch.allclose(images["full"][:, :80], expected, atol=1e-5)


@pytest.mark.slow
def test_the_guidance_states_the_factor(no_weights: Path, tmp_path: Path) -> None:
    config = short_config(write_scene(tmp_path / "scene", size=(80, 60)), steps=2)
    config.pipeline.datamanager.camera_res_scale_factor = 0.5
    plain = train(config).pipeline
    assert GuidanceConfig().factor == 1 and plain.model.larger is None
    config.pipeline.guidance, config.timestamp = EnlargingConfig(), "larger"
    pipeline = train(config).pipeline
    assert pipeline.model.larger is not None
    del pipeline.model.optimizers
    found = pipeline.get_average_eval_image_metrics()
    assert found["full_psnr"] > 0 and "full_psnr" not in plain.get_average_eval_image_metrics()


@pytest.mark.slow
def test_held_out_views_are_rendered_at_the_size_asked_for(no_weights: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", size=(80, 60))
    config = short_config(scene, steps=2)
    config.pipeline.datamanager.camera_res_scale_factor = 0.25
    config.pipeline.datamanager.reduction = "bicubic"
    path = train(config).base_dir / "config.yml"
    as_trained = evaluate(path, enhance=False)
    assert as_trained.trained_size == (20, 15)
    (view,) = as_trained.views
    assert view.truth.shape == (15, 20, 3) and view.low is None and view.enlarged is None
    (larger,) = evaluate(path, enhance=False, long_side=80).views
    truth = torch.from_numpy(np.array(Image.open(scene / "images" / larger.name))) / 255
    assert torch.allclose(larger.truth, truth, atol=1e-6) and larger.render.shape == (60, 80, 3)
    assert larger.low is not None and torch.equal(larger.low, view.truth)
    enlarged = larger.enlarged
    assert enlarged is not None and enlarged.shape == (60, 80, 3)
    assert (enlarged - truth).abs().mean() < 0.1
    (smaller,) = evaluate(path, enhance=False, long_side=16).views
    assert smaller.truth.shape == smaller.render.shape == (12, 16, 3) and smaller.low is None
    with pytest.raises(UserError, match=r"frame_004\.png has a long side of 80 pixels where .* long_side is 160"):
        evaluate(path, enhance=False, long_side=160)
