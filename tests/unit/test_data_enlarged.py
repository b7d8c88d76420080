"""Samples for upscalers: what a splat of smaller photographs shows where larger ones were taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.data.enlarged import ENLARGEMENTS, Stills, enlarged, reduced
from difix3d_ns.data.options import STRATEGIES, CurationOptions
from difix3d_ns.data.procedural.sample_pictures import PICTURES, load_picture, picture_names
from difix3d_ns.data.reconstruct import Schedule
from difix3d_ns.data.samples import UnitSamples
from difix3d_ns.data.scene_names import expand
from difix3d_ns.data.strategies import make_units, plans
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.geometry.spacing import evenly_spaced


@pytest.fixture(scope="module")
def capture():
    return procedural_capture(3, 64)


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(-10 * (first - second).square().mean().log10())


def test_an_enlarged_photograph_agrees_with_its_reduction(capture):
    for image, truth in zip(enlarged(capture, 4).images, capture.images, strict=True):
        assert image.shape == truth.shape and not torch.equal(image, truth)
        small, true = (
            resample(x.permute(2, 0, 1)[None], x.shape[0] // 4, x.shape[1] // 4).clamp(0, 1) for x in (image, truth)
        )
        assert (small - true).square().mean().sqrt() < 1 / 255


def test_reduced_photographs_keep_their_view(capture):
    masks = [torch.ones_like(image[..., :1]) for image in capture.images]
    small = reduced(replace(capture, masks=masks), 4)
    for camera, image, mask, before in zip(small.cameras, small.images, small.masks, capture.cameras, strict=True):
        assert image.shape[:2] == mask.shape[:2] == (camera.height, camera.width)
        assert camera.width == before.width // 4
        assert torch.equal(camera.camera_to_world, before.camera_to_world)
        assert camera.intrinsics[0, 0] == pytest.approx(before.intrinsics[0, 0] / 4)


@pytest.mark.slow
def test_units_are_seen_where_photographs_were_taken(capture):
    found = [plan for plan in plans(capture, ("enlarged",))]
    assert [name for plan in found for name in plan.units] == [*ENLARGEMENTS]
    units = {unit.name: unit for plan in found for unit in make_units(capture, plan, Schedule(60, 800), seed=0)}
    assert units["enlarged_4"].poses == units["enlarged_2"].poses == capture.train
    assert units["reduced_4"].poses == sorted([*capture.train, *capture.test])
    for unit in units.values():
        assert unit.splat.mode == "antialiased"
        made = list(UnitSamples(capture, unit, 3, 100, {"scene": capture.name}))
        assert made and not any(sample.request.references for sample in made)
        view = int(made[0].key[-4:])
        assert torch.equal(made[0].truth, capture.images[view])
        assert torch.equal(made[0].request.image, unit.splat.render(capture.cameras[view])[0])


def test_fixers_get_no_enlarged_scenes_unasked():
    assert "enlarged" not in STRATEGIES and CurationOptions().strategies == STRATEGIES
    assert "supersampling" not in CurationOptions().settings()  # samples made before it was there stay good
    assert CurationOptions(supersampling=2).settings()["supersampling"] == 2


def test_sample_pictures_are_parts_of_those_for_training():
    (scene,) = expand(["sample-pictures"])
    capture = scene.load(CurationOptions(long_side=160, strategies=("enlarged",)))
    assert all(max(image.shape[:2]) <= 160 and image.shape[2] == 3 for image in capture.images)
    first = torch.from_numpy(load_picture(picture_names("train")[0], "train").copy()).float() / 255
    assert torch.equal(capture.images[0], first[: capture.images[0].shape[0], : capture.images[0].shape[1]])
    assert len(capture.images) <= 12 * sum(split == "train" for _, _, split, _ in PICTURES.values())
    (plan,) = plans(capture, ("enlarged",))
    assert plans(capture, STRATEGIES) == []
    (unit,) = make_units(capture, plan, Schedule(60, 800), seed=0)
    assert isinstance(unit.splat, Stills) and not unit.references
    samples = list(UnitSamples(capture, unit, 3, 4, {"scene": "sample_pictures"}))
    assert [sample.key[-4:] for sample in samples] == [f"{n:04d}" for n in evenly_spaced(len(capture.images), 4)]
    assert all(15 < psnr(sample.request.image, sample.truth) < 60 for sample in samples)


@pytest.mark.slow
def test_supersampled_photographs_are_of_the_same_views(capture):
    finer = procedural_capture(3, 64, 2)
    assert len(finer.images) == len(capture.images)
    for one, other in zip(finer.images, capture.images, strict=True):
        assert one.shape == other.shape and 20 < psnr(one, other) < 60
    depth, true = finer.depths[0], capture.depths[0]
    assert depth.shape == true.shape
    assert ((depth / true - 1).abs()[(depth > 0) & (true > 0)] < 0.05).float().mean() > 0.9
