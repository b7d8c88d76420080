"""Where no photograph shows anything: a copying fixer teaches nothing, a generative one with a weight of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from difix3d_ns.errors import UserError
from difix3d_ns.guidance.difix import DifixConfig, DifixGuidance
from difix3d_ns.guidance.fixing import MIN_CONFIDENCE, UNSEEN_WEIGHT, ViewFixer
from difix3d_ns.io.run import Run, Tracker
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.priors.base import FixRequest, FixResult
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.priors.registry import load_prior
from difix3d_ns.views.protocols import Render
from tests.stand_ins import FlatRenderer, ModelOfScene
from tests.unit.official_difix import Official
from tests.unit.tiny_scene import datamanager, write_scene

SEEN = 0.9


class Painter:
    """A fixer that is confident of the left third alone."""

    trained_references = 0

    def __init__(self, generative: bool, seen: float, depth: bool) -> None:
        self.generative, self._seen, self._depth = generative, seen, depth

    def fix(self, requests: list[FixRequest]) -> list[FixResult]:
        return [self._fix(request) for request in requests]

    def _fix(self, request: FixRequest) -> FixResult:
        confidence = torch.zeros_like(request.image[..., :1])
        confidence[:, : confidence.shape[1] // 3] = self._seen
        return FixResult(1 - request.image, confidence, request.depth if self._depth else None)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Name of a fixer of this kind."""

    def make(generative: bool, seen: float = SEEN, depth: bool = False) -> str:
        module = ModuleType("painter.module")
        module.load = lambda weights, device, dtype: Painter(generative, seen, depth)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "painter", ModuleType("painter"))
        monkeypatch.setitem(sys.modules, "painter.module", module)
        load_prior.cache_clear()
        return "painter.module"

    return make


class Lines(Tracker):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)

    def matching(self, part: str) -> list[str]:
        return [line for line in self.lines if part in line]


