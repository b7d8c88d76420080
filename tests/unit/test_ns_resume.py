"""A training goes on from its own checkpoints and from those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difix3d_ns.errors import UserError
from difix3d_ns.guidance.base import GuidanceConfig
from difix3d_ns.guidance.difix import DifixConfig
from difix3d_ns.initialization.estimated_depths import PhotoDepthConfig
from difix3d_ns.io import checkpoints
from difix3d_ns.ns import presets
from difix3d_ns.ns.trainer import FORMER_STATE_KEY, STATE_KEY, GuidedTrainer, GuidedTrainerConfig
from difix3d_ns.priors.fixer_config import FixerConfig
from tests.unit.short_training import console_output, foreign_checkpoint, short_config, train
from tests.unit.tiny_scene import write_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


def test_resumed_training_with_mcmc_equals_an_uninterrupted_one(scene: Path) -> None:
    """That with splatfacto's own densification is in test_method_conformance."""

    def config(name: str) -> GuidedTrainerConfig:
        made = short_config(scene, steps=40, name=name)
        made.steps_per_save = 20
        made.pipeline.model.strategy = "mcmc"
        made.pipeline.model.max_gs_num = 200
        return made

    torch.manual_seed(0)
    np.random.seed(0)
    whole = train(config("whole"))
    halves = config("halves")
    halves.load_checkpoint = whole.checkpoint_dir / "step-000000020.ckpt"
    assert halves.load_checkpoint.exists()
    torch.manual_seed(99)
    resumed = train(halves)
    assert resumed._start_step == 21
    for name, parameter in whole.pipeline.model.gauss_params.items():
        other = resumed.pipeline.model.gauss_params[name]
        assert parameter.shape == other.shape, name
        assert torch.allclose(parameter, other, atol=1e-5), name


