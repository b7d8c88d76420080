"""Recipes of benchmarks: fair by construction, and refused where they make no sense."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.bench_recipe import Recipe, load_recipe
from difix3d_ns.evaluation.bench.rows import current_rows, read_rows
from difix3d_ns.io.run import Run
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.methods.hi3d import hi3d_splatfacto
from difix3d_ns.methods.sparse import sparse_splatfacto
from difix3d_ns.methods.sparsefusion import sparsefusion_splatfacto
from difix3d_ns.methods.threedsr import threedsr_splatfacto
from difix3d_ns.ns import presets
from difix3d_ns.ns.trainer import GuidedTrainerConfig

RECIPES = Path(__file__).parents[2] / "configs" / "bench"
RECORD = Path(__file__).parents[2] / "benchmarks" / "results"
ALL = (difix3d_splatfacto, sparse_splatfacto, threedsr_splatfacto, sparsefusion_splatfacto, hi3d_splatfacto)
METHODS = {method.config.method_name: method.config for method in ALL}


def _parse(method: str, flags: Sequence[str]) -> Any:
    """What tyro makes of flags, as ns-train has it do."""
    return copy.deepcopy(_parsed(method, tuple(flags)))


@functools.cache
def _parsed(method: str, flags: tuple[str, ...]) -> Any:
    default: Any = copy.deepcopy(METHODS[method])
    return tyro.cli(tyro.conf.FlagConversionOff[GuidedTrainerConfig], default=default, args=flags)


def _settings(recipe: Recipe, training: str, seed: int) -> Any:
    """What ns-train makes of a training's flags, fitted to a CPU and six photographs."""
    config = _parse(recipe.methods[training].ns_method, recipe.training_flags(training, seed))
    config.machine.device_type = "cpu"
    presets.check(config)
    presets.fit(config, replace(config.run(), images=6))
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_all_trainings_share_steps_seed_and_pictures(name: str) -> None:
    recipe = load_recipe(name)
    assert len(recipe.methods) >= 2  # of trainings, or of what is shown of one
    one_of_each = {recipe.methods[training].ns_method: training for training in recipe.trainings()}
    seeds = [("--machine.seed", "0", "7"), ("--pipeline.datamanager.train-cameras-sampling-seed", "42", "49")]
    for training in recipe.trainings():  # nothing else changes with the seed: 7 is parsed once a method
        flags, others = (recipe.training_flags(training, seed) for seed in (0, 7))
        changed = [i for i in range(len(flags)) if flags[i] != others[i]]
        assert [(flags[i - 1], flags[i], others[i]) for i in changed] == seeds and len(flags) == len(others)
    for seed, trainings in ((0, list(recipe.trainings())), (7, list(one_of_each.values()))):
        settings = [_settings(recipe, training, seed) for training in trainings]
        for each in settings:
            assert each.max_num_iterations == recipe.steps
            assert each.machine.seed == seed
            factor = each.pipeline.datamanager.camera_res_scale_factor
            if recipe.long_side is not None:  # trained at any size, scored at one
                each.pipeline.datamanager.camera_res_scale_factor = None
            assert each.pipeline.datamanager == settings[0].pipeline.datamanager
            assert recipe.long_side is None or factor in (1, 1 / recipe.factor)
            assert each.pipeline.datamanager.train_cameras_sampling_seed == 42 + seed
            assert each.pipeline.datamanager.pose_frame == "train"
            assert each.steps_per_eval_image == each.steps_per_eval_all_images == 0  # evaluates nothing meanwhile


def test_the_default_compares_with_every_plain_variant() -> None:
    recipe = load_recipe("default")
    plain = {name for name in recipe.methods if name.startswith("plain")}
    assert {"plain", "plain-earlystop", "plain-cap", "plain-dropout", "plain-mcmc", "plain-tuned"} <= plain
    assert set(recipe.methods["plain-tuned"].best_of) == plain - {"plain-tuned"}
    exported = {"as-exported", "as-compressed"}
    assert {"fix-only", "difix3d", "difix3d+", "sparse", *exported} == set(recipe.methods) - plain
    assert {recipe.methods[name].exported for name in exported} == {".spz", ".compressed.ply"}
    assert recipe.methods["difix3d"].flags == {}  # the defaults of ns-train are what is measured
    for name in plain - {"plain-tuned", "plain-earlystop"}:
        pipeline = _settings(recipe, name, 0).pipeline
        assert pipeline.guidance.rounds == 0 and pipeline.floaters.min_depth == 0
        assert pipeline.initial_points.stereo == (12_000 if name == "plain-stereo" else 0)
    assert _settings(recipe, "plain", 0).save_only_latest_checkpoint is False
    cap = _settings(recipe, "plain-cap", 0).pipeline.model
    assert cap.max_gs_num == 20_000 and cap.use_scale_regularization
    assert cap.mcmc_opacity_reg == cap.mcmc_scale_reg == 0.01
    pairs = {entry.needs: (entry.bars, entry.worst, entry.time) for entry in recipe.compare}
    assert pairs["difix3d", "plain"] == ({"psnr": 0.8, "ssim": 0.02}, None, 1.5)
    assert pairs["difix3d", "plain-tuned"] == ({"psnr": 0.4, "ssim": 0.01, "flip": 0.0}, -0.1, None)
    assert pairs["difix3d+", "difix3d"] == ({"psnr": -0.05, "ssim": 0.0, "flip": 0.0}, None, None)
    assert load_recipe("ablation").compare[7].bars == {"psnr": -0.5}  # of noise in place of the fixer
    assert len(recipe.seeds) >= 2


