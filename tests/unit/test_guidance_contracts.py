"""What a guidance may count on: sizes, silhouettes, windows of densification, boundaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import resized
from difix3d_ns.guidance.base import Guidance, GuidanceConfig, Window
from difix3d_ns.io import checkpoints
from difix3d_ns.ns.model import NEVER, SplatModelConfig
from difix3d_ns.ns.trainer import STATE_KEY, GuidedTrainer
from difix3d_ns.views.view import TrainView
from tests.toys import JointGuidance
from tests.unit.method_cases import CASES, assert_same, checkpoint, config_of, final_state, set_up, trained
from tests.unit.tiny_scene import write_scene

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("contracts") / "scene")  # five photographs to learn from


def _each_step(trainer: GuidedTrainer, look: Callable[[int], Any]) -> dict[int, Any]:
    """What ``look`` returns in the middle of each step of a training."""
    seen = {}
    step_on = trainer.pipeline.get_train_loss_dict

    def looking(step: int) -> Any:
        seen[step] = look(step)
        return step_on(step)

    trainer.pipeline.get_train_loss_dict = looking  # type: ignore[method-assign]
    trainer.train()
    return seen


# ---------------------------------------------------------------------- losses


def _view(**maps: Any) -> TrainView:
    return TrainView("made", Pinhole(torch.eye(4), torch.eye(3), 8, 4), torch.rand(4, 8, 3), **maps)


def _losses(view: TrainView, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    outputs = {"accumulation": torch.full((*size, 1), 0.75), "depth": torch.full((*size, 1), 2.0)}
    return Guidance(GuidanceConfig()).losses(outputs, view, {"main_loss": torch.tensor(1.0)})


LEFT = torch.cat([torch.ones(4, 4, 1), torch.zeros(4, 4, 1)], dim=1)


@pytest.mark.parametrize("size", [(4, 8), (2, 4)], ids=["full size", "early"])
def test_maps_are_compared_at_the_size_of_the_render(size: tuple[int, int]) -> None:
    losses = _losses(_view(alpha=LEFT, depth=torch.full((4, 8, 1), 4.0), depth_weight=1.0, weight=0.5), size)
    assert losses["main_loss"] == 0.5
    assert losses["silhouette_loss"] == pytest.approx(0.5 * (0.25 + 0.75) / 2)
    whole = float(losses["depth_loss"])
    assert whole > 0.1
    half = _losses(_view(valid=LEFT, depth=torch.full((4, 8, 1), 4.0), depth_weight=1.0, weight=0.5), size)
    assert half["depth_loss"] == pytest.approx(whole / 2)


def test_early_steps_are_taught_the_depth_in_the_middle_of_each_pixel() -> None:
    """A slope of 1 per pixel, at a quarter of the size."""
    slope = torch.arange(8.0).expand(4, 8)[..., None] + 0.5
    outputs = {"accumulation": torch.ones(1, 2, 1), "depth": torch.tensor([2.5, 6.5])[None, :, None]}
    view = _view(depth=slope, depth_weight=1.0)
    losses = Guidance(GuidanceConfig()).losses(outputs, view, {"main_loss": torch.tensor(1.0)})
    assert losses["depth_loss"] < 1e-6


@pytest.mark.parametrize("size", [(4, 8), (2, 4)], ids=["full size", "early"])
def test_outside_what_is_valid_no_silhouette_is_taught(size: tuple[int, int]) -> None:
    silhouette = {
        name: float(_losses(_view(alpha=alpha, valid=LEFT), size)["silhouette_loss"])
        for name, alpha in (("there", torch.ones(4, 8, 1)), ("left", LEFT))
    }
    assert silhouette["there"] == silhouette["left"] == pytest.approx(0.25 / 2)


# ---------------------------------------------------------------------- photographs weighed, with silhouettes


@pytest.fixture(scope="module")
def cut_out(tmp_path_factory: pytest.TempPathFactory) -> GuidedTrainer:
    """A training on cut-out photographs, before its first step."""
    folder = write_scene(tmp_path_factory.mktemp("contracts") / "cut out", mode="RGBA")
    return set_up(config_of(CASES["weighing-splatfacto"], folder, "cut out", 40))


def _step(trainer: GuidedTrainer, step: int, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Outputs, losses, view and batch of one step, which is not learnt from."""
    pipeline, seen = trainer.pipeline, {}
    guidance_losses, base_losses = pipeline.guidance.losses, pipeline.model.get_loss_dict

    def at_guidance(outputs: Any, view: TrainView, base: Any) -> Any:
        seen.update(outputs=outputs, view=view, base=dict(base))
        return guidance_losses(outputs, view, base)

    def at_model(outputs: Any, batch: Any, metrics: Any) -> Any:
        seen.update(image=batch["image"].clone())
        return base_losses(outputs, batch, metrics)

    patch.setattr(pipeline.guidance, "losses", at_guidance)
    patch.setattr(pipeline.model, "get_loss_dict", at_model)
    pipeline.train()
    pipeline.model.step_cb(trainer.optimizers, step)
    seen["losses"] = pipeline.get_train_loss_dict(step)[1]
    patch.undo()
    return seen


