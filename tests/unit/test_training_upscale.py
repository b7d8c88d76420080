"""Training the embedded upscaler on a handful of tiny samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from difix3d_ns.data.shards import Sample, find_shards, read_shards, write_shard
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.networks.residual_net import ResidualNet
from difix3d_ns.priors.registry import load_upscaler
from difix3d_ns.training.losses import Losses
from difix3d_ns.training.prior_recipe import Phase, Recipe, load_recipe
from difix3d_ns.training.systems import create
from difix3d_ns.training.systems.upscale import FACTORS, Batch, Prepared, Upscale, upscaled
from difix3d_ns.training.train import train
from tests.unit.known_scenes import picture
from tests.unit.tiny_fixers import SCHEDULER
from tests.unit.tiny_residual import NET, write_residual

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    system="upscale",
    network={"net": {**NET, "widths": [16, 16]}, "scheduler": SCHEDULER},
    phases=(Phase(("net",), steps=150, learning_rate=2e-3, watch="first"),),
    losses={"gradient": 0.5},
    crop=48,
    batch=2,
    ema=0.9,
    validate_steps=60,
    watch_samples=2,
    precision="float32",
)


def prepared(factor: int = 4) -> Prepared:
    truth, render = (to_bytes(picture(56, 72, seed)) for seed in (1, 2))
    return Prepared(render, truth, torch.tensor(factor))


def to_bytes(image: torch.Tensor) -> torch.Tensor:
    return (image.permute(2, 0, 1) * 255).round().byte()


def draws(count: int, factor: int = 4) -> list[Batch]:
    system = Upscale(RECIPE)
    return [system.draw([prepared(factor)], RECIPE.phases[0], torch.Generator().manual_seed(i)) for i in range(count)]


def test_photographs_are_reduced_truths_and_some_begin_from_renders():
    batches = draws(60)
    factors = [batch.truth.shape[-1] / batch.low.shape[-1] for batch in batches]
    assert {*factors} == {*FACTORS}
    errors = []
    for batch in batches:
        reduced = resample(batch.truth, *batch.low.shape[-2:])
        errors.append(float((reduced - batch.low).abs().max()))
    assert 0.6 < sum(error < 2.1 / 255 for error in errors) / len(errors) < 0.95  # the others are worse photographs
    rendered = [not torch.equal(batch.shown, batch.truth) for batch in batches]
    assert any(rendered) and not any(own and factor <= 2 for own, factor in zip(rendered, factors, strict=True))
    smaller = [b for b in draws(60, 2) if not torch.equal(b.shown, b.truth)]
    assert smaller and all(b.truth.shape[-1] / b.low.shape[-1] <= 2 for b in smaller)


def test_half_of_the_levels_are_near_those_that_are_used():
    levels = torch.cat([batch.level for batch in draws(200)])
    near = torch.stack([(levels - level).abs() <= 20 for level in (0, 333, 666, 999)])
    assert 0.45 < near.any(0).float().mean() < 0.7
    assert near.any(1).all() and levels.min() >= 0 and levels.max() <= 999


def test_the_same_generator_draws_the_same_batch():
    first, again = draws(3), draws(3)
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(first[0].noise, first[1].noise)


def test_the_loss_is_least_for_the_truth():
    """A network that gives the truth's latent back has no loss; the untrained one has."""
    system = Upscale(RECIPE)
    net = system.build()
    batch = draws(1)[0]

    class Told(ResidualNet):
        def forward(self, noisy, conditions, level, signal, factor):
            return self.answer

    told = Told(**RECIPE.network["net"])
    compare = Losses(RECIPE.losses, torch.device("cpu"))
    given = batch._replace(shown=batch.truth, level=torch.tensor([0]), noise=torch.zeros_like(batch.noise))
    caught: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    untrained = system.loss(net, batch, RECIPE.phases[0], lambda a, b: compare(a, b, 0))
    system.loss(net, given, RECIPE.phases[0], lambda a, b: compare(a, b, 0))
    told.answer = caught[1] / system._signals[0].sqrt()  # noise alone is left out: the latent of the truth
    assert system.loss(told, given, RECIPE.phases[0], lambda a, b: compare(a, b, 0)) < 1e-6 < untrained


def edges(split: str, seed: int) -> Sample:
    """Overlapping rectangles: what back-projection leaves of their edges can be learned in seconds."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.full((72, 72, 3), 0.5)
    for _ in range(12):
        (top, left), (height, width) = (
            torch.randint(60, (2,), generator=generator),
            torch.randint(8, 40, (2,), generator=generator),
        )
        truth[top : top + height, left : left + width] = torch.rand(3, generator=generator)
    return Sample(f"{split}/enlarged_4/{seed:04d}", FixRequest(truth), truth, None, None, {"strategy": "enlarged"})


def mean_loss(net: ResidualNet, shards: Path) -> float:
    """Of the same draws of unseen samples."""
    system, compare = Upscale(RECIPE), Losses(RECIPE.losses, torch.device("cpu"))
    kept = [system.prepare(sample) for sample in read_shards(find_shards(shards, "validation"))]
    with torch.no_grad():
        batches = [system.draw(kept, RECIPE.phases[0], torch.Generator().manual_seed(i)) for i in range(20)]
        losses = [system.loss(net, batch, RECIPE.phases[0], lambda a, b: compare(a, b, 0)) for batch in batches]
    return float(torch.stack(losses).mean())


@pytest.mark.slow
def test_training_helps_and_its_weights_can_be_used(tmp_path: Path):
    shards = tmp_path / "shards"
    for split, seeds in (("train", range(8)), ("validation", range(100, 103))):
        write_shard(shards / split / split / "enlarged_4.tar", [edges(split, seed) for seed in seeds])
    metrics = train(RECIPE, tmp_path / "run", shards)
    assert set(metrics) == {*Upscale.variants, "samples", "scenes", "strategies"}
    assert metrics["first"]["psnr"] > metrics["backprojection"]["psnr"] > metrics["bicubic"]["psnr"]
    loaded = load_upscaler("residual", str(tmp_path / "run"), dtype=torch.float32)
    (sample, *_) = read_shards(find_shards(shards, "validation"))
    assert not torch.equal(upscaled(loaded, sample.truth, 4), upscaled(loaded, sample.truth, 4, loaded.rounds))
    again = replace(RECIPE, start=str(tmp_path / "run"), phases=(replace(RECIPE.phases[0], steps=1),))
    net = create(again).build()
    assert torch.equal(net.leave.weight.half(), loaded.net.leave.weight.half())
    assert mean_loss(net, shards) < 0.995 * mean_loss(create(RECIPE).build(), shards)


def test_recipes_mistakes_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"network\.scheduler"):
        create(replace(RECIPE, network={"net": NET}))
    with pytest.raises(UserError, match=r"network\.net"):
        create(replace(RECIPE, network={**RECIPE.network, "net": {"wide": 3}})).build()
    with pytest.raises(UserError, match=r"--start .* does not fit"):
        create(replace(RECIPE, start=str(write_residual(tmp_path)))).build()
    with pytest.raises(UserError, match="at least 24 pixels"):
        Upscale(replace(RECIPE, crop=20)).draw([prepared()], RECIPE.phases[0], torch.Generator())


def test_the_recipe_of_the_package_can_be_built():
    recipe = load_recipe("upscale")
    net = create(recipe).build()
    assert sum(parameter.numel() for parameter in net.parameters()) * 2 < 4 * 2**20  # bytes in float16
    assert all("lund_door" not in str(entry.scene) and "mary_rose" not in str(entry.scene) for entry in recipe.scenes)