class HalfOpaque(FlatRenderer):
    """Opaque below, exactly half transparent above."""

    def render(self, *args: Any, **options: Any) -> Render:
        render = super().render(*args, **options)
        alpha = torch.full_like(render.alpha, 0.51)
        alpha[: alpha.shape[0] // 2] = 0.5
        return Render(render.image, alpha, render.depth)


def _set_up(folder: Path, renderer: FlatRenderer | None = None, **settings: Any) -> tuple[DifixGuidance, Lines]:
    manager = datamanager(write_scene(folder / "scene", count=6))
    scene = TrainingScene(manager, ModelOfScene(len(manager.train_dataset)))
    renderer = renderer or FlatRenderer(fit_from=10)
    guidance, tracker = DifixGuidance(DifixConfig(rounds=1, **settings)), Lines()
    run = Run(400, images=len(manager.train_dataset), folder=folder, tracker=tracker)
    guidance.setup(scene, renderer, ReferenceViews(scene, renderer), run)
    return guidance, tracker


def _fix(folder: Path, renderer: FlatRenderer, unseen: float | None, name: str) -> FixResult:
    guidance, _ = _set_up(folder, renderer, fixer=FixerConfig(name), unseen_weight=unseen)
    camera = guidance._scene.cameras()[0]
    (view,) = guidance._fixing.fix([camera], [0])
    return view.result


@pytest.mark.parametrize(("given", "weight"), [(None, UNSEEN_WEIGHT), (0.0, 0.0), (0.4, 0.4), (1.0, 1.0)])
def test_a_generative_fixer_teaches_where_the_splat_is_opaque(
    tmp_path: Path, painter: Callable[..., str], given: float | None, weight: float
) -> None:
    result = _fix(tmp_path, HalfOpaque(fit_from=10), given, painter(generative=True, depth=True))
    height, third = result.confidence.shape[0] // 2, result.confidence.shape[1] // 3
    assert (result.confidence[height:, third:] == weight).all()
    assert (result.confidence[height:, :third] == max(weight, torch.tensor(SEEN))).all()
    assert (result.confidence[:height, third:] == 0).all()  # opacity of exactly a half is not enough
    depth = result.confidence if result.depth_confidence is None else result.depth_confidence
    assert (depth[:, third:] == 0).all() and (depth[:, :third] == torch.tensor(SEEN)).all()


def test_a_copying_fixer_teaches_nothing_there(tmp_path: Path, painter: Callable[..., str]) -> None:
    name = painter(generative=False)
    for number, given in enumerate((None, 0.0)):
        result = _fix(tmp_path / str(number), FlatRenderer(fit_from=10), given, name)
        assert result.confidence[:, result.confidence.shape[1] // 3 :].max() == 0
        assert result.depth_confidence is None
    message = r"--pipeline\.guidance\.unseen-weight 0\.3: the fixer 'painter\.module' carries over what photos show"
    with pytest.raises(UserError, match=message):
        _set_up(tmp_path / "refused", fixer=FixerConfig(name), unseen_weight=0.3)


def test_the_remedy_of_the_refusal_works(tmp_path: Path) -> None:
    weights = str(Official().write(tmp_path / "difix_ref"))
    guidance, tracker = _set_up(tmp_path, fixer=FixerConfig("difix", weights), unseen_weight=0.3)
    assert guidance._fixing.references == 1 and guidance._fixing.unseen_weight == 0.3
    (said,) = tracker.matching("makes up what no photo shows")
    assert "teaches with weight 0.3 there" in said and not tracker.matching("trained")


@pytest.mark.parametrize("references", [None, 2])
def test_a_training_says_that_references_are_ignored(tmp_path: Path, references: int | None) -> None:
    weights = str(Official().write(tmp_path / "difix", with_reference=False))
    guidance, tracker = _set_up(tmp_path, fixer=FixerConfig("difix", weights, references))
    (said,) = tracker.matching("trained without reference photos")
    assert ("ignored, as in the official pipeline" if references else "it is shown none") in said
    assert guidance._fixing.references == (references or 0)
    assert guidance._fixing.prepare(guidance._scene.cameras(), 1) is not bool(references)  # none to choose from


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_is_a_share(weight: float) -> None:
    with pytest.raises(UserError, match=r"--pipeline\.guidance\.unseen-weight .*\[0, 1\]"):
        DifixConfig(unseen_weight=weight).check("--pipeline.guidance")


def _round(guidance: DifixGuidance) -> list[bool]:
    """Make all views of the first round; of many draws, which learn from one of them."""
    for step in range(400):
        guidance._renderer.step = step
        guidance.before_step(step)
        if len(guidance.pool) and not guidance.queue.tasks:
            break
    generator = torch.Generator().manual_seed(0)
    return [guidance.next_view(399, generator) is not None for _ in range(40)]


@pytest.mark.parametrize(
    ("generative", "unseen", "taught"), [(False, None, False), (True, 0.0, False), (True, None, True)]
)
def test_views_that_teach_nothing_are_counted_once_a_round(
    tmp_path: Path, painter: Callable[..., str], generative: bool, unseen: float | None, taught: bool
) -> None:
    name = painter(generative, seen=0.0)
    guidance, tracker = _set_up(tmp_path, fixer=FixerConfig(name), unseen_weight=unseen, probability=1.0)
    guidance._targets, guidance._current = guidance._scene.cameras()[:3], [0, 1, 2]
    drawn = _round(guidance)
    assert len(guidance.pool) == 3
    assert all(drawn) if taught else not any(drawn)
    said = tracker.matching("teach nothing")
    assert said == [] if taught else len(said) == 1 and "3 of 3 pseudo-views teach nothing" in said[0]
    assert all((record.numbers["confidence"] >= MIN_CONFIDENCE) is taught for record in guidance._tracking.latest)


def test_the_default_fixer_says_nothing_new(tmp_path: Path) -> None:
    guidance, tracker = _set_up(tmp_path)
    assert tracker.lines == [] and guidance._fixing.references == 3 and guidance._fixing.unseen_weight == 0
    assert isinstance(guidance._fixing, ViewFixer)