@pytest.mark.parametrize("step", [0, 30], ids=["early", "full size"])
def test_photographs_have_a_weight_and_a_silhouette(
    cut_out: GuidedTrainer, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [_step(cut_out, step, monkeypatch) for _ in range(3)]
    assert len({one["view"].weight for one in seen}) == 3
    for one in seen:
        outputs, view, losses = one["outputs"], one["view"], one["losses"]
        assert view.photo is not None
        assert (outputs["rgb"].shape[0] < view.camera.height) == (step == 0)
        torch.testing.assert_close(losses["main_loss"], one["base"]["main_loss"] * view.weight)
        error = (outputs["accumulation"] - resized(view.alpha, *outputs["accumulation"].shape[:2])).abs().mean()
        torch.testing.assert_close(losses["silhouette_loss"], error * view.weight)


def test_a_silhouette_stands_before_the_background_of_the_step(
    cut_out: GuidedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As splatfacto shows its own cut-out photographs."""
    one = _step(cut_out, 30, monkeypatch)
    background, own = one["outputs"]["background"], cut_out.pipeline.model.background_color
    assert (background - own).abs().max() > 0.05
    photograph = cut_out.pipeline.datamanager.cached_train[one["view"].photo]["image"].float() / 255
    alpha = photograph[..., 3:]
    assert 0 < float(alpha.mean()) < 1
    wanted = photograph[..., :3] * alpha + background * (1 - alpha)
    torch.testing.assert_close(one["image"], wanted, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------- windows of densification


def _weighing(scene: Path, name: str) -> Any:
    config = config_of(CASES["weighing-splatfacto"], scene, name, 40)
    config.pipeline.model.refine_every = 1
    config.pipeline.model.reset_alpha_every = 30
    config.pipeline.model.densify_grad_thresh = 1e-12  # whatever may grow does
    config.pipeline.model.cull_alpha_thresh = 0.005  # hardly anything is pruned
    config.pipeline.model.max_gs_num = 100_000
    config.pipeline.floaters.prune = False
    return config


@pytest.fixture(scope="module")
def windowed(scene: Path) -> tuple[GuidedTrainer, dict[int, Any]]:
    """40 steps in two windows, 0 with growth at 8 and 9, and 20 with growth from 25 on."""
    trainer = set_up(_weighing(scene, "windows"))
    strategy, group = trainer.pipeline.model.strategy, trainer.optimizers.optimizers["means"].param_groups[0]
    return trainer, _each_step(
        trainer, lambda step: (strategy.reset_every, float(group["lr"]), len(trainer.pipeline.model.means))
    )


def test_gaussians_multiply_in_windows_alone(windowed: tuple[GuidedTrainer, dict[int, Any]]) -> None:
    trainer, seen = windowed
    counts = [seen[step][2] for step in range(40)] + [len(trainer.pipeline.model.means)]
    growth = [step for step in range(40) if counts[step + 1] > counts[step]]
    assert growth[:3] == [8, 9, 25]
    assert set(growth) <= {8, 9, *range(25, 40)}


def test_opacities_are_reset_in_windows_that_say_so(windowed: tuple[GuidedTrainer, dict[int, Any]]) -> None:
    _, seen = windowed
    assert {seen[step][0] for step in range(20)} == {30}
    assert {seen[step][0] for step in range(20, 40)} == {NEVER}


def _assert_restarted(rates: list[float], first: float, last: float) -> None:
    """Decays evenly twice, over twenty steps each."""
    for start in (0, 20):
        assert rates[start] == pytest.approx(first)
        for step in range(start + 1, start + 20):
            share = (step - start) / 20
            assert rates[step] == pytest.approx(first ** (1 - share) * last**share)


def test_the_rate_of_the_means_begins_anew(windowed: tuple[GuidedTrainer, dict[int, Any]]) -> None:
    trainer, seen = windowed
    means = trainer.config.optimizers["means"]
    _assert_restarted([seen[step][1] for step in range(40)], means["optimizer"].lr, means["scheduler"].lr_final)


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, 20, 25])
def test_rates_and_windows_of_a_resumed_training(
    windowed: tuple[GuidedTrainer, dict[int, Any]], scene: Path, step: int
) -> None:
    trainer, seen = windowed
    config = _weighing(scene, f"windows from {step}")
    config.load_checkpoint = checkpoint(trainer, step)
    resumed = set_up(config)
    strategy, group = resumed.pipeline.model.strategy, resumed.optimizers.optimizers["means"].param_groups[0]
    again = _each_step(
        resumed, lambda step: (strategy.reset_every, float(group["lr"]), len(resumed.pipeline.model.means))
    )
    assert again == {s: seen[s] for s in range(step + 1, 40)}
    assert_same(final_state(resumed), final_state(trainer))


@pytest.mark.slow
def test_windows_of_a_training_that_goes_on_from_another_method(scene: Path) -> None:
    """Steps go on counting, the schedule of rates begins anew."""
    plain = trained(config_of(CASES["sparse-splatfacto"], scene, "plain", 10))
    path = checkpoint(plain, 9)
    state = checkpoints.load(path)
    del state[STATE_KEY]
    torch.save(state, path)  # as splatfacto would have written it
    config = _weighing(scene, "on")
    config.load_checkpoint = path
    trainer = set_up(config)
    group = trainer.optimizers.optimizers["means"].param_groups[0]
    seen = _each_step(trainer, lambda step: (trainer.pipeline.model.strategy.reset_every, float(group["lr"])))
    assert sorted(seen) == list(range(10, 50))
    means = config.optimizers["means"]
    _assert_restarted([seen[s][1] for s in range(10, 50)], means["optimizer"].lr, means["scheduler"].lr_final)
    assert [s for s in seen if seen[s][0] == NEVER] == list(range(30, 50))


def test_fit_follows_windows() -> None:
    config = SplatModelConfig(resolution_schedule=10, num_downscales=1, max_gs_num=0)
    config.refine_every, config.reset_alpha_every = 10, 30
    config.warmup_length, config.stop_split_at = 50, 500
    own = config.fitness(1000)
    assert not own.at(100) and own.at(101)  # there is one at 0
    assert not own.at(400) and own.at(401) and own.at(499)  # reset at 300, none from 500 on
    windows = [Window(0, 200, 400), Window(600, 620, 900, reset=False), Window(900, 910, 1000)]
    fit = config.fitness(1000, windows)
    assert not fit.at(209) and fit.at(210)
    assert not fit.at(400) and fit.at(401)
    assert fit.at(601) and fit.at(899)
    assert not fit.at(900) and not fit.at(1000)  # reset at 900
    assert config.fitness(1000, [Window(900, 950, 1000, reset=False)]).at(899) == own.at(899)


# ---------------------------------------------------------------------- joint work and boundaries


class _Killed(BaseException):
    pass


def _joint(scene: Path, name: str) -> Any:
    config = config_of(CASES["joint-splatfacto"], scene, name, 24)
    config.steps_per_save = 7
    return config


@pytest.fixture(scope="module")
def joint(scene: Path) -> GuidedTrainer:
    """An uninterrupted training of 24 steps: parts at 12, 13, 14, the rest at the boundary, 15; saved at 7, 14, 21."""
    return trained(_joint(scene, "joint"))


def test_a_boundary_cannot_wait(joint: GuidedTrainer) -> None:
    part = {step: checkpoints.load(checkpoint(joint, step)) for step in (7, 14, 21)}
    parts = {step: state[STATE_KEY]["parts"]["guidance"]["part"] for step, state in part.items()}
    assert parts == {7: 0, 14: 3, 21: JointGuidance.PARTS}


def test_viewers_get_the_lock_between_parts_of_a_boundary(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = set_up(_joint(scene, "viewed"))
    free: list[bool] = []

    def pause(seconds: float) -> None:
        free.append(not trainer.train_lock.locked())

    monkeypatch.setattr("difix3d_ns.ns.trainer.time.sleep", pause)
    trainer.train()
    assert free.count(True) >= JointGuidance.PARTS - 4  # parts 4 to 7 wait for nobody but viewers


@pytest.mark.parametrize("saves", [False, True], ids=["after the step before", "between parts of the boundary"])
def test_killed_in_a_boundary_and_resumed(
    joint: GuidedTrainer, scene: Path, saves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if saves:
        monkeypatch.setattr("difix3d_ns.ns.trainer._SAVE_IN_BOUNDARIES", -1.0)  # seconds
    killed = set_up(_joint(scene, f"killed {saves}"))
    guidance = killed.pipeline.guidance
    before_step = guidance.before_step

    def fatal(step: int) -> bool:
        again = before_step(step)
        if guidance.part == 6:
            assert again and step == guidance.boundary
            raise _Killed
        return again

    monkeypatch.setattr(guidance, "before_step", fatal)
    with pytest.raises(_Killed):
        killed.train()
    config = _joint(scene, f"resumed {saves}")
    config.load_checkpoint = checkpoint(killed, 14)
    saved = checkpoints.load(config.load_checkpoint)[STATE_KEY]["parts"]["guidance"]["part"]
    assert saved == (5 if saves else 3)  # the part during which it was killed is lost
    resumed = trained(config)
    assert_same(final_state(resumed), final_state(joint))


# ---------------------------------------------------------------------- enlarged photographs


@pytest.mark.slow
def test_an_enlarged_photograph_takes_the_place_of_the_photograph(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(CASES["enlarge-splatfacto"], scene, "enlarged", 24)
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    config.pipeline.guidance.low_weight = 3.0
    trainer = trained(config)
    pipeline = trainer.pipeline
    assert list(pipeline.guidance.pool) == [f"photo/{index:04d}" for index in range(5)]
    assert pipeline.model.camera_optimizer.pose_adjustment.abs().max() > 1e-5
    one = _step(trainer, 24, monkeypatch)
    view, render = one["view"], one["outputs"]["rgb"]
    assert render.shape == view.image.shape == (60, 80, 3)
    photo = pipeline.scene.photo(view.photo)
    assert torch.equal(view.extra["low"], photo.image)
    assert not torch.equal(view.camera.camera_to_world, photo.pose.camera_to_world)  # corrected in the step, once
    low = (resized(render, 30, 40) - photo.image).abs().mean()
    torch.testing.assert_close(one["losses"]["low_loss"], 3.0 * low)
    torch.testing.assert_close(resized(view.image, 30, 40), photo.image, atol=0.2, rtol=0)
    assert one["losses"]["main_loss"] == one["base"]["main_loss"]


def test_settings_of_the_example_are_checked() -> None:
    from difix3d_ns.errors import UserError

    config = CASES["enlarge-splatfacto"].method().config.pipeline.guidance
    for name, value in (("start", 1.5), ("low_weight", -1.0)):
        with pytest.raises(UserError, match=f"--pipeline.guidance.{name.replace('_', '-')} {value}"):
            replace(config, **{name: value}).check("--pipeline.guidance")
