"""Settings fitted to the device and to the length of the training."""

from __future__ import annotations

import copy

import pytest
import torch

from difix3d_ns.errors import UserError
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.ns import presets as defaults
from difix3d_ns.ns.trainer import GuidedTrainerConfig

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


@pytest.fixture
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_cpu_sized_numbers_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    config = _config()
    defaults.settle(config)
    assert config.max_num_iterations == defaults.CPU_ITERATIONS
    assert config.pipeline.model.max_gaussians == defaults.CPU_GAUSSIANS
    assert config.pipeline.rounds == defaults.CPU_ROUNDS
    said = " ".join(capsys.readouterr().out.split())
    for flag in ("--max-num-iterations", "--pipeline.model.max-gaussians", "--pipeline.rounds"):
        assert flag in said
    assert "--pipeline.datamanager.camera-res-scale-factor" in said


@pytest.mark.usefixtures("_cuda")
def test_cuda_sized_numbers() -> None:
    config = _config("cuda")
    defaults.settle(config)
    assert config.max_num_iterations == defaults.CUDA_ITERATIONS == 30_000
    assert config.pipeline.model.max_gaussians == 0
    assert config.pipeline.rounds == defaults.CUDA_ROUNDS


@pytest.mark.usefixtures("_cuda")
def test_thirty_thousand_steps_are_splatfactos() -> None:
    config = _config("cuda", 30_000)
    defaults.settle(config)
    assert {name: getattr(config.pipeline.model, name) for name in STEP_SETTINGS} == SPLATFACTO
    assert config.optimizers["means"]["scheduler"].max_steps == 30_000
    assert config.optimizers["camera_opt"]["scheduler"].warmup_steps == 1000


@pytest.mark.parametrize("steps", [1, 30, 300, 2000, 30_000])
@pytest.mark.parametrize("densification", ["default", "mcmc"])
@pytest.mark.parametrize("start", [0, 30_000])
def test_every_step_setting_fits_the_training(steps: int, densification: str, start: int) -> None:
    config = _config(steps=steps)
    config.pipeline.model.densification = densification  # type: ignore[assignment]
    defaults.settle(config, start=start)
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
    config.pipeline.model.densification = "mcmc"
    defaults.settle(config)
    assert config.pipeline.model.stop_split_at == 2500


def test_given_values_win() -> None:
    config = _config(steps=300)
    given = {name: 7 + i for i, name in enumerate(STEP_SETTINGS)}
    for name, value in given.items():
        setattr(config.pipeline.model, name, value)
    config.pipeline.model.max_gaussians = 0
    config.pipeline.rounds = 0
    config.steps_per_save = 11
    config.steps_per_eval_image = 12
    config.steps_per_eval_all_images = 13
    config.optimizers["means"]["scheduler"].max_steps = 14
    defaults.settle(config)
    assert {name: getattr(config.pipeline.model, name) for name in STEP_SETTINGS} == given
    assert config.pipeline.model.max_gaussians == 0 and config.pipeline.rounds == 0
    assert (config.steps_per_save, config.steps_per_eval_image, config.steps_per_eval_all_images) == (11, 12, 13)
    assert config.optimizers["means"]["scheduler"].max_steps == 14


def test_nothing_is_announced_where_everything_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(steps=10)
    config.pipeline.model.max_gaussians = 100
    config.pipeline.rounds = 1
    defaults.settle(config)
    assert capsys.readouterr().out == ""


def test_settling_twice_changes_nothing() -> None:
    config = _config(steps=300)
    defaults.settle(config)
    before = copy.deepcopy(config)
    defaults.settle(config)
    assert config == before


@pytest.mark.parametrize("steps", [0, -5])
def test_no_steps_is_an_error(steps: int) -> None:
    with pytest.raises(UserError, match="--max-num-iterations"):
        defaults.settle(_config(steps=steps))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rounds", -1),
        ("targets.count", 0),
        ("pool_capacity", 0),
        ("model.max_gaussians", -1),
        ("model.refine_every", 0),
        ("model.reset_alpha_every", 0),
        ("model.sh_degree_interval", 0),
        ("model.resolution_schedule", 0),
        ("model.gaussian_dropout", 1.0),
        ("model.gaussian_dropout", -0.1),
        ("pseudo_probability", 1.5),
        ("pseudo_probability", float("nan")),
        ("pseudo_weight", -0.5),
        ("pseudo_weight", float("inf")),
        ("targets.beyond", -0.1),
        ("targets.beyond", float("nan")),
        ("fixer.references", -1),
        ("fixer.strength", 1.1),
        ("fixer.strength", -0.1),
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
        defaults.settle(config)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    config = _config(steps=300)
    pipeline = config.pipeline
    pipeline.pseudo_weight = pipeline.pseudo_probability = pipeline.targets.beyond = 0.0
    pipeline.fixer.references = 0
    pipeline.fixer.strength = 0.0
    defaults.settle(config)


def test_cuda_flag_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--machine.device-type cuda.*leave the flag out"):
        defaults.settle(_config("cuda"))


def test_other_devices_are_refused() -> None:
    with pytest.raises(UserError, match=r"--machine.device-type mps.*cpu or cuda"):
        defaults.settle(_config("mps"))
