"""Recipes of benchmarks: fair by construction, and refused where they make no sense."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.job import Job, Scene
from difix3d_ns.evaluation.bench.recipe import Recipe, load_recipe
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.ns.trainer import GuidedTrainerConfig

RECIPES = Path(__file__).parents[2] / "configs" / "bench"


def _settings(recipe: Recipe, training: str, seed: int) -> GuidedTrainerConfig:
    """What ns-train makes of a training's flags."""
    flags = Job(Scene(Path("/scene"), "scene"), training, seed).flags(recipe)
    default: Any = copy.deepcopy(difix3d_splatfacto.config)
    return tyro.cli(tyro.conf.FlagConversionOff[GuidedTrainerConfig], default=default, args=flags)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_all_trainings_share_steps_seed_and_pictures(name: str) -> None:
    recipe = load_recipe(name)
    for seed in (0, 7):
        settings = [_settings(recipe, training, seed) for training in recipe.trainings()]
        assert len(settings) >= 2
        for each in settings:
            assert each.max_num_iterations == recipe.steps
            assert each.machine.seed == seed
            assert each.pipeline.datamanager == settings[0].pipeline.datamanager
            assert each.pipeline.datamanager.train_cameras_sampling_seed == 42 + seed
            assert each.pipeline.datamanager.pose_frame == "train"
            assert each.steps_per_eval_image == each.steps_per_eval_all_images == 0  # looks at nothing meanwhile


def test_the_default_compares_with_every_plain_variant() -> None:
    recipe = load_recipe("default")
    plain = {name for name in recipe.methods if name.startswith("plain")}
    assert {"plain", "plain-earlystop", "plain-cap", "plain-dropout", "plain-mcmc", "plain-tuned"} <= plain
    assert set(recipe.methods["plain-tuned"].best_of) == plain - {"plain-tuned"}
    assert {"fix-only", "no-pseudo-views", "difix3d", "difix3d+"} == set(recipe.methods) - plain
    assert recipe.methods["difix3d"].flags == {}  # the defaults of ns-train are what is measured
    for name in plain - {"plain-tuned", "plain-earlystop"}:
        assert _settings(recipe, name, 0).pipeline.rounds == 0
    assert _settings(recipe, "plain", 0).save_only_latest_checkpoint is False
    cap = _settings(recipe, "plain-cap", 0).pipeline.model
    assert cap.max_gaussians and cap.use_scale_regularization and cap.regularization
    pairs = {entry.needs: (entry.bars, entry.worst, entry.time) for entry in recipe.compare}
    assert pairs["difix3d", "plain"] == ({"psnr": 0.8, "ssim": 0.02}, None, 1.5)
    assert pairs["difix3d", "plain-tuned"] == ({"psnr": 0.4, "ssim": 0.01, "flip": 0.0}, -0.1, None)
    assert pairs["difix3d+", "difix3d"] == ({"psnr": -0.05, "ssim": 0.0, "flip": 0.0}, None, None)
    assert load_recipe("ablation").compare[7].bars == {"psnr": -0.5}  # of noise in place of the fixer
    assert len(recipe.seeds) >= 2


def test_chosen_methods_bring_what_they_are_the_best_of() -> None:
    recipe = load_recipe("default")
    assert list(recipe.chosen(["plain-tuned"]).methods) == [name for name in recipe.methods if name.startswith("plain")]
    few = recipe.chosen(["difix3d+", "plain"])
    assert list(few.methods) == ["plain", "difix3d", "difix3d+"]
    assert list(few.trainings()) == ["plain", "difix3d"]
    assert [entry.needs for entry in few.compare] == [("difix3d", "plain"), ("difix3d+", "difix3d")]
    assert list(recipe.chosen(["fix-only"]).trainings()) == ["plain"]
    assert recipe.chosen() == recipe
    with pytest.raises(UserError, match="--methods plian: the recipe default has plain, "):
        recipe.chosen(["plian"])


PLAIN = {"plain": {"flags": {}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"methods": {}}, "no methods"),
        ({"methods": PLAIN, "sedes": [1]}, "unknown entry sedes"),
        ({"methods": {"a/b": {"flags": {}}}}, "no / and no @"),
        ({"methods": {"a": {}}}, "exactly one of flags, of and best_of"),
        ({"methods": {"a": {"flags": {}, "of": "b"}}}, "exactly one of"),
        ({"methods": {"a": {"flags": {"max-num-iterations": 9}}}}, "a has --max-num-iterations: .* same for all"),
        ({"methods": {"a": {"flags": {"machine.seed": 9}}}}, "a has --machine.seed"),
        ({"methods": {"a": {"flags": {"pipeline.datamanager.camera-res-scale-factor": 0.1}}}}, "image size"),
        ({"methods": {**PLAIN, "x": {"of": "y"}}}, "x is of y, which is not trained"),
        ({"methods": {**PLAIN, "x": {"of": "plain", "earlier": True}}}, "checkpoints of 2 or more"),
        ({"methods": {**PLAIN, "x": {"best_of": ["plain", "z"]}}}, "x cannot be the best of z"),
        ({"methods": {**PLAIN, "x": {"of": "plain", "enhanced": True, "strength": 2}}}, "strength is from 0 to 1"),
        ({"methods": PLAIN, "compare": [{"method": "plain", "against": "z"}]}, "compare names z"),
        ({"methods": PLAIN, "seeds": [1, 1]}, "different numbers"),
        ({"methods": PLAIN, "steps": 0}, "steps are at least 1"),
        ({"methods": PLAIN, "flags": {"data": "x"}}, "flags may not have data"),
        ({"methods": {"plain": {"flagz": {}}}}, "flagz"),
    ],
)
def test_recipes_that_make_no_sense(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_no_such_recipe() -> None:
    with pytest.raises(UserError, match="no recipe defualt: give a YAML file or one of ablation, default, hard, smoke"):
        load_recipe("defualt")
