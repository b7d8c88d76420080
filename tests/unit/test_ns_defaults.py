"""Settings fitted to the device and to the length of the training."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from difix3d_ns.errors import UserError
from difix3d_ns.guidance.difix import CPU_ROUNDS, CUDA_ROUNDS
from difix3d_ns.initialization.stereo_points import CPU_POINTS, CUDA_POINTS
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.methods.sparse import sparse_splatfacto
from difix3d_ns.ns import presets
from difix3d_ns.ns.model import CPU_GAUSSIANS
from difix3d_ns.ns.trainer import CPU_ITERATIONS, CUDA_ITERATIONS, GuidedTrainerConfig

STEP_SETTINGS = (
    "warmup_length",
    "refine_every",
    "resolution_schedule",
    "reset_alpha_every",
    "sh_degree_interval",
    "stop_screen_size_at",
    "stop_split_at",
)
SPLATFACTO = dict(zip(STEP_SETTINGS, (500, 100, 3000, 30, 1000, 4000, 15_000), strict=True))


def _config(device: str = "cpu", steps: int | None = None) -> GuidedTrainerConfig:
    config = copy.deepcopy(difix3d_splatfacto.config)
    assert isinstance(config, GuidedTrainerConfig)
    config.machine.device_type = device  # type: ignore[assignment]
    config.max_num_iterations = steps
    return config


def _fit(config: GuidedTrainerConfig, start: int = 0, images: int | None = None) -> list[str]:
    """As the trainer does it; what is announced."""
    presets.check(config)
    run = config.run(start)
    told = presets.fit(config, run)
    return told if images is None else told + presets.fit(config, replace(run, images=images))


@pytest.fixture
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_cpu_sized_numbers_are_announced() -> None:
    config = _config()
    message = " ".join(_fit(config))
    assert config.max_num_iterations == CPU_ITERATIONS
    assert config.pipeline.model.max_gs_num == CPU_GAUSSIANS
    assert config.pipeline.guidance.rounds == CPU_ROUNDS
    assert config.pipeline.initial_points.stereo == CPU_POINTS
    for flag in ("--max-num-iterations", "--pipeline.model.max-gs-num", "--pipeline.guidance.rounds"):
        assert f"({flag})" in message


@pytest.mark.usefixtures("_cuda")
def test_cuda_sized_numbers() -> None:
    config = _config("cuda")
    _fit(config)
    assert config.max_num_iterations == CUDA_ITERATIONS == 30_000
    assert config.pipeline.model.max_gs_num == 0
    assert config.pipeline.guidance.rounds == CUDA_ROUNDS
    assert config.pipeline.initial_points.stereo == CUDA_POINTS


@pytest.mark.usefixtures("_cuda")
def test_thirty_thousand_steps_are_splatfactos() -> None:
    config = _config("cuda", 30_000)
    _fit(config)
    assert {name: getattr(config.pipeline.model, name) for name in STEP_SETTINGS} == SPLATFACTO
    assert config.optimizers["means"]["scheduler"].max_steps == 30_000
    assert config.optimizers["camera_opt"]["scheduler"].warmup_steps == 1000


@pytest.mark.parametrize("steps", [1, 30, 300, 2000, 30_000])
@pytest.mark.parametrize("strategy", ["default", "mcmc"])
@pytest.mark.parametrize("start", [0, 30_000])
def test_every_step_setting_fits_the_training(steps: int, strategy: str, start: int) -> None:
    config = _config(steps=steps)
    config.pipeline.model.strategy = strategy  # type: ignore[assignment]
    _fit(config, start)
    model = config.pipeline.model
    values = {name: getattr(model, name) for name in STEP_SETTINGS}
    assert all(isinstance(value, int) and value >= 1 for value in values.values())
    assert start < model.warmup_length <= start + steps
    assert start < model.stop_split_at <= start + steps
    assert start < model.stop_screen_size_at <= start + steps
    for name in ("refine_every", "sh_degree_interval", "resolution_schedule"):
        assert values[name] <= steps
    assert config.max_num_iterations == steps
    for name in ("steps_per_save", "steps_per_eval_image", "steps_per_eval_all_images"):
        assert 1 <= getattr(config, name) <= max(1, steps)
    for group in config.optimizers.values():
        if group["scheduler"] is not None:
            assert group["scheduler"].max_steps == steps
            assert 0 <= group["scheduler"].warmup_steps < steps
    if steps >= 30:
        assert model.sh_degree_interval * model.sh_degree < steps
        assert model.resolution_schedule * model.num_downscales < steps / 2
        assert model.warmup_length < model.stop_split_at
    if start:
        assert model.reset_alpha_every * model.refine_every >= start + steps
    else:
        assert model.reset_alpha_every * model.refine_every <= max(2, steps // 2)


def test_mcmc_densifies_for_longer() -> None:
    config = _config(steps=3000)
    config.pipeline.model.strategy = "mcmc"
    _fit(config)
    assert config.pipeline.model.stop_split_at == 2500


def test_given_values_win() -> None:
    config = _config(steps=300)
    given = {name: 7 + i for i, name in enumerate(STEP_SETTINGS)}
    for name, value in given.items():
        setattr(config.pipeline.model, name, value)
    config.pipeline.model.max_gs_num = 0
    config.pipeline.guidance.rounds = 0
    config.steps_per_save = 11
    config.steps_per_eval_image = 12
    config.steps_per_eval_all_images = 13
    config.optimizers["means"]["scheduler"].max_steps = 14
    _fit(config)
    assert {name: getattr(config.pipeline.model, name) for name in STEP_SETTINGS} == given
    assert config.pipeline.model.max_gs_num == 0 and config.pipeline.guidance.rounds == 0
    assert (config.steps_per_save, config.steps_per_eval_image, config.steps_per_eval_all_images) == (11, 12, 13)
    assert config.optimizers["means"]["scheduler"].max_steps == 14


def test_nothing_is_announced_where_everything_was_given() -> None:
    config = _config(steps=10)
    config.pipeline.model.max_gs_num = 100
    config.pipeline.guidance.rounds = 1
    assert _fit(config) == []


def test_fitting_twice_changes_nothing() -> None:
    config = _config(steps=300)
    _fit(config)
    before = copy.deepcopy(config)
    _fit(config)
    assert config == before


@pytest.mark.parametrize("steps", [0, -5])
def test_no_steps_is_an_error(steps: int) -> None:
    with pytest.raises(UserError, match="--max-num-iterations"):
        _fit(_config(steps=steps))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("guidance.rounds", -1),
        ("guidance.targets.count", 0),
        ("guidance.pool_capacity", 0),
        ("model.max_gs_num", -1),
        ("model.refine_every", 0),
        ("model.reset_alpha_every", 0),
        ("model.sh_degree_interval", 0),
        ("model.resolution_schedule", 0),
        ("model.gaussian_dropout", 1.0),
        ("model.gaussian_dropout", -0.1),
        ("guidance.probability", 1.5),
        ("guidance.probability", float("nan")),
        ("guidance.weight", -0.5),
        ("guidance.weight", float("inf")),
        ("guidance.targets.beyond", -0.1),
        ("guidance.targets.beyond", float("nan")),
        ("guidance.fixer.references", -1),
        ("guidance.depth_weight", -0.1),
        ("enhancer.references", -1),
        ("initial_points.stereo", -1),
        ("floaters.min_depth", 1.1),
        ("floaters.min_depth", float("nan")),
        ("enhancer.strength", 1.1),
        ("enhancer.strength", -0.1),
        ("datamanager.camera_res_scale_factor", 0.0),
    ],
)
def test_numbers_out_of_range_name_their_flag(path: str, value: float) -> None:
    config = _config(steps=300)
    *owners, name = path.split(".")
    owner = config.pipeline
    for part in owners:
        owner = getattr(owner, part)
    assert hasattr(owner, name)
    setattr(owner, name, value)
    flag = "--pipeline." + path.replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} {value}"):
        _fit(config)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    config = _config(steps=300)
    pipeline = config.pipeline
    pipeline.guidance.weight = pipeline.guidance.probability = pipeline.guidance.targets.beyond = 0.0
    pipeline.guidance.fixer.references = 0
    pipeline.enhancer.strength = pipeline.floaters.min_depth = 0.0
    _fit(config)


def test_cuda_flag_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--machine.device-type cuda.*leave the flag out"):
        _fit(_config("cuda"))


@pytest.mark.parametrize("name", ["mixed_precision", "use_grad_scaler"])
def test_scaled_gradients_are_refused_where_nerfstudio_scales_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gsplat reads gradients before they are scaled back; without CUDA nerfstudio ignores both flags."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, refused in (("cuda", True), ("cpu", False)):
        config = _config(device)
        setattr(config, name, True)
        with (
            pytest.raises(UserError, match=f"--{name.replace('_', '-')} True: .*leave the flag out")
            if refused
            else (nullcontext())
        ):
            config.check("")


def test_other_devices_are_refused() -> None:
    with pytest.raises(UserError, match=r"--machine.device-type mps.*cpu or cuda"):
        _fit(_config("mps"))


@pytest.mark.parametrize(("images", "min_depth"), [(3, 0.5), (64, 0.5), (65, 0.0)])
def test_free_space_is_for_captures_of_few_photographs(images: int, min_depth: float) -> None:
    for method in (difix3d_splatfacto, sparse_splatfacto):
        config = copy.deepcopy(method.config)
        config.machine.device_type = "cpu"
        _fit(config)
        assert config.pipeline.floaters.min_depth is None  # not before they are counted
        _fit(config, images=images)
        assert config.pipeline.floaters.min_depth == min_depth


def test_one_flag_switches_all_helps_off() -> None:
    config = _config(steps=300)
    config.pipeline.sparse_helps = False
    _fit(config, images=5)
    assert config.pipeline.initial_points.stereo == 0 and config.pipeline.floaters.min_depth == 0
    assert config.pipeline.depth.name == "none"
    presets.check(config)  # as when its config.yml is trained again
    for part, name, value in (("initial_points", "stereo", 100), ("floaters", "min_depth", 0.3)):
        config = _config(steps=300)
        config.pipeline.sparse_helps = False
        setattr(getattr(config.pipeline, part), name, value)
        flag = f"{part}.{name}".replace("_", "-")
        with pytest.raises(UserError, match=f"--pipeline.sparse-helps False .*--pipeline.{flag} {value}"):
            _fit(config)


def test_a_camera_path_needs_its_file() -> None:
    config = _config(steps=300)
    config.pipeline.guidance.targets.kind = "camera-path"
    with pytest.raises(UserError, match=r"--pipeline.guidance.targets.camera-path FILE"):
        _fit(config)


def test_what_a_resumed_training_takes_over() -> None:
    first = _config(steps=300)
    first.pipeline.guidance.rounds = 5
    _fit(first, images=100)
    kept = presets.kept(first)
    assert kept == {
        "--max-num-iterations": 300,
        "--pipeline.depth.name": "none",
        "--pipeline.depth.weights": None,
        "--pipeline.guidance.fixer.name": "embedded",
        "--pipeline.guidance.fixer.weights": None,
        "--pipeline.guidance.fixer.references": None,
        "--pipeline.guidance.rounds": 5,
        "--pipeline.guidance.probability": 0.5,
        "--pipeline.floaters.min-depth": 0.0,
    }
    again, given = _config(), _config(steps=500)
    given.pipeline.guidance.rounds = 1
    for config in (again, given):
        presets.adopt(config, kept)
    assert (again.max_num_iterations, again.pipeline.guidance.rounds) == (300, 5)
    assert (given.max_num_iterations, given.pipeline.guidance.rounds) == (500, 1)
    assert again.pipeline.floaters.min_depth == given.pipeline.floaters.min_depth == 0.0
