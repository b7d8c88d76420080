"""The orbit: where, when, of what, how it weighs, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.guidance.hi3d import Hi3DConfig, Hi3DGuidance
from difix3d_ns.io.run import Run
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.priors.base import FixRequest, FixResult, OrbitFrame, State
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.priors.orbit_refiner_config import OrbitRefinerConfig
from difix3d_ns.views.folders import RECORDS_FOLDER
from difix3d_ns.views.protocols import Render
from difix3d_ns.views.records import ViewRecords
from tests.pretended_cuda import out_of_memory
from tests.stand_ins import FlatRenderer, ModelOfScene, NoReferences
from tests.unit.log import Log
from tests.unit.tiny_scene import datamanager, look_at, write_scene

pytestmark = pytest.mark.usefixtures("one_thread")


class _Refiner:
    """A refiner of two steps, whose pictures are twice as large and white; what it is given is kept."""

    factor = 2

    def __init__(self) -> None:
        self.given: list[Sequence[OrbitFrame]] = []

    def start(self, frames: Sequence[OrbitFrame], seed: int = 0) -> State:
        self.given.append(frames)
        size = frames[0].image.shape
        return {"size": torch.tensor([len(frames), 2 * size[0], 2 * size[1]]), "left": torch.tensor(2)}

    def steps_left(self, state: State) -> int:
        return int(state["left"])

    def step(self, state: State) -> State:
        return {**state, "left": state["left"] - 1}

    def result(self, state: State) -> list[Tensor]:
        count, height, width = state["size"].tolist()
        return [torch.ones(height, width, 3)] * count


def _set_up(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    photos: int = 6,
    scene: dict[str, Any] | None = None,
    references: Any = None,
    **settings: Any,
) -> tuple[Hi3DGuidance, _Refiner, FlatRenderer, Log]:
    refiner = _Refiner()
    if settings.pop("refined", True):
        settings = {"fixer": FixerConfig("none"), "orbit_refiner": OrbitRefinerConfig("hi3d"), **settings}
        monkeypatch.setattr(OrbitRefinerConfig, "load", lambda self, device, flag_prefix="": refiner)
    manager = datamanager(write_scene(folder / "scene", count=photos + 1, **(scene or {})))
    data = TrainingScene(manager, ModelOfScene(len(manager.train_dataset)))
    guidance = Hi3DConfig(**{"frames": 5, "side": 20, **settings}).setup()
    assert isinstance(guidance, Hi3DGuidance)
    renderer, log = FlatRenderer(), Log()
    guidance.setup(data, renderer, references or NoReferences(), Run(90, folder=folder, tracker=log))
    return guidance, refiner, renderer, log


def _run(guidance: Hi3DGuidance, first: int, last: int) -> list[int]:
    """Calls of ``before_step`` before each step."""
    calls = []
    for step in range(first, last):
        calls.append(1)
        while guidance.before_step(step):
            calls[-1] += 1
    return calls


def test_the_orbit_is_rendered_at_once_and_refined_beside_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance, refiner, renderer, log = _set_up(tmp_path, monkeypatch)
    assert "5 frames of 40 x 30 pixels, refined from 20 x 15, which takes" in log.lines[0]
    _run(guidance, 0, 45)
    assert not renderer.rendered and guidance.next_view(44, torch.Generator()) is None
    # five renders, two steps of the refiner, five frames kept, nothing
    assert _run(guidance, 45, 55) == [5, *[1] * 9] and guidance._finished == 5
    (frames,) = refiner.given
    assert [tuple(frame.image.shape) for frame in frames] == [(15, 20, 3)] * 5
    assert all(frame.depth is not None and (frame.depth == 2).all() for frame in frames)
    assert [(camera.width, camera.height) for camera in renderer.rendered] == [(40, 30)] * 5
    heads = ViewRecords(tmp_path / RECORDS_FOLDER).heads()
    assert len(heads) == 5 and len(guidance.status(55).views) == 5
    drawn = [guidance.next_view(55, torch.Generator().manual_seed(seed)) for seed in range(400)]
    views = [view for view in drawn if view is not None]
    assert 160 < len(views) < 240 and {view.key for view in views} == {f"orbit/{number:03d}" for number in range(5)}
    assert all(view.photo is None and (view.image == 1).all() for view in views)


@pytest.mark.parametrize("owner", [FlatRenderer, _Refiner])
def test_memory_that_runs_out_is_freed_once(owner: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "render" if owner is FlatRenderer else "step"
    guidance, _, _, _ = _set_up(tmp_path / "once", monkeypatch)
    with mock.patch.object(guidance.pool, "leave_device") as left, out_of_memory(owner, name, 1):
        _run(guidance, 45, 55)
    assert guidance._finished == 5 and left.call_count == 1
    guidance, _, _, _ = _set_up(tmp_path / "twice", monkeypatch)
    with out_of_memory(owner, name, 1, 2), pytest.raises(UserError, match=r"no memory for the orbit: .*sparse-splat"):
        _run(guidance, 45, 55)


def test_it_waits_until_the_splat_is_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, refiner, renderer, _ = _set_up(tmp_path, monkeypatch)
    renderer._fit_from = 60
    _run(guidance, 0, 60)
    assert not refiner.given
    _run(guidance, 60, 61)
    assert len(refiner.given) == 1


def test_a_frame_at_a_photos_pose_is_given_the_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _, _, _ = _set_up(tmp_path, monkeypatch)
    camera = guidance._scene.unoptimized_camera(2)
    assert guidance._photo_at(camera.within(20)) == 2
    assert guidance._photo_at(guidance._scene.unoptimized_camera(3).within(20)) == 3
    beside = camera.camera_to_world.clone()
    beside[0, 3] += 0.1
    assert guidance._photo_at(type(camera)(beside, camera.intrinsics, camera.width, camera.height)) is None


def test_what_the_splat_does_not_show_is_not_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut-out objects stand before the background of each step; elsewhere it teaches nothing where nothing is."""
    for name, mode in (("cut", "RGBA"), ("whole", "RGB")):
        guidance, _, _, _ = _set_up(tmp_path / name, monkeypatch, scene={"mode": mode})
        _run(guidance, 0, 55)
        view = guidance.pool.get("orbit/000")
        shown = view.confidence
        assert shown is not None and shown.shape == (30, 40, 1) and (shown == 1).all()
        if mode == "RGB":
            assert view.alpha is None
            continue
        assert view.alpha is not None and torch.equal(view.alpha, shown)
        render = {"accumulation": torch.zeros(30, 40, 1)}  # a silhouette of its own is no more than it knows
        assert guidance.losses(render, view, {"main_loss": torch.ones(())}) == {"main_loss": 1.0}


