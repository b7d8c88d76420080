"""Fine-tuning the published architecture at a tiny size, in the official layout (see official_difix.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from difix3d_ns.data.shards import find_shards, read_shards
from difix3d_ns.errors import UserError
from difix3d_ns.priors.published.folder import read_network
from difix3d_ns.priors.registry import load_fixer
from difix3d_ns.training.prior_recipe import Phase, Recipe, load_recipe
from difix3d_ns.training.systems.difix import Difix
from difix3d_ns.training.train import train
from tests.unit.official_difix import Official
from tests.unit.training_samples import write_shards

RECIPE = Recipe(
    system="difix",
    network={"rank": 4, "references": 1},
    phases=(Phase(("unet", "lora", "skips"), steps=6, learning_rate=1e-3, end=1.0, warmup=1),),
    losses={"l2": 1.0},
    crop=(32, 48),
    batch=2,
    precision="float32",
    decides="none",
    reference_dropout=0.0,
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Official().write(tmp_path_factory.mktemp("difix_ref"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), train=2, validation=1)


@pytest.fixture(scope="module")
def trained(official: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    train(replace(RECIPE, start=str(official)), output, shards)
    return output


def test_what_learns_moves_and_the_rest_stays_bit_equal(official: Path, trained: Path):
    before, after = read_network(official).state_dict(), read_network(trained).state_dict()
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    decoder = {
        key for key in before if key.startswith("vae.decoder.") and key.endswith(".weight") and "norm" not in key
    }
    learning = {key for key in before if key.startswith(("unet.", "skips."))} | decoder
    assert moved <= learning
    assert decoder <= moved and {key for key in moved if key.startswith("skips.")}
    unet = {key for key in learning if key.startswith("unet.")}
    assert len(moved & unet) > 0.95 * len(unet)
    assert torch.equal(before["prompt"], after["prompt"])


def test_changes_of_the_decoder_have_low_rank(official: Path, trained: Path):
    before, after = read_network(official).vae.decoder, read_network(trained).vae.decoder
    change = after.mid_block.resnets[0].conv1.weight - before.mid_block.resnets[0].conv1.weight
    values = torch.linalg.svdvals(change.flatten(1))
    assert values[3] > 0 and values[4] < 1e-4 * values[0]


@pytest.mark.slow
def test_training_lowers_the_loss(official: Path, shards: Path, tmp_path: Path):
    phases = (replace(RECIPE.phases[0], steps=100, learning_rate=3e-3),)
    train(replace(RECIPE, phases=phases, start=str(official)), tmp_path, shards)
    losses = [row["loss"] for row in json.loads((tmp_path / "history.json").read_text())["losses"]]
    assert losses[-1] < 0.8 * losses[0]


def test_result_is_the_fixer_difix(trained: Path, shards: Path):
    (sample,) = read_shards(find_shards(shards, "validation"))
    (result,) = load_fixer("difix", str(trained), dtype=torch.float32).fix([sample.request])
    assert result.image.shape == sample.truth.shape
    assert result.image.std() > 0


@pytest.mark.slow
def test_resume_equals_uninterrupted(official: Path, shards: Path, trained: Path, tmp_path: Path):
    assert train(replace(RECIPE, start=str(official)), tmp_path, shards, stop_after=3) == {}
    train(replace(RECIPE, start=str(official)), tmp_path, shards)
    for part in ("unet", "vae"):
        first, second = (
            load_file(folder / part / "diffusion_pytorch_model.safetensors") for folder in (trained, tmp_path)
        )
        for key in first:
            assert torch.equal(first[key], second[key]), key


@pytest.mark.slow
def test_sd_turbo_gets_skips_and_recomputing_changes_nothing(official: Path, shards: Path, tmp_path: Path):
    """From a folder without skips, validated on unseen scenes; with and without gradient checkpointing."""
    base = Official().write_base(tmp_path / "sd_turbo")
    unet = official / "unet" / "diffusion_pytorch_model.safetensors"
    (base / "unet" / unet.name).write_bytes(unet.read_bytes())
    recipe = replace(RECIPE, phases=(replace(RECIPE.phases[0], steps=2),), decides="psnr", precision="bfloat16")
    metrics = train(replace(recipe, start=str(base)), tmp_path / "plain", shards)
    assert set(metrics) >= {"identity", "blend", "fixed", "fixed_without_references"}
    network = {**RECIPE.network, "gradient_checkpointing": True}
    train(replace(recipe, network=network, start=str(base)), tmp_path / "twice", shards)
    first, second = (load_file(tmp_path / name / "best.safetensors") for name in ("plain", "twice"))
    assert any(key.startswith("skips.") for key in first)
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=2e-3, rtol=0)


def test_references_of_other_sizes_are_masked(official: Path, shards: Path):
    """The loss on whole pictures is that of the fixer's own picture, an upright reference included."""
    recipe = replace(RECIPE, crop=(56, 64), start=str(official))
    system = Difix(recipe)
    module = system.build().eval()
    (sample,) = read_shards(find_shards(shards, "validation"))
    reference = replace(sample.request.references[0], image=torch.rand(48, 30, 3), camera=None)
    sample = sample._replace(request=replace(sample.request, references=[reference]))
    batch = system.draw([system.prepare(sample)], RECIPE.phases[0], torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = system.loss(module, batch, RECIPE.phases[0], lambda p, truth: (p.clamp(0, 1) - truth).square().mean())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("difix3d_ns.training.systems.difix.fast_dtype", lambda kind: torch.float32)
        (result,) = system.fixers(module)["fixed"].fix([sample.request])
    assert float(loss) == pytest.approx(float((result.image - sample.truth).square().mean()), rel=0.02)


def test_mistakes_are_named(official: Path, shards: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--start nvidia/difix_ref or --start stabilityai/sd-turbo"):
        train(RECIPE, tmp_path / "a", shards)
    with pytest.raises(UserError, match=r"--start .*nowhere.*no such folder"):
        train(replace(RECIPE, start="nowhere"), tmp_path / "b", shards)
    with pytest.raises(UserError, match=r"network: unknown rang"):
        train(replace(RECIPE, network={"rang": 4}, start=str(official)), tmp_path / "c", shards)


def test_the_shipped_recipe_has_the_published_settings():
    recipe = load_recipe("difix-finetune")
    (phase,) = recipe.phases
    assert (phase.learning_rate, phase.steps, recipe.weight_decay, recipe.clip) == (2e-5, 10_000, 1e-2, 1.0)
    assert (recipe.crop, recipe.precision, recipe.network["rank"]) == ((576, 1024), "bfloat16", 4)
    assert recipe.losses["l2"] == recipe.losses["lpips"] == 1.0
    assert recipe.losses["gram"] == {"weight": 1.0, "from_step": 2000, "crop": 400}
