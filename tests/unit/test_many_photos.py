"""Captures of many photographs: they train as plain splatfacto does, and the log says why."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from difix3d_ns.guidance.difix import CPU_ROUNDS, PROBABILITY, DifixConfig, DifixGuidance, TargetConfig
from difix3d_ns.initialization.stereo_points import CPU_POINTS, InitialPointsConfig, stereo_room
from difix3d_ns.io.run import Run
from difix3d_ns.ns import pipeline
from difix3d_ns.ns.model import CPU_GAUSSIANS
from difix3d_ns.ns.trainer import GuidedTrainer
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.views.coverage import DENSE, SPARSE, coverage, spare_share, thinness
from tests.stand_ins import FlatRenderer, ModelOfScene, NoReferences
from tests.unit.known_scenes import look_at
from tests.unit.short_training import console_output, short_config
from tests.unit.tiny_scene import datamanager, write_scene

POINTS = torch.nn.functional.normalize(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), dim=1) * 0.4


def _orbit(count: int, degrees: float = 360.0, radius: float = 4.0) -> list:
    angles = [math.radians(degrees * index / count) for index in range(count)]
    return [look_at((radius * math.sin(angle), -radius * math.cos(angle), 0.0)) for angle in angles]


# ---------------------------------------------------------------------- how thinly photographs cover a target


def test_photographs_count_from_a_similar_side_and_distance() -> None:
    target = [look_at((0.0, -4.0, 0.0))]
    assert coverage(target, _orbit(36), POINTS) == pytest.approx([9], abs=1)  # 45 degrees to either side
    assert coverage(target, _orbit(36, degrees=40), POINTS) == pytest.approx([36], abs=1)
    assert coverage(target, _orbit(36, radius=12.0), POINTS) == [0]  # thrice as far
    away = [look_at((0.0, -4.0, 0.0), (0.0, -8.0, 0.0))]
    assert coverage(target, away * 30, POINTS) == [0]
    assert coverage(away, _orbit(36), POINTS) == [0]  # it sees no points


@pytest.mark.parametrize("steps", [1, 60, 220, 2000, 30_000])
def test_up_to_twelve_photographs_nothing_is_taken_away(steps: int) -> None:
    for photographs in range(2, SPARSE + 1):
        assert thinness(range(photographs + 1), photographs, steps) == [1.0] * (photographs + 1)


def test_thinness_falls_with_coverage_and_with_the_steps_of_each_photograph() -> None:
    assert thinness([SPARSE, (SPARSE + DENSE) / 2, DENSE, 100], 20, 10**9) == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    assert thinness([5], 60, 2000) == thinness([5], 120, 2000) == [0]
    half_of_the_steps = thinness([5], 34, 2000)[0]
    assert half_of_the_steps == spare_share(34, 2000) and 0.4 < half_of_the_steps < 0.6
    assert thinness([5], 120, 30_000)[0] > 0.8  # there is time for both


# ---------------------------------------------------------------------- pseudo-views


def _guidance(folder: Path, photographs: int, steps: int = 2000, **settings: object) -> tuple[DifixGuidance, list[str]]:
    """A guidance as a training fits and sets it up, and what it logged."""
    manager = datamanager(write_scene(folder / "scene", count=photographs + 1, size=(24, 16)))
    model = ModelOfScene(photographs)
    points = manager.train_dataparser_outputs.metadata["points3D_xyz"]
    model.seed_points = points, torch.zeros(len(points), 3)
    config = DifixConfig(fixer=FixerConfig(name="none"), **settings)  # type: ignore[arg-type]
    lines: list[str] = []
    run = Run(steps, images=photographs, folder=folder)
    run.tracker.log = lines.append  # type: ignore[method-assign]
    config.fit(run)
    guidance = config.setup()
    assert isinstance(guidance, DifixGuidance)
    guidance.setup(TrainingScene(manager, model), FlatRenderer(), NoReferences(), run)
    return guidance, lines


def test_a_sparse_capture_has_all_its_pseudo_views(tmp_path: Path) -> None:
    guidance, lines = _guidance(tmp_path, 12)
    assert guidance.schedule.rounds == CPU_ROUNDS and len(guidance.targets) == 16 and not lines
    assert guidance.config.probability == PROBABILITY


def test_a_dense_capture_has_none_and_says_why(tmp_path: Path) -> None:
    guidance, (line,) = _guidance(tmp_path, 60)
    assert guidance.schedule.rounds == 0 and guidance.config.probability == 0
    assert line.startswith("60 photos, 33 steps for each") and "without pseudo-views" in line
    assert "--pipeline.guidance.probability 0.5" in line
    assert guidance._fixing._fixer is None  # nor is it loaded
    assert not any(guidance.before_step(step) or guidance.queue.tasks for step in range(0, 2000, 50))


def test_between_them_the_thinnest_targets_get_fewer_steps(tmp_path: Path) -> None:
    guidance, (line,) = _guidance(tmp_path, 20)
    probability = guidance.config.probability
    assert probability is not None and 0.1 < probability < 0.45
    assert len(guidance.targets) == math.ceil(16 * probability / PROBABILITY) < 16
    assert f"{len(guidance.targets)} pseudo-views get {probability:.0%} of the steps" in line
    assert guidance.schedule.rounds == CPU_ROUNDS
    views = coverage(guidance._targets, guidance._scene.cameras(), guidance._scene.points())
    left_out = [views[index] for index in range(16) if index not in guidance._current]
    assert max(views[index] for index in guidance._current) <= min(left_out)


@pytest.mark.parametrize("given", [{"rounds": 3}, {"probability": 0.3}, {"rounds": 2, "probability": 0.5}])
def test_what_is_given_wins(tmp_path: Path, given: dict) -> None:
    guidance, lines = _guidance(tmp_path, 60, **given)
    assert guidance.schedule.rounds == given.get("rounds", CPU_ROUNDS) and len(guidance.targets) == 16
    assert guidance.config.probability == given.get("probability", PROBABILITY) and not lines


def test_a_resumed_training_follows_the_one_it_continues(tmp_path: Path) -> None:
    from difix3d_ns.ns import presets

    guidance, _ = _guidance(tmp_path, 20)
    again = DifixConfig(fixer=FixerConfig(name="none"))
    presets.adopt(again, presets.kept(guidance.config))
    again.fit(Run(2000))
    resumed = DifixGuidance(again)
    resumed.setup(guidance._scene, FlatRenderer(), NoReferences(), Run(2000, images=20, folder=tmp_path, resumed=True))
    resumed.load_state_dict(guidance.state_dict(0), tmp_path, 1)
    assert resumed.probability == guidance.probability and resumed.schedule == guidance.schedule
    assert len(resumed.targets) == len(guidance.targets)


def test_a_view_requested_in_a_dense_capture_is_learnt_from_as_often_as_a_photograph(tmp_path: Path) -> None:
    guidance, _ = _guidance(tmp_path, 60, targets=TargetConfig(count=2))
    guidance.request_view(guidance._scene.camera(0))
    for step in range(3):
        guidance.before_step(step)
    generator = torch.Generator().manual_seed(0)
    drawn = sum(guidance.next_view(1000, generator) is not None for _ in range(1000))
    assert len(guidance.pool) == 1 and 5 < drawn < 35  # 16 of 1000


# ---------------------------------------------------------------------- stereo


def _fitted(stereo: int | None = None) -> InitialPointsConfig:
    config = InitialPointsConfig(stereo)
    config.fit(Run(2000))
    return config


@pytest.mark.parametrize("given", [0, 800, 2000, 6605])
@pytest.mark.parametrize("photographs", [5, 12])
def test_sparse_captures_have_stereo(given: int, photographs: int) -> None:
    assert stereo_room(_fitted(), given, CPU_GAUSSIANS, photographs, 2000) == (CPU_POINTS, "")


@pytest.mark.parametrize(
    ("given", "photographs", "expected"),
    [
        (32_479, 112, "leave no room"),
        (20_000, 5, "leave no room"),
        (17_400, 30, "dense already"),
        (2000, 60, "60 photos"),
    ],
)
def test_stereo_that_would_bring_little_does_not_run(given: int, photographs: int, expected: str) -> None:
    room, reason = stereo_room(_fitted(), given, CPU_GAUSSIANS, photographs, 2000)
    assert room == 0 and expected in reason and str(given) in reason
    room, reason = stereo_room(_fitted(9000), given, CPU_GAUSSIANS, photographs, 2000)
    assert room == max(0, min(9000, 20_000 - given))  # a number that is given wins, where there is room
    assert stereo_room(_fitted(0), given, CPU_GAUSSIANS, photographs, 2000) == (0, "")


def test_without_points_even_many_photographs_have_stereo() -> None:
    assert stereo_room(_fitted(), 0, CPU_GAUSSIANS, 100, 2000)[0] == CPU_POINTS
    assert stereo_room(_fitted(), 40_000, 0, 20, 30_000) == (0, stereo_room(_fitted(), 40_000, 0, 20, 30_000)[1])


# ---------------------------------------------------------------------- a whole training


def test_a_dense_training_says_why_it_goes_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("stereo ran")

    monkeypatch.setattr(pipeline, "stereo_cloud", never)
    config = short_config(write_scene(tmp_path / "scene", count=14, size=(24, 16)), steps=4)
    config.pipeline.guidance.rounds, config.pipeline.sparse_helps = None, True
    config.pipeline.model.max_gs_num = 100
    trainer = GuidedTrainer(config)
    trainer.setup()
    said = console_output(capsys)
    assert "13 photos, 0 steps for each" in said and "leave no room for more among 100 Gaussians" in said
    assert trainer.pipeline.guidance.schedule.rounds == 0
    assert trainer.config.pipeline.guidance.probability == 0  # what config.yml and a resumed training have
