"""Training the embedded depth on a tiny scene, and the geometry that it is taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.data.reconstruct import Schedule
from difix3d_ns.data.samples import UnitSamples
from difix3d_ns.data.shards import Sample, find_shards, read_shards, write_shard
from difix3d_ns.data.strategies import make_units, plans, steps_of
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.point_depth import point_depth
from difix3d_ns.geometry.warp import projection_table, reproject
from difix3d_ns.priors.multiview import read_net
from difix3d_ns.priors.networks.depth_net import DepthNet, Estimate, Views, VolumeConv, reprojected
from difix3d_ns.priors.registry import load_depth
from difix3d_ns.training.depth_losses import plane_likelihood
from difix3d_ns.training.prior_recipe import Phase, Recipe, load_recipe
from difix3d_ns.training.systems import create
from difix3d_ns.training.systems.depth import Batch, DepthSystem, _likelihood, _remade
from difix3d_ns.training.train import train
from tests.unit.known_scenes import camera_at
from tests.unit.tiny_depth import NET

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    system="depth",
    network={"net": NET},
    phases=(Phase(("net",), steps=60, learning_rate=3e-3, watch="estimated"),),
    losses={"l1": 1.0},
    batch=1,
    accumulate=2,
    ema=0.9,
    decides="none",
    precision="float32",
)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Photographs of a tabletop."""
    capture = procedural_capture(2, 96)
    (plan,) = plans(capture, ("photographs",))
    (unit,) = make_units(capture, plan, Schedule(60, 800), seed=0)
    assert steps_of(plan, Schedule(60, 800)) == 0
    return list(UnitSamples(capture, unit, 5, 100, {"scene": capture.name, "strategy": unit.strategy}))


@pytest.fixture(scope="module")
def batch(samples: list[Sample]) -> Batch:
    system = DepthSystem(RECIPE)
    return system._whole(system.prepare(samples[4]), torch.device("cpu"))


def test_samples_are_photographs_beside_their_neighbours(samples: list[Sample]) -> None:
    assert len(samples) > 12
    for sample in samples:
        request = sample.request
        assert torch.equal(request.image, sample.truth) and 2 <= len(request.references) <= 5
        assert request.depth is not None and sample.true_depth is not None and sample.reference_true_depths is not None
        known = (request.depth > 0) & (sample.true_depth > 0)
        assert 20 < int(known.sum()) < 2000
        ratio = (request.depth / sample.true_depth)[known]
        assert 0.97 < float(ratio.median()) < 1.03  # some points are hidden, and most are not
        assert all(reference.camera is not None for reference in request.references)


def test_points_in_a_camera() -> None:
    camera = camera_at(0.0, width=40, height=30)
    points = torch.tensor([[0.0, 0, 2], [0, 0, 5], [1, 0.5, 4], [0, 0, -1], [50, 0, 1]])
    depth = point_depth(points, camera)
    assert depth.shape == (30, 40, 1) and sorted(depth[depth > 0].tolist()) == [2.0, 4.0]
    assert (point_depth(torch.zeros(0, 3), camera) == 0).all()


def test_reprojection_is_the_geometry_s() -> None:
    camera, other = camera_at(0.0, width=64, height=48), camera_at(0.7, 0.1, width=80, height=40, yaw=0.2)
    depth = torch.rand(48, 64, generator=torch.Generator().manual_seed(0)) * 4 + 1
    expected, z = reproject(depth, camera, other)
    table = projection_table(camera.resized(2, 2), other).float()
    grid, inside = reprojected(table[None], torch.tensor([[-1.0, -1, 1, 1]]), 1 / depth[None, None])
    torch.testing.assert_close(grid[0, 0], expected.clamp(-2, 2), atol=2e-5, rtol=1e-4)
    assert torch.equal(inside[0, 0] > 0, (expected.abs() < 1).all(-1) & (z > 0))


def test_true_depth_shows_the_photograph_in_its_neighbours(batch: Batch) -> None:
    views = batch.views
    place = (1 / batch.depth.clamp_min(1e-6) - views.far) / (views.near - views.far)
    seen = torch.nn.functional.interpolate(batch.seen, batch.depth.shape[-2:]) > 0
    assert 0.3 < float(seen.float().mean()) < 1
    right, wrong = (
        (_remade(batch, values).permute(2, 0, 1)[None] - batch.pictures[:1]).abs().mean(1, keepdim=True)[seen].median()
        for values in (place, place.roll(7, -1))
    )
    assert right < 0.05 and right < 0.75 * wrong  # exposures differ, and some neighbours are hidden