def test_the_method_without_a_prior_is_a_row_of_its_own() -> None:
    recipe = load_recipe("default")
    assert recipe.methods["sparse"].ns_method == "sparse-splatfacto" and recipe.methods["sparse"].flags == {}
    assert {method.ns_method for name, method in recipe.methods.items() if name != "sparse"} == {"difix3d-splatfacto"}
    assert len(recipe.methods["plain-tuned"].best_of) == 6 and "sparse" not in recipe.methods["plain-tuned"].best_of
    assert [entry.needs for entry in recipe.compare if "sparse" in entry.needs] == [
        ("difix3d", "sparse"), ("sparse", "plain"), ("sparse", "plain-tuned")
    ]  # fmt: skip
    with_rounds, sparse = (_settings(recipe, name, 0).pipeline for name in ("difix3d", "sparse"))
    assert (sparse.initial_points, sparse.floaters, sparse.depth) == (  # the same helps
        with_rounds.initial_points, with_rounds.floaters, with_rounds.depth
    )  # fmt: skip
    assert sparse.initial_points.stereo == 12_000 and sparse.floaters.min_depth == 0.5


@pytest.mark.parametrize(("name", "runs", "lines"), [("default", 75, 145), ("ablation", 51, 51), ("hard", 15, 20)])
def test_what_was_run_with_flags_of_earlier_names_is_still_found(name: str, runs: int, lines: int) -> None:
    found = current_rows(read_rows(RECORD / f"bench-{name}.jsonl"), load_recipe(name))
    assert len({row["run"].partition("/")[0] for row in found}) >= runs and len(found) >= lines


