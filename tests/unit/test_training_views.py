"""Training the networks that predict views on a tiny scene, and the geometry that they are taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.data.reconstruct import Schedule
from difix3d_ns.data.samples import UnitSamples
from difix3d_ns.data.shards import Sample, write_shard
from difix3d_ns.data.strategies import make_units, plans
from difix3d_ns.errors import UserError
from difix3d_ns.priors.base import ViewGenerator
from difix3d_ns.priors.networks.diffusion import cosine_signal
from difix3d_ns.priors.networks.eft_net import warped
from difix3d_ns.priors.networks.view_denoiser import ViewDenoiser
from difix3d_ns.priors.registry import load_fixer, load_view_generator
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.systems.eft import Batch, EpipolarSystem
from difix3d_ns.training.systems.sparsefusion import SparseFusionSystem
from difix3d_ns.training.train import train
from tests.unit.tiny_views import DENOISER, EFT, write_eft

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    system="eft",
    network={"net": EFT},
    phases=(Phase(("net",), steps=25, learning_rate=3e-3, watch="predicted"),),
    losses={"l1": 1.0},
    batch=1,
    ema=0.9,
    decides="none",
    precision="float32",
)


def _seen(batch: Batch) -> Tensor:
    return torch.nn.functional.interpolate(batch.seen, batch.depth.shape[-2:]) > 0


def _remade(batch: Batch) -> Tensor:
    """The request as its photographs show the true surfaces, mean of those that have it in their picture."""
    inverse = 1 / batch.depth.clamp_min(1e-6)
    shown, inside = warped(list(batch.pictures.split(1)), batch.views, inverse)
    return (shown * inside).sum(0, keepdim=True) / inside.sum(0, keepdim=True).clamp_min(1)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Photographs of an object on ground."""
    capture = procedural_capture(3, 96, kind="grounded")
    (plan,) = plans(capture, ("photographs",))
    (unit,) = make_units(capture, plan, Schedule(60, 800), seed=0)
    return list(UnitSamples(capture, unit, 8, 8, {"scene": capture.name, "strategy": unit.strategy}))


@pytest.fixture(scope="module")
def system() -> EpipolarSystem:
    return EpipolarSystem(replace(RECIPE, start=None))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("photo", [0, 3])
def test_requests_are_the_scene_mirrored_or_not(
    mirrored: bool, photo: int, samples: list[Sample], system: EpipolarSystem
) -> None:
    """A photograph and the request agree where both see the surface: cameras, depth and pictures fit."""
    prepared = system.prepare(samples[2])
    batch = system._batch(prepared, torch.tensor([photo]), None, mirrored)
    seen = _seen(batch)[0, 0]
    right, shifted = (
        float(torch.corrcoef(torch.stack([remade.mean(1)[0][seen], batch.truth.mean(1)[0][seen]]))[0, 1])
        for remade in (_remade(batch), _remade(batch).roll(5, -1))
    )
    assert int(seen.sum()) > 1500 and right > 0.7 > 0.6 > shifted


def test_requests_are_drawn_with_several_numbers_of_photographs(samples: list[Sample], system: EpipolarSystem) -> None:
    prepared = system.prepare(samples[2])
    drawn = [system.draw([prepared], RECIPE.phases[0], Generator().manual_seed(seed)) for seed in range(30)]
    assert {len(one.pictures) for one in drawn} == {1, 2, 3, 4}
    known = [float(one.hints[:, 1].mean()) for one in drawn]
    assert min(known) == 0 and max(known) > 0.3  # no points, and depth of the photographs


def test_points_are_depth_of_the_request(samples: list[Sample], system: EpipolarSystem) -> None:
    prepared, errors = system.prepare(samples[2]), []
    for seed in range(12):
        drawn = system.draw([prepared], RECIPE.phases[0], Generator().manual_seed(seed))
        place = (1 / drawn.depth.clamp_min(1e-6) - drawn.views.far) / (drawn.views.near - drawn.views.far)
        quarter = place[..., 2::4, 2::4]
        known = (drawn.hints[:, 1:] > 0) & (drawn.seen > 0)
        errors.append((drawn.hints[:, :1] - quarter)[known].abs())
    assert float(torch.cat(errors).median()) < 0.1 and len(torch.cat(errors)) > 500


def test_rays_and_tables_are_of_one_camera(samples: list[Sample], system: EpipolarSystem) -> None:
    """The point on a ray, seen from a photograph's centre, lies in the direction at which the table places it."""
    batch = system.whole(samples[1], torch.device("cpu"))
    inverse = torch.full((1, 1, *batch.rays.slopes.shape[-2:]), float(batch.views.far + batch.views.near) / 2)
    points = batch.rays.slopes * (batch.rays.middle / inverse[0, 0])  # [3, h, w] in units of the middle depth
    torch.testing.assert_close(points[2], torch.ones_like(points[2]))
    assert (batch.rays.centres.norm(dim=1) > 0.01).all()  # no photograph stands where the request does