def test_a_mirrored_scene_is_the_same_scene(samples: list[Sample]) -> None:
    system = DepthSystem(RECIPE)
    prepared = system.prepare(samples[4])
    for seed in range(8):
        drawn = system.draw([prepared], RECIPE.phases[0], torch.Generator().manual_seed(seed))
        place = (1 / drawn.depth.clamp_min(1e-6) - drawn.views.far) / (drawn.views.near - drawn.views.far)
        seen = torch.nn.functional.interpolate(drawn.seen, drawn.depth.shape[-2:]) > 0
        for number in range(1, len(drawn.pictures)):  # exposures differ: shapes are compared
            one = replace_views(drawn, number)
            remade = _remade(one, place).permute(2, 0, 1)[None].mean(1, keepdim=True)[seen]
            own = drawn.pictures[:1].mean(1, keepdim=True)[seen]
            if len(own) > 2000:
                assert float(torch.corrcoef(torch.stack([remade, own]))[0, 1]) > 0.6
        assert drawn.hints.shape[1] == 2 and 1 <= len(drawn.pictures) - 1 <= 4


def test_gradients_in_bfloat16_are_finite(batch: Batch) -> None:
    torch.manual_seed(0)
    net = DepthNet()  # of the package's size: smaller ones never showed it
    with torch.autocast("cpu", torch.bfloat16):
        loss = DepthSystem(RECIPE).loss(net, batch, RECIPE.phases[0], lambda a, b: a.mean())
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def replace_views(drawn: Batch, number: int) -> Batch:
    views = drawn.views
    chosen = Views(views.tables[:, number - 1 : number], views.extents[:, number - 1 : number], views.far, views.near)
    return drawn._replace(pictures=drawn.pictures[[0, number]], views=chosen)


def test_the_truth_has_the_least_loss(batch: Batch) -> None:
    views = batch.views
    place = (1 / batch.depth.clamp_min(1e-6) - views.far) / (views.near - views.far)
    surface = torch.where(batch.depth > 0, 8.0, -8.0)
    sure = torch.full_like(place, -5.0)
    right = _likelihood(Estimate(place, sure, surface), views, batch.depth)
    assert right < _likelihood(Estimate(place + 0.05, sure, surface), views, batch.depth)
    assert right < _likelihood(Estimate(place, sure + 3, surface), views, batch.depth)
    assert right < _likelihood(Estimate(place, sure, -surface), views, batch.depth)
    off = Estimate(place + 0.2, sure, surface)
    assert _likelihood(Estimate(off.place, sure + 3, surface), views, batch.depth) < _likelihood(
        off, views, batch.depth
    )
    quarter = batch.depth[..., 2::4, 2::4]
    level = ((1 / quarter.clamp_min(1e-6) - views.far) / (views.near - views.far)).clamp(0, 1) * 7
    planes = torch.arange(8).view(1, -1, 1, 1)
    logits = -4 * (planes - level).abs()
    good = plane_likelihood(logits, views, quarter, batch.seen)
    assert good < 0.8 < plane_likelihood(logits.flip(1), views, quarter, batch.seen)


def test_trained_weights_are_what_the_prior_reads(samples: list[Sample], tmp_path: Path) -> None:
    write_shard(tmp_path / "shards" / "train" / "table" / "photographs.tar", samples[:6])
    assert len(list(read_shards(find_shards(tmp_path / "shards", "train")))) == 6
    train(RECIPE, tmp_path / "run", tmp_path / "shards", "cpu")
    system = create(RECIPE)
    trained, fresh = DepthNet(**NET), system.build()
    trained = read_net(str(tmp_path / "run"))
    assert isinstance(system, DepthSystem) and isinstance(fresh, DepthNet)
    batches = [system._whole(system.prepare(sample), torch.device("cpu")) for sample in samples[:6]]
    with torch.no_grad():
        before, after = (
            sum(float(system.loss(net, one, RECIPE.phases[0], lambda a, b: a.mean())) for one in batches)
            for net in (fresh, trained)
        )
    assert after < before - 1
    prior = load_depth("multiview", str(tmp_path / "run"))
    assert prior.steps_left(prior.start([samples[0].request.references[0]])) == 2
    for name in ("swept", "estimated"):
        shown = system.pictures(trained)[name](samples[0])
        assert shown.shape == samples[0].truth.shape and shown.isfinite().all()


def test_the_package_s_recipe_names_what_there_is() -> None:
    recipe = load_recipe("depth")
    assert recipe.batch == 1 and isinstance(create(recipe).build(), DepthNet)
    with pytest.raises(UserError, match="batch is 1"):
        create(replace(recipe, batch=2))
    with pytest.raises(UserError, match=r"network\.net"):
        create(replace(recipe, network={"net": {"planets": 9}})).build()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("planes", [1, 5, 6])
def test_volumes_are_convolved_as_by_conv3d(stride: int, planes: int) -> None:
    ours, volume = VolumeConv(3, 4, stride), torch.randn(2, 3, planes, 9, 8)
    theirs = torch.nn.Conv3d(3, 4, 3, stride, 1)
    theirs.bias.data = ours.bias.data
    theirs.weight.data = ours.weight.data.unflatten(1, (3, 3)).transpose(1, 2)
    assert torch.allclose(ours(volume), theirs(volume), atol=1e-5)