def test_nothing_left_to_do(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = train(short_config(scene))
    again = short_config(scene, name="again")
    again.load_dir = done.checkpoint_dir
    train(again)
    assert "Already trained for 4 steps" in console_output(capsys)


def test_foreign_checkpoint_is_trained_on_for_as_many_steps(scene: Path, tmp_path: Path) -> None:
    config = short_config(scene, steps=300)
    config.load_checkpoint = foreign_checkpoint(tmp_path / "foreign", 29_999)
    trainer = GuidedTrainer(config)
    assert (trainer._run.first_step, trainer._run.last_step) == (30_000, 30_300)
    assert config.pipeline.model.warmup_length is not None and config.pipeline.model.warmup_length > 30_000
    assert config.optimizers["means"]["scheduler"].max_steps == 300  # schedulers begin anew


def test_a_finished_training_goes_on_with_rates_that_move_things(scene: Path) -> None:
    finished = short_config(scene, steps=10, name="finished")
    finished.optimizers["scales"]["optimizer"].lr = 1e-7
    done = train(finished)
    path = done.checkpoint_dir / "step-000000009.ckpt"
    state = checkpoints.load(path)
    del state[STATE_KEY]
    state["optimizers"]["means"]["param_groups"][0]["lr"] = 1.6e-6
    state["schedulers"]["means"]["last_epoch"] = 30_000
    torch.save(state, path)
    config = short_config(scene, steps=12, name="on")
    config.load_checkpoint = path
    config.pipeline.model.warmup_length = 1000  # no densification: the same Gaussians are compared
    trainer = GuidedTrainer(config)
    trainer.setup()
    rates = {name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.optimizers.items()}
    assert rates["means"] == pytest.approx(config.optimizers["means"]["optimizer"].lr)
    assert rates["scales"] == 0.005
    moments = trainer.optimizers.optimizers["means"].state[trainer.pipeline.model.gauss_params["means"]]
    assert torch.equal(moments["exp_avg"], state["optimizers"]["means"]["state"][0]["exp_avg"])
    before = trainer.pipeline.model.gauss_params["means"].detach().clone()
    trainer.train()
    moved = (trainer.pipeline.model.gauss_params["means"].detach() - before).abs().max()
    assert moved > 2 * rates["means"]
    group = trainer.optimizers.optimizers["means"].param_groups[0]
    assert group["lr"] == pytest.approx(config.optimizers["means"]["scheduler"].lr_final)


def test_resuming_what_began_from_a_foreign_checkpoint(scene: Path) -> None:
    plain = train(short_config(scene, steps=10, name="plain"))
    path = plain.checkpoint_dir / "step-000000009.ckpt"
    state = checkpoints.load(path)
    del state[STATE_KEY]
    torch.save(state, path)  # as splatfacto would have written it
    first = short_config(scene, steps=12, name="first")
    first.load_checkpoint, first.steps_per_save = path, 5
    trained = train(first)
    assert checkpoints.checkpoint_steps(trained.checkpoint_dir) == [21, 20]
    (trained.checkpoint_dir / "step-000000021.ckpt").write_bytes(b"damaged")
    resumed = short_config(scene, steps=12, name="resumed")
    resumed.load_dir = trained.checkpoint_dir
    again = GuidedTrainer(resumed)
    assert (again._run.first_step, again._run.last_step) == (10, 22)
    again.setup()
    assert again._start_step == 21
    assert resumed.pipeline.model.warmup_length == first.pipeline.model.warmup_length


def test_foreign_checkpoint_of_another_shape_is_told_of(scene: Path, tmp_path: Path) -> None:
    config = short_config(scene)
    config.load_checkpoint = foreign_checkpoint(tmp_path / "foreign", 10)
    with pytest.raises(UserError) as told:
        GuidedTrainer(config).setup()
    assert "does not fit this method" in str(told.value)


@pytest.mark.parametrize("resumed", ["single-view", None])
def test_weights_are_taken_over_with_the_prior_they_are_of(resumed: str | None) -> None:
    config = GuidedTrainerConfig()
    config.pipeline.guidance = DifixConfig(fixer=FixerConfig("difix", weights="repaired", references=0))
    config.pipeline.depth = PhotoDepthConfig("single-view", "depth")
    kept = presets.kept(config)
    same = GuidedTrainerConfig()
    same.pipeline.guidance, same.pipeline.depth = DifixConfig(fixer=FixerConfig("difix")), PhotoDepthConfig(resumed)
    presets.adopt(same, kept)
    assert same.pipeline.guidance.fixer == config.pipeline.guidance.fixer
    assert same.pipeline.depth == config.pipeline.depth
    other = GuidedTrainerConfig()
    other.pipeline.guidance, other.pipeline.depth = DifixConfig(), PhotoDepthConfig("multiview")
    presets.adopt(other, kept)
    assert other.pipeline.guidance.fixer == FixerConfig() and other.pipeline.depth == PhotoDepthConfig("multiview")


def test_adam_is_fused_where_that_is_safe() -> None:
    from difix3d_ns.ns.trainer import FusedAdamConfig

    assert FusedAdamConfig().setup([torch.nn.Parameter(torch.zeros(4, 3))]).param_groups[0]["fused"]
    steps = []
    for build in (FusedAdamConfig(lr=0.1).setup, lambda params: torch.optim.Adam(params, lr=0.1, eps=1e-8)):
        parameter = torch.nn.Parameter(torch.zeros(4, 5, 3)[:, 1:])  # as splatfacto cuts its harmonics
        optimizer = build([parameter])
        parameter.grad = torch.arange(48.0).reshape(4, 4, 3) - 20
        optimizer.step()
        steps.append(parameter.detach())
    torch.testing.assert_close(*steps)


def test_a_resumed_training_steps_as_this_machine_does(scene: Path) -> None:
    """A checkpoint keeps how Adam was run where it was made."""
    train(short_config(scene, 4))
    path = next(scene.parent.rglob("*.ckpt"))
    state = torch.load(path, weights_only=False)
    for optimizer in state["optimizers"].values():
        optimizer["param_groups"][0]["fused"] = None
    torch.save(state, path)
    config = short_config(scene, 6, name="again")
    config.load_dir = path.parent
    trainer = train(config)
    assert all(o.param_groups[0]["fused"] for o in trainer.optimizers.optimizers.values())


@pytest.mark.parametrize(
    "state", [{FORMER_STATE_KEY: {"steps": 20}}, {STATE_KEY: {"kept": {"--pipeline.floaters.clearance": 0.5}}}]
)
def test_a_checkpoint_of_an_earlier_version_is_refused(scene: Path, tmp_path: Path, state: dict[str, Any]) -> None:
    path = foreign_checkpoint(tmp_path / "earlier", 10)
    torch.save(torch.load(path, weights_only=True) | state, path)
    config = short_config(scene)
    config.load_checkpoint = path
    with pytest.raises(UserError, match=f"{path.name} was written by an earlier version of difix3d_ns.*train again"):
        GuidedTrainer(config)


def test_a_config_of_an_earlier_version_is_refused(scene: Path) -> None:
    config = short_config(scene).pipeline
    config.floaters.clearance = 0.5
    with pytest.raises(UserError, match=r"written by an earlier version of difix3d_ns.*train again"):
        config.setup(device="cpu", test_mode="inference")


def test_a_checkpoint_of_another_method_of_ours_is_trained_on(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = short_config(scene, steps=6, name="other")
    other.method_name, other.pipeline.guidance = "sparse-splatfacto", GuidanceConfig()
    trained = train(other)
    config = short_config(scene, steps=4, rounds=1, name="on")
    config.load_dir = trained.checkpoint_dir
    trainer = train(config)
    assert "comes from another method: training goes on for 4 steps" in console_output(capsys)
    assert (trainer._run.first_step, trainer.step) == (6, 9)
    assert config.pipeline.guidance.rounds == 1
