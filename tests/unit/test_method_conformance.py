"""What holds for every method: exact resume, nothing learnt from evaluation, whose corrections apply, bounded work."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.guidance.base import Guidance
from difix3d_ns.io import checkpoints
from difix3d_ns.ns.rendering import SplatRenderer
from difix3d_ns.ns.trainer import STATE_KEY, GuidedTrainer
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.blend import BlendFixer
from difix3d_ns.views.view import TrainView
from tests.unit.method_cases import (
    CASES,
    PHOTOGRAPHS,
    STEPS,
    Case,
    State,
    assert_same,
    checkpoint,
    config_of,
    final_state,
    set_up,
    trained,
)
from tests.unit.tiny_scene import look_at, write_scene


@dataclass
class Work:
    """What one call of ``before_step`` did."""

    step: int
    renders: int = 0
    fixes: int = 0


@dataclass
class Watched:
    """A finished training and what its guidance did."""

    case: Case
    trainer: GuidedTrainer
    work: list[Work] = field(default_factory=list)

    def state(self, step: int) -> State:
        """The checkpoint of a step."""
        return checkpoints.load(checkpoint(self.trainer, step))

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first, without the last."""
        return sorted(checkpoints.checkpoint_steps(self.trainer.checkpoint_dir))[:-1]

    @property
    def busy_step(self) -> int:
        """Step of the first checkpoint in the middle of the guidance's work; without any, half way through training."""
        if self.case.busy is None:
            return self.steps[len(self.steps) // 2]
        return next(step for step in self.steps if self.case.busy(self.state(step)[STATE_KEY]["parts"]["guidance"]))


@contextmanager
def _counting(guidance_class: type[Guidance], work: list[Work]) -> Iterator[None]:
    """Meanwhile what each call of ``before_step`` does is counted."""
    with pytest.MonkeyPatch.context() as patch:
        before_step = guidance_class.before_step

        def counted(self: Guidance, step: int) -> bool:
            work.append(Work(step))
            try:
                return before_step(self, step)
            finally:
                work.append(Work(-1))  # renders of others are not its own

        def count(owner: type, name: str, counter: str, number: Callable[..., int]) -> None:
            function = getattr(owner, name)

            @functools.wraps(function)
            def counting(*arguments: Any, **named: Any) -> Any:
                if work:
                    setattr(work[-1], counter, getattr(work[-1], counter) + number(*arguments[1:], **named))
                return function(*arguments, **named)

            patch.setattr(owner, name, counting)

        def requests(requests: Sequence[FixRequest]) -> int:
            return len(requests)

        patch.setattr(guidance_class, "before_step", counted)
        count(SplatRenderer, "render", "renders", lambda *_, **__: 1)
        count(SplatRenderer, "median_depth", "renders", lambda *_, **__: 1)
        count(BlendFixer, "fix", "fixes", requests)
        yield
    work[:] = [entry for entry in work if entry.step >= 0]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    return write_scene(tmp_path_factory.mktemp("conformance") / "scene", count=PHOTOGRAPHS + 1)


@pytest.fixture(scope="module", params=CASES)
def watched(request: pytest.FixtureRequest, scene: Path) -> Watched:
    """One training of a method, which most tests look at."""
    case = CASES[request.param]
    work: list[Work] = []
    config = config_of(case, scene, "whole")
    with _counting(config.pipeline.guidance._target, work):
        trainer = trained(config)
    return Watched(case, trainer, work)


# ---------------------------------------------------------------------- resume


@pytest.mark.parametrize("moment", ["early", "in the middle of its work"])
def test_a_resumed_training_ends_as_an_uninterrupted_one(watched: Watched, scene: Path, moment: str) -> None:
    step = watched.steps[1] if moment == "early" else watched.busy_step
    config = config_of(watched.case, scene, f"from {step}")
    config.load_checkpoint = checkpoint(watched.trainer, step)
    resumed = trained(config)
    assert resumed._start_step == step + 1
    assert_same(final_state(resumed), final_state(watched.trainer))


def test_state_goes_round(watched: Watched, scene: Path) -> None:
    """Into a file of plain values and tensors, and back into another guidance that then has the same."""
    step = watched.busy_step
    config = config_of(watched.case, scene, "round trip")
    config.load_checkpoint = checkpoint(watched.trainer, step)
    guidance = set_up(config).pipeline.guidance
    state = guidance.state_dict(step)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=True), state)
    saved = watched.state(step)[STATE_KEY]["parts"]["guidance"]
    assert_same(state, saved)
    assert bool(state) == (type(guidance).state_dict is not Guidance.state_dict)


# ---------------------------------------------------------------------- nothing learnt from evaluation