def test_flags_of_earlier_names_are_those_of_today() -> None:
    """What ns-train makes of the translated flags of every line on record, and that nothing was forgotten."""
    settings = []
    for path in RECORD.glob("bench-*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            flags, now = entry["flags"], entry.get("flags_now", entry["flags"])
            before = dict(zip(flags[::2], flags[1::2], strict=True))
            kind = {name: value for name, value in before.items() if "seed" not in name}
            if kind in settings:
                continue
            settings.append(kind)
            config = _parse(entry["ns_method"], now)
            presets.check(config)
            presets.fit(config, Run(2000, images=6))
            if entry["ns_method"] != "difix3d-splatfacto" or "flags_now" not in entry:  # nothing has an earlier name
                continue
            pipeline = config.pipeline
            plain = before.get("--pipeline.rounds") == "0"
            assert pipeline.initial_points.stereo == int(before.get("--pipeline.stereo-points", 0 if plain else 12_000))
            assert pipeline.floaters.min_depth == float(before.get("--pipeline.clearance", 0.0 if plain else 0.5))
            assert pipeline.guidance.rounds == int(before.get("--pipeline.rounds", 2))
            assert pipeline.guidance.fixer.name == before.get("--pipeline.fixer.name", "embedded")
            assert pipeline.guidance.weight == float(before.get("--pipeline.pseudo-weight", 1))
    assert len(settings) > 20


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
        ({"long_side": 480, "methods": {"a": {"flags": {"pipeline.datamanager.pose-frame": "all"}}}}, "image size"),
        ({"long_side": 480, "factor": 1, "methods": PLAIN}, "factor above 1"),
        (
            {
                "methods": PLAIN,
                "compare": [
                    {"method": "plain", "against": "plain", "share_of": {"method": "z", "against": "plain"}},
                ],
            },
            "compare names z",
        ),
        (
            {"methods": PLAIN, "compare": [{"method": "plain", "against": "plain", "shares": {"psnr": 0.3}}]},
            "shares need share_of",
        ),
        ({"methods": {**PLAIN, "x": {"of": "plain", "ns_method": "sparse-splatfacto"}}}, "no training of its own"),
        ({"methods": {**PLAIN, "x": {"of": "y"}}}, "x is of y, which is not trained"),
        ({"methods": {**PLAIN, "x": {"of": "plain", "earlier": True}}}, "checkpoints of 2 or more"),
        ({"methods": {**PLAIN, "x": {"best_of": ["plain", "z"]}}}, "x cannot be the best of z"),
        ({"methods": {**PLAIN, "x": {"of": "plain", "enhanced": True, "strength": 2}}}, "strength is from 0 to 1"),
        ({"methods": {**PLAIN, "x": {"of": "plain", "exported": ".obj"}}}, r"exported is one of \.compressed\.ply, "),
        ({"methods": {**PLAIN, "x": {"of": "plain", "exported": ".spz", "enhanced": True}}}, "without enhanced and"),
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


def test_methods_scored_at_one_size_may_be_trained_at_several(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    size = "pipeline.datamanager.camera-res-scale-factor"
    methods: dict[str, Any] = {"small": {"flags": {}}, "full": {"flags": {size: 1.0}}, "best": {"best_of": ["small"]}}
    content = {"long_side": 480, "factor": 2, "steps": 10, "flags": {size: 0.5}, "methods": methods}
    path.write_text(yaml.safe_dump(content))
    recipe = load_recipe(path)
    flags = [recipe.training_flags(name, 0) for name in ("small", "full")]
    assert [each[each.index(f"--{size}") + 1] for each in flags] == ["0.5", "1.0"]
    assert recipe.methods["small"].evaluation["long_side"] == 480
    assert recipe.methods["small"].evaluation["factor"] == 2
    path.write_text(yaml.safe_dump(content | {"long_side": 960}))
    assert load_recipe(path).methods["small"].evaluation != recipe.methods["small"].evaluation  # scored again
    assert "long_side" not in load_recipe("default").methods["plain"].evaluation  # rows on record stay valid


def test_no_such_recipe() -> None:
    own = ("3dsr", "3dsr-960", "3dsr-ablation", "3dsr-cap", "3dsr-own-size")
    shipped = ", ".join([*own, "ablation", "default", "depth", "exported", "few-photographs", "hard", "hi3d", "smoke"])
    with pytest.raises(UserError, match=f"no recipe defualt: give a YAML file or one of {shipped}"):
        load_recipe("defualt")


def test_photos_are_upscaled_from_one_size_and_scored_at_another() -> None:
    recipe = load_recipe("3dsr")
    settings = {name: _settings(recipe, name, 0) for name in recipe.trainings()}
    assert {name: each.pipeline.datamanager.camera_res_scale_factor for name, each in settings.items()} == {
        name: 1.0 if name == "oracle" else 0.25 for name in settings
    }
    assert {each.pipeline.model.max_gs_num for each in settings.values()} == {80_000}
    upscaled = {
        name: each.pipeline.guidance for name, each in settings.items() if recipe.methods[name].ns_method[0] == "3"
    }
    assert {name: (each.upscaler.name, each.feedback) for name, each in upscaled.items()} == {
        "bicubic": ("bicubic", True),
        "bicubic-bp-alone": ("backprojection", True),
        "bicubic-bp-low": ("backprojection", True),
        "low-only": ("bicubic", True),
        "independent": ("residual", False),
        "3dsr": ("residual", True),
        "3dsr-realesrgan": ("realesrgan", True),
    }
    assert {each.factor for each in upscaled.values()} == {recipe.factor}
    weights = {name: (each.high_weight, each.low_weight) for name, each in upscaled.items()}
    assert weights["bicubic"] == weights["bicubic-bp-alone"] == (1, 0) and weights["low-only"] == (0, 1)
    high = {each.high_steps(recipe.steps or 0, True) for each in upscaled.values()}
    assert len(high) == 1  # as many steps at the large size, whatever is learnt from
    modes = {name: each.pipeline.model.rasterize_mode for name, each in settings.items()}
    assert {name for name, mode in modes.items() if mode == "classic"} == {"lr-classic"}
    bars = [(entry.needs, entry.shares, entry.scenes) for entry in recipe.compare if entry.shares]
    assert bars == [(("3dsr", "bicubic-bp"), {"psnr": 0.3, "flip": 0.3}, ("procedural-*",))]
    assert [entry.time for entry in recipe.compare if entry.needs == ("3dsr", "oracle")] == [3.0]
