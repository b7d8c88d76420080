"""Samples of orbits, and training their refiner on a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator

from difix3d_ns.data.curate import curate
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.data.orbit_samples import FRAMES, orbit_capture
from difix3d_ns.data.shards import Sample, read_shards
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.orbits import look_at_point, surrounding
from difix3d_ns.priors.base import OrbitFrame, OrbitRefiner
from difix3d_ns.priors.registry import load_prior
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.systems.hi3d import Hi3D
from difix3d_ns.training.train import train
from tests.unit.known_scenes import camera_at, photograph
from tests.unit.tiny_fixers import SCHEDULER
from tests.unit.tiny_residual import NET, write_residual

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 64


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The orbit of one object."""
    output = tmp_path_factory.mktemp("orbits")
    options = CurationOptions(strategies=("orbit",), split="train", long_side=SIDE, steps=40, max_gaussians=800)
    reports = curate(["orbit-seed:1"], output, options)
    assert reports["orbit_00001"].samples == {"orbit": 1}
    return output


@pytest.fixture(scope="module")
def sample(shards: Path) -> Sample:
    (found,) = read_shards([shards / "train" / "orbit_00001" / "orbit.tar"])
    return found


def recipe(start: Path, steps: int = 12) -> Recipe:
    return Recipe(
        system="hi3d",
        network={"net": NET, "scheduler": SCHEDULER},
        phases=(Phase(("net",), steps=steps, learning_rate=2e-3, watch="refined"),),
        losses={"gradient": 1.0},
        start=str(start),
        crop=48,
        batch=2,
        ema=0.9,
        decides="none",
        precision="float32",
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_an_object_is_photographed_from_a_ring(seed: int) -> None:
    """Some on ground, the others before white; the orbit goes all around and repeats no photo."""
    capture = orbit_capture(seed, 32)
    train_cameras, orbit = ([capture.cameras[i] for i in places] for places in (capture.train, capture.test))
    assert 6 <= len(train_cameras) <= 12 and len(orbit) == FRAMES and surrounding(orbit)
    centre = look_at_point(orbit)
    distances = torch.stack([camera.position.double() - centre for camera in orbit]).norm(dim=1)
    assert float(distances.std() / distances.mean()) < 1e-3
    assert (capture.background is None) == (capture.masks is None) == (seed == 2)
    if capture.masks is not None:
        outside = capture.images[0][capture.masks[0][..., 0] == 0]
        assert len(outside) > 100 and (outside == 1).all()
    nearest = min(float((a.position - b.position).norm()) for a in train_cameras for b in orbit)
    assert nearest > 1e-4


def test_a_sample_is_a_whole_orbit(sample: Sample) -> None:
    assert sample.truth.shape == (FRAMES * SIDE, SIDE, 3) == sample.request.image.shape
    assert sample.provenance["frames"] == FRAMES and sample.provenance["strategy"] == "orbit"
    assert sample.request.depth is not None and sample.true_depth is not None
    both = (sample.request.depth > 0) & (sample.true_depth > 0)
    off = (sample.request.depth[both] / sample.true_depth[both] - 1).abs()
    assert both.float().mean() > 0.1 and float(off.median()) < 0.1


def test_batches_are_crops_of_frames(sample: Sample, tmp_path: Path) -> None:
    system = Hi3D(recipe(write_residual(tmp_path)))
    prepared = [system.prepare(sample)] * 2
    drawn = [system.draw(prepared, recipe(tmp_path).phases[0], Generator().manual_seed(seed)) for seed in range(12)]
    assert {tuple(batch.truth.shape) for batch in drawn} == {(2, 3, 48, 48)}
    assert {tuple(batch.low.shape) for batch in drawn} == {(2, 3, 24, 24)}
    assert all(float(one.std()) > 0.01 for batch in drawn for one in batch.truth)  # they show something
    assert len({batch.depth.shape for batch in drawn}) == 1 and drawn[0].depth.max() <= 1.5
    assert {bool(flag) for batch in drawn for flag in batch.from_start} == {True, False}


def test_training_begins_with_the_upscaler_and_ends_in_a_refiner(shards: Path, tmp_path: Path) -> None:
    (start := tmp_path / "start").mkdir()
    write_residual(start)
    before = Hi3D(recipe(start)).build()
    assert not before.enter.weight[:, -16:].any()  # it knows nothing of depth
    train(recipe(start), tmp_path / "run", shards, "cpu")
    refiner = load_prior.__wrapped__(OrbitRefiner, "hi3d", str(tmp_path / "run"))
    after = refiner.net  # type: ignore[attr-defined]
    assert after.extra == 16 and after.enter.weight[:, -16:].any()
    shown = [photograph(camera_at(0.1 * number, width=24, height=18))[0] for number in range(3)]
    state = refiner.start([OrbitFrame(one.image, one.pose, one.depth) for one in shown])
    while refiner.steps_left(state):
        state = refiner.step(state)
    assert [tuple(one.shape) for one in refiner.result(state)] == [(36, 48, 3)] * 3


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    write_residual(other, {**NET, "widths": [8, 12]})
    with pytest.raises(UserError, match=r"--start: .* do not fit"):
        Hi3D(recipe(other)).build()