def _other_evaluation(meta: dict[str, Any]) -> None:
    for frame in meta["frames"]:
        if frame["file_path"] in meta["test_filenames"]:
            frame["transform_matrix"] = look_at((-5.0, 1.0, 3.0)).tolist()


@pytest.mark.slow
def test_nothing_is_learnt_from_evaluation_pictures_or_poses(watched: Watched, tmp_path: Path) -> None:
    """Which show noise and lie elsewhere, while training evaluates in between."""
    other = write_scene(tmp_path / "scene", count=PHOTOGRAPHS + 1, change=_other_evaluation)
    meta = json.loads((other / "transforms.json").read_text())
    noise = np.random.default_rng(7)
    for name in meta["test_filenames"]:
        Image.fromarray(noise.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(other / name)
    trainer = trained(config_of(watched.case, other, "other evaluation"))
    here, there = (t.pipeline.datamanager.eval_dataset for t in (watched.trainer, trainer))
    assert not torch.equal(here[0]["image"], there[0]["image"])
    assert not torch.equal(here.cameras.camera_to_worlds, there.cameras.camera_to_worlds)
    assert_same(final_state(trainer), final_state(watched.trainer))


# ---------------------------------------------------------------------- densification, work


@pytest.mark.slow
def test_renders_are_unseen_by_densification(watched: Watched, scene: Path) -> None:
    """A guidance that renders before every step, depth included, trains the same splat."""
    config = config_of(watched.case, scene, "renders")
    trainer = set_up(config)
    guidance, pipeline = trainer.pipeline.guidance, trainer.pipeline
    renderer = SplatRenderer(pipeline.model)
    before_step = guidance.before_step

    def rendering(step: int) -> bool:
        again = before_step(step)
        renderer.render(pipeline.scene.cameras()[step % PHOTOGRAPHS], depth=True)
        return again

    guidance.before_step = rendering  # type: ignore[method-assign]
    trainer.train()
    whole = watched.trainer.pipeline.model
    assert_same(dict(pipeline.model.strategy_state), dict(whole.strategy_state))
    assert_same(pipeline.model.info["radii"], whole.info["radii"])
    assert_same(pipeline.model.info["means2d"], whole.info["means2d"])
    assert_same(final_state(trainer), final_state(watched.trainer))


def test_losses_are_followed_by_what_the_system_calls_its_views(watched: Watched) -> None:
    pipeline = watched.trainer.pipeline
    names = set(pipeline._losses.values())
    assert names and names <= {"photographs", pipeline.guidance.status(STEPS).plural}


def test_work_before_a_step_is_bounded(watched: Watched) -> None:
    case, work = watched.case, watched.work
    assert {entry.step for entry in work} == set(range(STEPS))
    assert max(entry.renders for entry in work) == case.renders
    assert max(entry.fixes for entry in work) == case.fixes
    calls = [sum(entry.step == step for entry in work) for step in range(STEPS)]
    assert max(calls) == case.boundary


# ---------------------------------------------------------------------- what a view carries


@pytest.fixture(scope="module")
def corrected(watched: Watched, scene: Path) -> GuidedTrainer:
    """A training of the same method with exposures and pose corrections, before its first step."""
    config = config_of(watched.case, scene, "corrected")
    config.pipeline.model.exposure = True
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    return set_up(config)


@pytest.mark.parametrize("photo", [None, 2])
def test_corrections_belong_to_photographs(corrected: GuidedTrainer, photo: int | None) -> None:
    """In a step on a made view none is learnt; on one that stands for a photograph, its own."""
    pipeline, model = corrected.pipeline, corrected.pipeline.model
    posed = pipeline.scene.photo(2)
    camera = pipeline.scene.unoptimized_camera(2)
    view = TrainView("view/2", camera, posed.image.flip(1), photo=photo)
    pipeline.train()
    model.step_cb(corrected.optimizers, 30)  # at full resolution
    corrected.optimizers.zero_grad_all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.guidance, "next_view", lambda step, generator: replace(view))
        _, losses, _ = pipeline.get_train_loss_dict(30)
    sum(losses.values()).backward()
    assert model.gauss_params["features_dc"].grad.abs().max() > 0
    for parameter in (model.exposures.residual, model.camera_optimizer.pose_adjustment):
        rows = [] if parameter.grad is None else parameter.grad.flatten(1).abs().amax(1).nonzero().flatten().tolist()
        if photo is None:
            assert rows == []
        else:
            assert photo in rows
    if photo is not None:
        assert model.camera_optimizer.pose_adjustment.grad.abs().amax(1).nonzero().flatten().tolist() == [photo]