class _Photos(NoReferences):
    """One photograph, which shows everything."""

    def select(self, camera: Pinhole, render: Render, count: int, keep: Sequence[int] = ()) -> list[int]:
        assert count == 3 and render.depth is not None
        return [1]

    def view(self, index: int) -> PosedImage:
        return PosedImage(torch.full((3, 4, 3), 0.25))


class _Copier:
    """A fixer that shows the colour of its reference, and is confident of the left half."""

    trained_references, default_references, generative = 3, 3, False

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        found = []
        for request in requests:
            image = request.references[0].image[:1, :1].expand_as(request.image)
            confidence = torch.zeros_like(request.image[..., :1])
            confidence[:, : confidence.shape[1] // 2] = 0.5
            found.append(FixResult(image, confidence))
        return found


def test_by_default_frames_have_what_photos_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And they teach where photos show something alone; with a refiner, everywhere."""
    monkeypatch.setattr(FixerConfig, "load", lambda self, device, flag_prefix="": _Copier())
    guidance, refiner, _, log = _set_up(tmp_path / "none", monkeypatch, references=_Photos(), refined=False)
    assert "5 frames of 40 x 30 pixels is rendered after 50%" in log.lines[0]
    assert _run(guidance, 0, 51)[45:] == [5, *[1] * 5] and guidance._done and not refiner.given
    view = guidance.pool.get("orbit/003")
    assert torch.allclose(view.image, torch.tensor(0.25), atol=1e-4) and view.confidence is not None
    assert view.confidence[:, :20].mean() == pytest.approx(0.5, abs=1e-3) and view.confidence[:, 20:].max() == 0
    assert guidance.status(51).records[0].pairs == (("As rendered", "With photos"), ("With photos", "Photo"))
    guidance, refiner, _, _ = _set_up(
        tmp_path / "both", monkeypatch, references=_Photos(), fixer=FixerConfig("aligned-blend")
    )
    _run(guidance, 0, 55)
    view = guidance.pool.get("orbit/003")
    assert torch.allclose(view.image, torch.tensor(0.25), atol=1e-4) and len(refiner.given) == 1
    assert view.confidence is not None and (view.confidence == 1).all()


def test_lost_frames_cost_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _, _, _ = _set_up(tmp_path, monkeypatch, probability=1.0)
    _run(guidance, 0, 46)
    for number in range(5):
        guidance.pool._forget(f"rendered/{number:03d}")
    _run(guidance, 46, 55)
    assert guidance.status(55).records[0].pairs == (("Refined", "Photo"),)
    guidance.pool._forget("orbit/002")
    drawn = [guidance.next_view(55, torch.Generator().manual_seed(seed)) for seed in range(60)]
    assert {view.key for view in drawn if view is not None} == {f"orbit/{number:03d}" for number in (0, 1, 3, 4)}
    assert None in drawn


def test_frames_are_never_larger_than_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _, _, _ = _set_up(tmp_path, monkeypatch, side=500)
    assert {(camera.width, camera.height) for camera in guidance.targets} == {(80, 60)}  # twice 40 x 30


def test_sides_follow_the_device() -> None:
    cpu, cuda, given = Hi3DConfig(), Hi3DConfig(), Hi3DConfig(side=100)
    cpu.fit(Run(90))
    cuda.fit(Run(90, device="cuda"))
    given.fit(Run(90))
    assert (cpu.side, cuda.side, given.side) == (256, 512, 100)


def test_what_cannot_be_helped_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"2 photos: an orbit needs 3.*sparsefusion-splatfacto"):
        _set_up(tmp_path / "two", monkeypatch, photos=2)
    with pytest.raises(UserError, match=r"1 photo: an orbit needs 3.*take more photos"):
        _set_up(tmp_path / "one", monkeypatch, photos=1)
    street = [look_at((2.0, 0.0, 0.4)) for _ in range(7)]
    for number, pose in enumerate(street):
        pose[1, 3] = 0.5 * number
    with pytest.raises(UserError, match=r"do not stand around one thing.*difix3d-splatfacto"):
        _set_up(tmp_path / "street", monkeypatch, scene={"poses": street})


@pytest.mark.parametrize(
    ("setting", "value"), [("frames", 2), ("begin", 1.5), ("begin", 1.0), ("probability", -1), ("side", 3)]
)
def test_settings_are_checked(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--pipeline.guidance.{setting} "):
        Hi3DConfig(**{"side": 64, setting: value}).check("--pipeline.guidance")
    with pytest.raises(UserError, match=r"orbit-refiner\.agreement -1"):
        Hi3DConfig(side=64, orbit_refiner=OrbitRefinerConfig(agreement=-1)).check("--pipeline.guidance")
    with pytest.raises(UserError, match=r"orbit-refiner\.weights a: there is no refiner; give .*name hi3d"):
        Hi3DConfig(side=64, orbit_refiner=OrbitRefinerConfig("none", "a")).check("--pipeline.guidance")
    with pytest.raises(UserError, match="did you mean hi3d"):
        Hi3DConfig(side=64, orbit_refiner=OrbitRefinerConfig(name="hi3")).check("--pipeline.guidance")


def test_a_resumed_training_refines_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, refiner, renderer, log = _set_up(tmp_path, monkeypatch)
    _run(guidance, 0, 46)
    state = guidance.state_dict(46)
    refined = OrbitRefinerConfig("hi3d")
    again = Hi3DConfig(frames=9, side=30, orbit_refiner=refined, fixer=FixerConfig("none")).setup()
    assert isinstance(again, Hi3DGuidance)
    again.setup(guidance._scene, renderer, NoReferences(), Run(90, folder=tmp_path, tracker=log, resumed=True))
    again.load_state_dict(state, tmp_path, 46)
    before = len(renderer.rendered)
    assert "7 pieces of work to go" in again.status(46).lines[0]
    _run(again, 46, 50)
    state = again.state_dict(50)  # two of the five frames are there
    again = Hi3DConfig(orbit_refiner=refined, fixer=FixerConfig("none"), side=30).setup()
    again.setup(guidance._scene, renderer, NoReferences(), Run(90, folder=tmp_path, tracker=log, resumed=True))
    again.load_state_dict(state, tmp_path, 50)
    assert "3 pieces of work to go" in again.status(50).lines[0]
    _run(again, 50, 53)
    assert len(renderer.rendered) == before and len(refiner.given) == 1  # nothing is rendered or begun again
    assert len(again.targets) == 5 and len(again.status(53).views) == 5
    with pytest.raises(UserError, match=r"orbit-refiner\.name other"):
        again.load_state_dict({**state, "refiner": "other"}, tmp_path, 46)
