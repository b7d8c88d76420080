"""Views predicted from few photographs: where, when, from what, how they weigh, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.guidance.sparsefusion import MAX_NOISE, SHOWN, SparseFusionConfig, SparseFusionGuidance
from difix3d_ns.io.run import Run
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.priors.base import GeneratedView, State
from difix3d_ns.priors.view_generator_config import ViewGeneratorConfig
from difix3d_ns.views.folders import RECORDS_FOLDER
from difix3d_ns.views.records import ViewRecords
from difix3d_ns.views.view import TrainView
from tests.stand_ins import FlatRenderer, ModelOfScene, NoReferences
from tests.unit.log import Log
from tests.unit.tiny_scene import datamanager, look_at, write_scene

pytestmark = pytest.mark.usefixtures("one_thread")


class _Generator:
    """A generator of one step a view: grey, as light as its noise; what it is asked is written down."""

    def __init__(self, generative: bool = False) -> None:
        self.generative = generative
        self.asked: list[tuple[int, float, bool]] = []  # photographs, noise, whether with a render
        self.depths: list[Tensor] = []  # of the first photograph

    def start(
        self,
        photographs: Sequence[PosedImage],
        cameras: Sequence[Pinhole],
        renders: Sequence[Tensor] | None = None,
        noise: float = 1.0,
        seed: int = 0,
    ) -> State:
        self.asked.append((len(photographs), noise, renders is not None))
        assert photographs[0].depth is not None
        self.depths.append(photographs[0].depth)
        size = torch.tensor([cameras[0].height, cameras[0].width])
        return {"size": size, "noise": torch.tensor(noise), "left": torch.tensor(1)}

    def again(self, state: State, renders: Sequence[Tensor] | None = None, noise: float = 1.0, seed: int = 0) -> State:
        self.asked.append((0, noise, renders is not None))
        return {**state, "noise": torch.tensor(noise), "left": torch.tensor(1)}

    def steps_left(self, state: State) -> int:
        return int(state["left"])

    def step(self, state: State) -> State:
        return {**state, "left": torch.tensor(0)}

    def result(self, state: State) -> list[GeneratedView]:
        height, width = state["size"].tolist()
        ones = torch.ones(height, width, 1)
        grey = ones.expand(-1, -1, 3) * float(state["noise"])
        return [GeneratedView(grey, 0.5 * ones, ones * 0.8, 2 * ones, weight=float(state["noise"]))]


def _set_up(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    generator: _Generator | None = None,
    photos: int = 3,
    steps: int = 90,
    scene: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[SparseFusionGuidance, FlatRenderer, Log]:
    made = generator or _Generator()
    monkeypatch.setattr(ViewGeneratorConfig, "load", lambda self, device, flag_prefix="": made)
    manager = datamanager(write_scene(folder / "scene", count=photos + 1, **(scene or {})))
    data = TrainingScene(manager, ModelOfScene(len(manager.train_dataset)))
    guidance = SparseFusionConfig(**{"count": 4, **settings}).setup()
    assert isinstance(guidance, SparseFusionGuidance)
    renderer, log = FlatRenderer(), Log()
    guidance.setup(data, renderer, NoReferences(), Run(steps, folder=folder, tracker=log))
    return guidance, renderer, log


def _run(guidance: SparseFusionGuidance, first: int, last: int) -> None:
    for step in range(first, last):
        assert guidance.before_step(step) is False


def test_every_view_is_predicted_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = _Generator()
    guidance, renderer, log = _set_up(tmp_path, monkeypatch, generator)
    assert guidance.around == "hemisphere" and len(guidance.targets) == 4
    _run(guidance, 0, 29)
    assert [entry[0] for entry in generator.asked] == [3] * 4 and not renderer.rendered
    assert len(guidance.pool) == 4
    assert "4 views around what the cameras look at are predicted from 3 photos" in log.lines[0]
    assert "20% of their pixels" not in " ".join(guidance.status(29).lines)  # all are likely to be seen
    heads = ViewRecords(tmp_path / RECORDS_FOLDER).heads()
    assert len(heads) == 4 and heads[0].numbers == {"confidence": 0.5, "no photo shows": 0.0}


def test_predictions_are_made_once_more_by_the_splats_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = _Generator()
    guidance, _, _ = _set_up(tmp_path, monkeypatch, generator, again=True)
    _run(guidance, 0, 90)
    assert [entry[0] for entry in generator.asked] == [3] * 8
    assert all((depth == 2).all() for depth in generator.depths[4:])  # the renderer's
    assert not any((depth == 2).all() for depth in generator.depths[:4])


def test_a_generative_one_starts_from_noised_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = _Generator(generative=True)
    guidance, renderer, _ = _set_up(tmp_path, monkeypatch, generator, refresh=3)
    _run(guidance, 0, 30)
    assert [entry[1:] for entry in generator.asked] == [(0.0, False)] * 4  # what photos tell, without noise
    _run(guidance, 30, 90)
    later = generator.asked[4:]
    assert len(later) == 17 == len(renderer.rendered)  # every third step up to nine tenths
    assert all(photos == 0 and rendered for photos, _, rendered in later)  # what photos tell is not made again
    noises = [noise for _, noise, _ in later]
    assert min(noises) < 0.3 and max(noises) > 0.7 and max(noises) <= MAX_NOISE and len(set(noises)) == len(noises)
    view = next(view for step in range(60) if (view := guidance.next_view(step, torch.Generator().manual_seed(step))))
    assert view.weight == pytest.approx(float(view.image.mean()), abs=1e-4)  # this generator's weight is its noise


def test_shares_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _, _ = _set_up(tmp_path, monkeypatch, probability=0.25, weight=0.5)
    generator = torch.Generator().manual_seed(0)
    assert all(guidance.next_view(0, generator) is None for _ in range(20))  # none is there yet
    _run(guidance, 0, 10)
    drawn = [guidance.next_view(10, generator) for _ in range(400)]
    views = [view for view in drawn if view is not None]
    assert 70 < len(views) < 130
    assert {view.key for view in views} == {f"orbit/{number:03d}" for number in range(4)}
    assert all(view.weight == 0.5 and view.photo is None and view.depth is None for view in views)


def test_a_view_is_predicted_from_the_photos_turned_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _, log = _set_up(tmp_path, monkeypatch, photos=8)
    camera = guidance._scene.unoptimized_camera(7)
    shown = guidance._shown(camera)
    assert len(shown) == SHOWN
    assert any(torch.equal(one.pose.camera_to_world, camera.camera_to_world) for one in shown)
    assert "made for 2 to 6 photos" in log.lines[1] and "difix3d-splatfacto" in log.lines[1]


def test_what_cannot_be_helped_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"1 photo: .* two photos or more.*sparse-splatfacto"):
        _set_up(tmp_path / "one", monkeypatch, photos=1)
    street = [look_at((2.0, 0.0, 0.4)) for _ in range(4)]
    for number, pose in enumerate(street):
        pose[1, 3] = 0.5 * number
    _, _, log = _set_up(tmp_path / "street", monkeypatch, scene={"poses": street})
    assert "between and beyond the cameras" in log.lines[0] and "do not stand around one thing" in log.lines[1]


def test_cut_out_photos_cut_out_what_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _, _ = _set_up(tmp_path, monkeypatch, scene={"mode": "RGBA"})
    _run(guidance, 0, 10)
    alpha = guidance.pool.get("orbit/000").alpha
    assert alpha is not None and alpha.shape == (30, 40, 1)
    guidance, _, _ = _set_up(tmp_path / "whole", monkeypatch)
    _run(guidance, 0, 10)
    assert guidance.pool.get("orbit/000").alpha is None


@pytest.mark.parametrize("photo", [None, 0])
def test_losses(photo: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _, _ = _set_up(tmp_path, monkeypatch, photo_loss="huber", opacity_weight=0.5)
    camera = guidance.targets[0]
    ones = torch.ones(camera.height, camera.width, 1)
    view = TrainView("a", camera, 0.5 * ones.expand(-1, -1, 3), photo=photo)
    outputs = {"rgb": 0.9 * ones.expand(-1, -1, 3), "accumulation": 0.0 * ones}
    losses = guidance.losses(outputs, view, {"main_loss": torch.tensor(7.0)})
    assert float(losses["opacity_loss"]) == pytest.approx(0.5 * 0.1)
    assert "silhouette_loss" not in losses  # they are not cut out
    # Huber's with a threshold of a tenth, over it: 0.4 - 0.05
    assert float(losses["main_loss"]) == pytest.approx(7.0 if photo is None else 0.35)
    valid = replace(view, valid=0.0 * ones)
    assert photo is None or float(guidance.losses(outputs, valid, {"main_loss": torch.tensor(7.0)})["main_loss"]) == 0


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("count", 0, "count"),
        ("bootstrap", 1.5, "bootstrap"),
        ("probability", -1, "probability"),
        ("refresh", 0, "refresh"),
    ],
)
def test_settings_are_checked(setting: str, value: float, named: str) -> None:
    with pytest.raises(UserError, match=f"--pipeline.guidance.{named} "):
        SparseFusionConfig(**{setting: value}).check("--pipeline.guidance")
    config = SparseFusionConfig(view_generator=ViewGeneratorConfig(name="sparsefusoin"))
    with pytest.raises(UserError, match="did you mean sparsefusion"):
        config.check("--pipeline.guidance")


def test_another_generator_goes_on_with_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _, _ = _set_up(tmp_path, monkeypatch)
    _run(guidance, 0, 10)
    state = guidance.state_dict(10)
    with pytest.raises(UserError, match=r"view-generator\.name other"):
        guidance.load_state_dict({**state, "generator": "other"}, tmp_path, 10)


def test_a_view_that_became_unreadable_is_made_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = _Generator()
    guidance, _, _ = _set_up(tmp_path, monkeypatch, generator, count=1)
    _run(guidance, 0, 5)
    monkeypatch.setattr(guidance.pool, "drawn", lambda key: None)
    drawn = [guidance.next_view(5, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert drawn == [None] * 8
    monkeypatch.undo()
    _run(guidance, 5, 10)
    assert len(generator.asked) == 2


def test_a_resumed_training_has_the_cameras_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever points, number of views or kind is given now."""
    guidance, renderer, log = _set_up(tmp_path, monkeypatch)
    _run(guidance, 0, 10)
    state = guidance.state_dict(10)
    again = SparseFusionConfig(count=9, around="scene").setup()
    assert isinstance(again, SparseFusionGuidance)
    again.setup(guidance._scene, renderer, NoReferences(), Run(90, folder=tmp_path, tracker=log, resumed=True))
    again.load_state_dict(state, tmp_path, 10)
    assert len(again.targets) == 4
    for one, other in zip(again.targets, guidance.targets, strict=True):
        assert torch.equal(one.camera_to_world, other.camera_to_world.float())
    assert len(again.status(10).views) == 4


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_silhouettes_are_taught_where_predictions_are_trusted(
    confidence: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _Generator.result
    monkeypatch.setattr(
        _Generator,
        "result",
        lambda self, state: [
            replace(v, confidence=confidence * torch.ones_like(v.confidence)) for v in made(self, state)
        ],
    )
    guidance, _, _ = _set_up(tmp_path, monkeypatch, scene={"mode": "RGBA"})
    _run(guidance, 0, 10)
    view = guidance.pool.get("orbit/000")
    ones = torch.ones(30, 40, 1)
    outputs = {"rgb": 0.5 * ones.expand(-1, -1, 3), "accumulation": 0.3 * ones}
    losses = guidance.losses(outputs, view, {"main_loss": torch.tensor(1.0)})
    assert (float(losses["silhouette_loss"]) > 0) == (confidence > 0)
    photo = replace(view, photo=0, alpha=None, valid=None)
    assert float(guidance.losses(outputs, photo, {"main_loss": torch.tensor(1.0)})["silhouette_loss"]) > 0