def test_the_truth_has_the_least_loss_of_a_trained_network(samples: list[Sample], tmp_path: Path) -> None:
    """A few steps lower the loss, and the weights are what priors read."""
    write_shard(tmp_path / "shards" / "train" / "object" / "photographs.tar", samples)
    start = write_eft(tmp_path_made(tmp_path / "start"))
    recipe = replace(RECIPE, start=str(start))
    system = EpipolarSystem(recipe)
    train(recipe, tmp_path / "run", tmp_path / "shards", "cpu")
    fresh = system.build()
    trained = EpipolarSystem(replace(RECIPE, start=str(tmp_path / "run"))).build()
    batches = [system.whole(sample, torch.device("cpu")) for sample in samples]
    with torch.no_grad():
        before, after = (
            sum(float(system.loss(net, one, RECIPE.phases[0], lambda a, b: (a - b).abs().mean())) for one in batches)
            for net in (fresh, trained)
        )
    assert after < 0.8 * before
    for name in system.variants:
        picture = system.pictures(trained)[name](samples[0])
        assert picture.shape == samples[0].truth.shape and picture.isfinite().all()
    request = replace(samples[0].request, image=torch.zeros_like(samples[0].request.image))
    fixed = load_fixer("eft", str(tmp_path / "run")).fix([request])[0]
    assert fixed.image.shape == request.image.shape and fixed.image.isfinite().all()
    generator: ViewGenerator = load_view_generator("epipolar-views", str(tmp_path / "run"))
    assert generator.steps_left(generator.start(request.references, [request.camera] * 2)) == 2  # type: ignore[list-item]


def tmp_path_made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_diffusion_model_learns_what_predictions_lack(samples: list[Sample], tmp_path: Path) -> None:
    write_shard(tmp_path / "shards" / "train" / "object" / "photographs.tar", samples)
    eft = write_eft(tmp_path_made(tmp_path / "eft"))
    net = {name: value for name, value in DENOISER.items() if name != "hidden"}
    recipe = replace(RECIPE, system="sparsefusion", network={"net": net, "eft": str(eft)})
    train(recipe, tmp_path / "run", tmp_path / "shards", "cpu")
    assert {path.name for path in (tmp_path / "run").glob("*.safetensors")} >= {
        "weights.safetensors",
        "eft.safetensors",
    }
    system = SparseFusionSystem(recipe)
    fresh = system.build()
    trained = SparseFusionSystem(replace(recipe, start=str(tmp_path / "run"))).build()
    generator = Generator().manual_seed(0)
    drawn = [system.draw([system.prepare(sample)], RECIPE.phases[0], generator) for sample in samples]
    with torch.no_grad():
        before, after = (
            sum(float(system.loss(nets, one, RECIPE.phases[0], lambda a, b: a.mean() * 0)) for one in drawn)
            for nets in (fresh, trained)
        )
    assert after < 0.9 * before
    pictures = system.pictures(trained)
    for name in system.variants:
        assert pictures[name](samples[0]).shape == samples[0].truth.shape
    made = load_view_generator("sparsefusion", str(tmp_path / "run"))
    state = made.start(samples[0].request.references, [samples[0].request.camera], noise=0.5)  # type: ignore[list-item]
    assert made.steps_left(state) == 6  # a prediction, and five levels of noise


def test_levels_of_the_cosine_schedule() -> None:
    """Numbers of the released code's schedule at these times, to three digits."""
    times = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    expected = torch.tensor([0.972, 0.847, 0.494, 0.144, 0.024], dtype=torch.float64)
    torch.testing.assert_close(cosine_signal(times), expected, atol=6e-4, rtol=0)
    assert 0 < float(cosine_signal(torch.tensor(1.0))) < 1e-3 and float(cosine_signal(torch.tensor(0.0))) < 1


def test_latents_go_round() -> None:
    denoiser = ViewDenoiser(**DENOISER)
    generator = Generator().manual_seed(0)
    picture, predicted = (torch.rand(1, 3, 32, 48, generator=generator) for _ in range(2))
    latent = denoiser.encode(picture, predicted)
    assert latent.shape == (1, 48, 8, 12)
    torch.testing.assert_close(denoiser.decode(latent, predicted), picture)
    hidden = torch.zeros(1, 8, 8, 12)
    conditions = denoiser.conditions(predicted, hidden, torch.zeros(1, 3, 32, 48))
    noise = torch.randn(1, 48, 8, 12, generator=generator)
    almost_none = denoiser(noise, conditions, torch.tensor([1e-6]))
    assert almost_none.abs().max() < 0.01  # new, and shown noise alone, it makes up nothing


def test_mistakes_in_recipes_are_told() -> None:
    with pytest.raises(UserError, match="batch is 1"):
        EpipolarSystem(replace(RECIPE, batch=2))
    with pytest.raises(UserError, match=r"network\.net is no configuration"):
        EpipolarSystem(replace(RECIPE, network={"net": {"plaens": 3}})).build()
    with pytest.raises(UserError, match="does not fit"):
        EpipolarSystem(replace(RECIPE, start="nowhere")).build()
