"""Photographs upscaled in rounds: when, how large, from what, what a step learns from them, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData, PlyElement
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import path_order
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.guidance.enlargement_factor import choose_factor
from difix3d_ns.guidance.round_check import RoundCheck
from difix3d_ns.guidance.round_plan import RoundPlan
from difix3d_ns.guidance.super_resolution import ThreeDSRConfig, ThreeDSRGuidance
from difix3d_ns.guidance.upscaled_photos import EnlargedPhotos
from difix3d_ns.io import checkpoints
from difix3d_ns.io.file_names import png_names
from difix3d_ns.io.run import Run
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.priors.base import State
from difix3d_ns.priors.upscaler_config import UpscalerConfig
from difix3d_ns.views.folders import RECORDS_FOLDER
from difix3d_ns.views.protocols import Render
from difix3d_ns.views.records import ViewRecords
from tests.stand_ins import FlatRenderer, ModelOfScene, NoReferences
from tests.unit import tiny_upscaler
from tests.unit.method_cases import CASES, assert_same, checkpoint, comparable, config_of, final_state, set_up, trained
from tests.unit.tiny_scene import datamanager, write_scene

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = "tests.unit.tiny_upscaler"
CPU = torch.device("cpu")


# ---------------------------------------------------------------------- when


def _guidance(**settings: Any) -> ThreeDSRGuidance:
    config = ThreeDSRConfig(**{"upscaler": UpscalerConfig(name=TINY), "photos_first": False, **settings})
    config.fit(Run(1))
    guidance = config.setup()
    assert isinstance(guidance, ThreeDSRGuidance)
    return guidance


@pytest.mark.parametrize(
    ("steps", "settings", "first", "window", "rounds"),
    [
        (4000, {}, 2000, 1000, 2),  # the tiny upscaler's two rounds share what four have
        (4000, {"rounds": 4}, 2000, 500, 4),
        (400, {}, 200, 100, 2),
        (400, {"steps_per_round": 30}, 340, 30, 2),
        (400, {"low_stage": False}, 0, 200, 2),
        (4000, {"photos_first": None}, 2000, 1000, 2),
        (400, {"rounds": 4, "steps_per_round": 30, "low_stage": False}, 0, 30, 4),
    ],
)
def test_plan(steps: int, settings: dict[str, Any], first: int, window: int, rounds: int) -> None:
    plan = _guidance(**settings)._planned(Run(steps))
    assert (plan.first, plan.window, plan.rounds) == (first, window, rounds)
    assert plan.round_at(first - 1) == -1 and plan.round_at(first) == 0
    assert plan.round_at(first + window - 1) == 0 and plan.round_at(steps - 1) == rounds - 1
    windows = plan.windows()
    assert all(w.restart_rate and not w.reset and w.start < w.densify_from < w.densify_to for w in windows)
    last = steps - windows[-1].start
    assert windows[-1].densify_from - windows[-1].start == last // 10
    assert windows[-1].densify_to - windows[-1].start == last // 2
    assert windows[0].start == first and len(windows) == rounds


def test_a_round_lasts_to_the_end_of_training() -> None:
    plan = RoundPlan(first=0, window=33, rounds=3, last=100)
    assert [plan.round_at(step) for step in (0, 32, 33, 66, 99)] == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(("on_cpu", "usual", "high"), [(True, 2000, 2000), (False, 30_000, 20_000)])
def test_length_by_default(on_cpu: bool, usual: int, high: int) -> None:
    assert ThreeDSRConfig().default_steps(usual, on_cpu) == usual + high
    assert ThreeDSRConfig().own_steps(usual + high, on_cpu) == usual
    assert ThreeDSRConfig(start=Path("a.ply")).default_steps(usual, on_cpu) == high
    tiny = UpscalerConfig(name=TINY)
    if on_cpu:  # what loads the upscaler has its device
        assert ThreeDSRConfig(upscaler=tiny, rounds=3, steps_per_round=7).default_steps(usual, on_cpu) == usual + 21


def test_too_short_a_training_is_refused() -> None:
    with pytest.raises(UserError, match=r"--max-num-iterations 60 has no room .* --pipeline.guidance.steps-per-round"):
        _guidance(steps_per_round=30).windows(Run(60))


def test_settings_are_checked() -> None:
    for settings in ({"factor": 5.0}, {"factor": 1.0}, {"factor": 2.1}, {"rounds": 0}, {"low_weight": -1.0}):
        with pytest.raises(UserError, match=f"--g.{next(iter(settings)).replace('_', '-')}"):
            ThreeDSRConfig(**settings).check("--g")
    with pytest.raises(UserError, match="leave nothing to learn from"):
        ThreeDSRConfig(low_weight=0.0, high_weight=0.0).check("--g")
    with pytest.raises(UserError, match=r"--g.photos-first True .* --g.low-weight 0"):
        ThreeDSRConfig(low_weight=0.0, photos_first=True).check("--g")
    ThreeDSRConfig(factor=1.25).check("--g")


# ---------------------------------------------------------------------- how large


@pytest.mark.parametrize(("longest", "factor"), [(400, 4), (401, 3), (534, 2), (800, 2), (801, 1.5), (1067, 1.5)])
def test_the_largest_factor_that_fits(longest: int, factor: float) -> None:
    assert choose_factor(longest, None, CPU, None) == factor


def test_factors_that_do_not_fit() -> None:
    assert choose_factor(1000, None, CPU, 2.5) == 2.5  # a given one wins where no bound is given
    for given, long_side in ((None, None), (3.0, 2000)):
        with pytest.raises(UserError, match=r"long-side \d+, .*camera-res-scale-factor 0\.\d+"):
            choose_factor(1200, long_side, CPU, given)


@pytest.mark.parametrize("longest", [1068, 1201, 3000, 4032])
def test_what_the_message_advises_is_accepted(longest: int) -> None:
    with pytest.raises(UserError) as raised:
        choose_factor(longest, None, CPU, None)
    words = str(raised.value).replace(",", "").split()
    side = int(words[words.index("--pipeline.guidance.long-side") + 1])
    share = float(words[words.index("--pipeline.datamanager.camera-res-scale-factor") + 1])
    assert choose_factor(longest, side, CPU, None) == 1.5
    assert choose_factor(int(longest * share), None, CPU, None) == 1.5


def test_names_of_files() -> None:
    assert png_names(["a/1.jpg", "b/1.jpg"]) == [Path("a/1.png"), Path("b/1.png")]
    assert png_names(["1.jpg", "1.JPG"]) == [Path("1.jpg.png"), Path("1.JPG.png")]


def test_order_along_the_path() -> None:
    def camera(x: float) -> Pinhole:
        pose = torch.eye(4)
        pose[0, 3] = x
        return Pinhole(pose, torch.eye(3), 4, 4)

    assert path_order([camera(x) for x in (2.0, 0.0, 3.0, 1.0, 9.0)]) == [4, 2, 0, 3, 1]
    assert path_order([camera(0.0)]) == [0]


def _scene(folder: Path, **settings: Any) -> TrainingScene:
    manager = datamanager(write_scene(folder / "scene", **settings))
    return TrainingScene(manager, ModelOfScene(len(manager.train_dataset)))


def test_odd_sides_are_cropped_at_their_end(tmp_path: Path) -> None:
    scene = _scene(tmp_path, size=(41, 31), masks=True)
    photos = EnlargedPhotos(scene, 1.5)
    assert photos.size(0) == (30, 40) and photos.high_size(0) == (45, 60)
    maps = photos.low_maps(0)
    assert torch.equal(maps["low"], scene.photo(0).image[:30, :40]) and maps["used"].shape == (30, 40, 1)
    camera, own = photos.camera(0), scene.unoptimized_camera(0)
    assert (camera.width, camera.height) == (60, 45)
    torch.testing.assert_close(camera.intrinsics[:2], own.intrinsics[:2] * 1.5)
    view = photos.view(0, torch.zeros(45, 60, 3))
    assert view.photo == 0 and view.valid is not None and view.alpha is None
    assert float(view.valid.mean()) == pytest.approx(0.5, abs=0.05)


def test_silhouettes_and_masks_are_apart(tmp_path: Path) -> None:
    scene = _scene(tmp_path, mode="RGBA", masks=True)
    view = EnlargedPhotos(scene, 2.0).view(1, torch.zeros(60, 80, 3))
    alpha, used = scene.alpha(1), scene.used(1)
    assert view.alpha is not None and view.valid is not None and alpha is not None and used is not None
    assert torch.equal(view.valid[::2, ::2], used)
    reduced = resample(view.alpha.permute(2, 0, 1)[None], 30, 40)[0].permute(1, 2, 0)
    torch.testing.assert_close(reduced, alpha, atol=0.05, rtol=0)
    torch.testing.assert_close(scene.mask(1), alpha * used)


def test_photos_of_several_sizes(tmp_path: Path) -> None:
    sizes = [(40, 30), (30, 40), (21, 15), (40, 30), (40, 30), (40, 30)]
    photos = EnlargedPhotos(_scene(tmp_path, sizes=sizes), 1.5)
    assert [photos.high_size(index) for index in range(3)] == [(45, 60), (60, 45), (21, 30)]


# ---------------------------------------------------------------------- from what


class _Watched(tiny_upscaler.TinyUpscaler):
    """The tiny upscaler that remembers what it was asked."""

    def __init__(self, joint: bool = False) -> None:
        own = tiny_upscaler.load()
        super().__init__(tiny_upscaler.signal_levels(tiny_upscaler.BETAS), CPU, own.levels)
        self.joint = joint
        self.asked: list[tuple[str, int]] = []
        self.renders: list[Tensor] = []

    def start(self, lows: Any, sizes: Any, seeds: Any, renders: Any = None) -> State:
        self.asked.append(("start" if renders is None else "start from renders", len(lows)))
        self.renders += renders or []
        one = None if renders is None else [renders[0]]
        return super().start([lows[0]], [sizes[0]], [seeds[0]], one) | {"count": torch.tensor(len(lows))}

    def step(self, state: State) -> State:
        self.asked.append(("step", 1))
        return super().step(state)

    def result(self, state: State) -> list[Tensor]:
        return super().result(state) * int(state["count"])

    def advance(self, state: State, renders: Sequence[Tensor]) -> State:
        self.asked.append(("advance", len(renders)))
        self.renders += renders
        return super().advance(state, renders) | {"count": state["count"]}


class _OfPhotographs(FlatRenderer):
    """A flat splat that remembers which photographs it was rendered for."""

    def __init__(self) -> None:
        super().__init__()
        self.photos: list[int | None] = []

    def render(self, camera: Pinhole, depth: bool = False, photo: int | None = None) -> Render:
        self.photos.append(photo)
        return super().render(camera, depth, photo)


def _set_up(
    folder: Path, upscaler: _Watched, steps: int = 40, count: int = 6, **settings: Any
) -> tuple[ThreeDSRGuidance, _OfPhotographs]:
    guidance = _guidance(factor=1.5, **settings)
    guidance._upscaler = lambda run: upscaler  # type: ignore[method-assign]
    renderer = _OfPhotographs()
    manager = datamanager(write_scene(folder / "scene", count=count))
    scene = TrainingScene(manager, ModelOfScene(len(manager.train_dataset)))
    guidance.setup(scene, renderer, NoReferences(), Run(steps, images=len(scene), folder=folder))
    upscaler.asked.clear()
    return guidance, renderer


def _scarce(work: Callable[[Any], Any], failures: list[bool]) -> Callable[[Any], Any]:
    """Work that runs out of memory at the calls that ``failures`` says, from the first on."""

    def tried(argument: Any) -> Any:
        if failures and failures.pop(0):
            raise torch.cuda.OutOfMemoryError("too much")
        return work(argument)

    return tried


def _boundary(guidance: ThreeDSRGuidance, step: int) -> int:
    """Calls of ``before_step`` before one step."""
    calls = 1
    while guidance.before_step(step):
        calls += 1
    return calls


def test_rounds_begin_with_all_photos(tmp_path: Path) -> None:
    upscaler = _Watched()
    guidance, renderer = _set_up(tmp_path, upscaler)
    assert _boundary(guidance, 19) == 1 and not guidance.pool
    assert guidance.next_view(19, torch.Generator()) is None
    assert _boundary(guidance, 20) == 2 * 5 + 5 + 6  # a start and a step, then five depths, five measures and the end
    assert upscaler.asked == [("start", 1), ("step", 1)] * 5 and renderer.photos == []
    first = {index: guidance.pool.get(f"photo/{index:04d}").image for index in range(5)}
    assert _boundary(guidance, 29) == 1
    assert _boundary(guidance, 30) == 2 * 5 + 5 + 6
    assert upscaler.asked[10:] == [("advance", 1), ("step", 1)] * 5
    assert sorted(renderer.photos) == list(range(5))  # each with its own exposure
    assert all(render.shape == (45, 60, 3) for render in upscaler.renders)
    assert all(not torch.equal(guidance.pool.get(f"photo/{i:04d}").image, picture) for i, picture in first.items())
    assert len(guidance.agreement) == 2
    lines = " ".join(guidance.status(35).lines)
    assert "Round **2 of 2**, level 0" in lines and "Agreement" in lines
    assert [view.group for view in guidance.status(35).views] == ["Round 2, level 0"] * 5
    for name in (f"frame_{index:03d}" for index in (0, 1, 2, 3, 5)):
        assert Image.open(tmp_path / "upscaled" / f"{name}.png").size == (60, 45)
    assert not guidance.pool.get("state/0000").extra  # of no use any more


def test_without_feedback_the_splat_is_not_rendered(tmp_path: Path) -> None:
    upscaler = _Watched()
    guidance, renderer = _set_up(tmp_path, upscaler, feedback=False)
    for step in (20, 30):
        _boundary(guidance, step)
    assert upscaler.asked.count(("advance", 1)) == 5 and renderer.photos == []
    assert len({float(render.mean()) for render in upscaler.renders}) == 5


def test_all_photos_at_once(tmp_path: Path) -> None:
    upscaler = _Watched(joint=True)
    guidance, renderer = _set_up(tmp_path, upscaler)
    assert _boundary(guidance, 20) == 2 + 5 + 6
    assert upscaler.asked == [("start", 5), ("step", 1)]
    assert _boundary(guidance, 30) == 5 + 1 + 5 + 6  # five renders; with the last the state is made
    assert upscaler.asked[2:] == [("advance", 5), ("step", 1)]
    assert renderer.photos == path_order([guidance._scene.unoptimized_camera(index) for index in range(5)])


def test_photos_first(tmp_path: Path) -> None:
    upscaler = _Watched()
    guidance, renderer = _set_up(tmp_path, upscaler, photos_first=True)
    assert guidance.next_view(19, torch.Generator()) is None
    assert _boundary(guidance, 20) == 1 and guidance.round == 0 and upscaler.asked == []
    view = guidance.next_view(20, torch.Generator().manual_seed(0))
    assert view is not None and view.weight == 0 and view.image.shape == (45, 60, 3)
    assert "Round **1 of 2**, photos alone" in " ".join(guidance.status(20).lines)
    _boundary(guidance, 30)
    assert upscaler.asked == [("start from renders", 1), ("step", 1)] * 5 and len(renderer.photos) == 5
    assert "Round **2 of 2**, level 0" in " ".join(guidance.status(30).lines)
    view = guidance.next_view(30, torch.Generator().manual_seed(0))
    assert view is not None and view.weight == 1


@pytest.mark.parametrize("bound", [-2.0, 2.0], ids=["they agree", "they do not"])
def test_photos_first_where_they_agree(bound: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.guidance.super_resolution.MIN_AGREEMENT", bound)
    upscaler = _Watched()
    guidance, _ = _set_up(tmp_path, upscaler, photos_first=None)
    assert guidance.photos_first is None and guidance.config.photos_first is None
    measuring = 5 + 6
    assert _boundary(guidance, 20) == measuring + (1 if bound < 0 else 2 * 5 + 5 + 6)
    assert guidance.photos_first == (bound < 0) and guidance.round == 0
    assert upscaler.asked == [] if bound < 0 else upscaler.asked[0] == ("start", 1)
    assert len(guidance.agreement) == (0 if bound < 0 else 1)  # of what was upscaled
    _boundary(guidance, 30)
    kinds = {kind for kind, _ in upscaler.asked}
    assert kinds == {"step", "start from renders"} if bound < 0 else {"step", "start", "advance"}


@pytest.mark.parametrize(
    "settings", [{"feedback": False}, {"low_weight": 0.0}, {"upscaler": UpscalerConfig("bicubic")}]
)
def test_photos_are_not_measured_where_it_decides_nothing(settings: dict[str, Any]) -> None:
    config = _guidance(photos_first=None, **settings).config
    assert config.begins_with_photos(config.upscaler.load(CPU)) is False


def test_one_round_cannot_be_halved() -> None:
    with pytest.raises(UserError, match=r"--pipeline.guidance.photos-first True .*--pipeline.guidance.rounds 2"):
        _guidance(photos_first=True, rounds=1).windows(Run(400))


def test_a_measure_that_memory_interrupts_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = _set_up(tmp_path / "whole", _Watched(), photos_first=None)
    _boundary(whole, 20)
    guidance, _ = _set_up(tmp_path / "short", _Watched(), photos_first=None)
    failures = [False, False, False, True]
    monkeypatch.setattr(guidance.photos, "enlarged", _scarce(guidance.photos.enlarged, failures))
    said: list[float | None] = []
    decide = guidance._decide
    monkeypatch.setattr(guidance, "_decide", lambda agreement: (said.append(agreement), decide(agreement)))
    _boundary(guidance, 20)
    assert not failures and guidance.photos_first == whole.photos_first and len(said) == 1
    check = RoundCheck(whole.photos, whole._renderer, list(range(5)))
    check.begin(whole.photos.enlarged)
    while check.running:
        check.piece()
    assert said == [check.agreement]


def test_further_rounds_keep_the_last_results(tmp_path: Path) -> None:
    upscaler = _Watched()
    guidance, _ = _set_up(tmp_path, upscaler, rounds=4)
    made = []
    for step in (20, 25, 30, 35):
        _boundary(guidance, step)
        made.append((len(upscaler.asked), guidance.round))
    assert made == [(10, 0), (20, 1), (20, 2), (20, 3)]


def test_a_state_that_is_lost_begins_anew(tmp_path: Path) -> None:
    upscaler = _Watched()
    guidance, _ = _set_up(tmp_path, upscaler)
    _boundary(guidance, 20)
    guidance.pool._forget("state/0003")
    _boundary(guidance, 30)
    assert upscaler.asked[10:].count(("start from renders", 1)) == 1


def test_memory_that_runs_out_is_freed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, _ = _set_up(tmp_path, _Watched())
    monkeypatch.setattr(guidance.upscaler, "step", _scarce(guidance.upscaler.step, [True, False, True, True]))
    with pytest.raises(UserError, match=r"smaller --pipeline.guidance.factor .*too much"):
        _boundary(guidance, 20)
    assert len(guidance.pool) == 1


# ---------------------------------------------------------------------- what a step learns


def test_each_photo_once_in_a_pass(tmp_path: Path) -> None:
    guidance, _ = _set_up(tmp_path, _Watched(), high_weight=0.5)
    _boundary(guidance, 20)
    generator = torch.Generator().manual_seed(0)
    drawn = [guidance.next_view(20 + step, generator) for step in range(10)]
    assert all(view is not None and view.weight == 0.5 and set(view.extra) == {"low"} for view in drawn)
    keys = [view.photo for view in drawn if view is not None]  # none is missing, so all count for densification
    assert sorted(keys[:5]) == sorted(keys[5:]) == list(range(5)) and keys[:5] != keys[5:]


def test_the_reduced_render_is_compared_with_the_photo(tmp_path: Path) -> None:
    guidance, _ = _set_up(tmp_path, _Watched(), low_weight=2.0)
    _boundary(guidance, 20)
    view = guidance.next_view(20, torch.Generator().manual_seed(0))
    assert view is not None and view.photo is not None
    base = {"main_loss": torch.tensor(1.0)}

    def low_loss(picture: Tensor) -> float:
        outputs = {"rgb": picture, "accumulation": torch.ones(*picture.shape[:2], 1), "background": torch.zeros(3)}
        losses = guidance.losses(outputs, view, base)
        assert losses["main_loss"] == 1.0
        return float(losses["low_loss"])

    upscaled = low_loss(view.image)
    assert upscaled < 0.02  # it was made to agree with the photo
    grey = low_loss(torch.full_like(view.image, 0.5))
    difference = float((guidance.photos.low(view.photo) - 0.5).abs().mean())
    assert grey > 2 * 0.8 * difference and upscaled < grey
    detail = view.image + 0.1 * (-1.0) ** torch.arange(60)[None, :, None]  # vanishes when it is reduced
    assert low_loss(detail) < 0.2 * low_loss(view.image + 0.1)
    assert low_loss(resample(view.image.permute(2, 0, 1)[None], 15, 20)[0].permute(1, 2, 0)) < 0.1  # an early render


def test_cut_out_photos_stand_before_the_background_of_the_step(tmp_path: Path) -> None:
    case = CASES["3dsr-splatfacto"]
    folder = write_scene(tmp_path / "scene", mode="RGBA")
    trainer = set_up(config_of(case, folder, "cut out"))
    pipeline, guidance = trainer.pipeline, trainer.pipeline.guidance
    _boundary(guidance, 30)
    view = guidance.next_view(30, torch.Generator().manual_seed(0))
    assert view is not None and set(view.extra) == {"low", "alpha"} and view.alpha is not None
    photo = pipeline.datamanager.cached_train[view.photo]["image"].float() / 255
    colours, alpha = photo[..., :3], photo[..., 3:]
    for background in (torch.zeros(3), torch.tensor([0.9, 0.1, 0.4])):
        small = colours * alpha + background * (1 - alpha)
        render = resample(small.permute(2, 0, 1)[None], *view.image.shape[:2])[0].permute(1, 2, 0)
        outputs = {"rgb": render, "accumulation": view.alpha, "background": background}
        low = guidance.losses(outputs, view, {"main_loss": torch.tensor(0.0)})["low_loss"]
        assert float(low) < 0.03


def test_an_exposure_is_rendered(tmp_path: Path) -> None:
    config = config_of(CASES["3dsr-splatfacto"], write_scene(tmp_path / "scene"), "exposed")
    config.pipeline.model.exposure = True
    pipeline = set_up(config).pipeline
    assert pipeline.model.exposures is not None
    pipeline.model.exposures.residual.data[1, :, 3] = 0.1
    camera, renderer = pipeline.scene.camera(1), pipeline.guidance._renderer
    plain, own = renderer.render(camera).image, renderer.render(camera, photo=1).image
    torch.testing.assert_close(own, pipeline.model.exposures(plain, 1))
    assert float((own - plain).abs().max()) > 0.05


def test_one_photo(tmp_path: Path) -> None:
    guidance, _ = _set_up(tmp_path, _Watched(), count=2)
    for step in (20, 30):
        _boundary(guidance, step)
    assert guidance.round == 1 and guidance.agreement == []
    assert guidance.next_view(31, torch.Generator()) is not None


# ---------------------------------------------------------------------- resume


class _Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("super") / "scene")


def _short(scene: Path, name: str) -> Any:
    config = config_of(CASES["3dsr-splatfacto"], scene, name, 24)
    config.pipeline.guidance.steps_per_round = 6
    config.steps_per_save = 7
    return config


@pytest.mark.parametrize("calls", [4, 7, 13], ids=["of a start", "of a step", "of the measure"])
def test_killed_in_a_boundary_and_resumed(scene: Path, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved after every piece, it goes on in the middle of the second round's boundary to the same bits."""
    whole = trained(_short(scene, f"whole {calls}"))
    monkeypatch.setattr("difix3d_ns.ns.trainer._SAVE_IN_BOUNDARIES", -1.0)  # seconds
    killed = set_up(_short(scene, f"killed {calls}"))
    guidance, done = killed.pipeline.guidance, []
    before_step = guidance.before_step

    def fatal(step: int) -> bool:
        again = before_step(step)
        if step == 18:
            done.append(step)
            if len(done) == calls:
                raise _Killed
        return again

    monkeypatch.setattr(guidance, "before_step", fatal)
    with pytest.raises(_Killed):
        killed.train()
    config = _short(scene, f"resumed {calls}")
    config.load_checkpoint = checkpoint(killed, 17)
    saved = checkpoints.load(config.load_checkpoint)["difix3d_ns"]["parts"]["guidance"]
    pieces = calls - 1  # that were saved: two for each of five photographs, then depths
    assert saved["round"] == 1
    assert (saved["begun"], saved["checking"]) == (pieces < 10 and pieces % 2 == 1, pieces >= 10)
    resumed = trained(config)
    assert_same(final_state(resumed), final_state(whole))
    heads = ViewRecords(resumed.base_dir / RECORDS_FOLDER).heads()
    assert len({(head.group, head.key) for head in heads}) == 2 * 5  # those made before the kill among them


@pytest.mark.parametrize("calls", [2, 6, 12], ids=["of depth", "of the measure", "of the decision"])
def test_killed_while_photos_are_measured_and_resumed(scene: Path, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.ns.trainer._SAVE_IN_BOUNDARIES", -1.0)  # seconds

    def config(name: str) -> Any:
        short = _short(scene, f"{name} {calls}")
        short.pipeline.guidance.photos_first = None
        return short

    whole = trained(config("measured"))
    killed = set_up(config("killed measuring"))
    guidance, done = killed.pipeline.guidance, []
    before_step = guidance.before_step

    def fatal(step: int) -> bool:
        again = before_step(step)
        if step == guidance.plan.first:
            done.append(step)
            if len(done) == calls:
                raise _Killed
        return again

    monkeypatch.setattr(guidance, "before_step", fatal)
    with pytest.raises(_Killed):
        killed.train()
    again = config("measured again")
    again.load_checkpoint = checkpoint(killed, guidance.plan.first - 1)
    saved = checkpoints.load(again.load_checkpoint)["difix3d_ns"]["parts"]["guidance"]
    assert (saved["checking"], saved["photos first"] is None) == (calls <= 11, calls <= 11)
    assert_same(final_state(trained(again)), final_state(whole))


@pytest.mark.parametrize(
    ("saved", "round", "given", "expected"),
    [
        (None, -1, True, True),
        (None, -1, None, None),
        (True, 0, None, True),
        (False, 1, False, False),
        (True, -1, False, False),
    ],
)
def test_what_was_decided_holds(saved: Any, round: int, given: Any, expected: Any, tmp_path: Path) -> None:
    guidance, _ = _set_up(tmp_path, _Watched(), photos_first=given)
    guidance._take_over({"photos first": saved, "round": round})
    assert guidance.photos_first == expected


def test_what_was_decided_cannot_be_changed(tmp_path: Path) -> None:
    guidance, _ = _set_up(tmp_path, _Watched(), photos_first=False)
    with pytest.raises(UserError, match=r"--pipeline.guidance.photos-first True: give that"):
        guidance._take_over({"photos first": True, "round": 0})
    with pytest.raises(UserError, match=r"earlier version, .* begin again"):
        guidance._take_over({"round": 0})


# ---------------------------------------------------------------------- from a splat


@pytest.fixture(scope="module")
def plain(scene: Path) -> Path:
    """Folder of a training of another method on the same photos."""
    config = config_of(CASES["sparse-splatfacto"], scene, "plain", 40)
    config.pipeline.model.rasterize_mode = "antialiased"
    return trained(config).checkpoint_dir.parent


def _started(scene: Path, start: Path, name: str) -> Any:
    config = _short(scene, name)
    config.max_num_iterations = 12
    config.pipeline.guidance.start = start
    return config


@pytest.fixture
def no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """These splats are trained for a moment."""
    for module in ("guidance.super_resolution", "ns.starting_splat"):
        monkeypatch.setattr(f"difix3d_ns.{module}.MIN_PSNR", 5.0)


@pytest.mark.usefixtures("no_bound")
@pytest.mark.parametrize("form", ["config.yml", "folder", "checkpoints", "checkpoint"])
def test_rounds_begin_with_a_trained_splat(scene: Path, plain: Path, form: str, capsys: pytest.CaptureFixture) -> None:
    models = plain / "nerfstudio_models"
    last = checkpoints.load_newest(models)
    path = {"config.yml": plain / "config.yml", "folder": plain, "checkpoints": models, "checkpoint": last[0]}[form]
    trainer = set_up(_started(scene, path, f"from {form}"))
    assert torch.equal(trainer.pipeline.model.means.detach(), last[1]["pipeline"]["_model.gauss_params.means"])
    assert (trainer._start_step, trainer.pipeline.guidance.plan.first) == (40, 40)
    assert "with a PSNR of" in " ".join(capsys.readouterr().out.split())
    if form == "folder":
        trainer.train()
        assert trainer.pipeline.guidance.round == 1
        config = _started(scene, plain, "resumed from folder")
        config.pipeline.guidance.start = None
        config.load_checkpoint = checkpoint(trainer, 42)
        assert_same(_last(trained(config)), _last(trainer))


def _last(trainer: Any) -> Any:
    return comparable(checkpoints.load_newest(trainer.checkpoint_dir)[1])


def write_splat(path: Path, gaussians: dict[str, Tensor], harmonics: int = 15) -> Path:
    """An exported splat, channels of the harmonics one after the other as in the original implementation."""
    columns = {name: gaussians["means"][:, i] for i, name in enumerate("xyz")}
    columns |= {f"n{name}": torch.zeros(len(gaussians["means"])) for name in "xyz"}
    columns |= {f"f_dc_{i}": gaussians["features_dc"][:, i] for i in range(3)}
    rest = gaussians["features_rest"][:, :harmonics].transpose(1, 2).flatten(1)
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])}
    columns |= {"opacity": gaussians["opacities"][:, 0]}
    columns |= {f"scale_{i}": gaussians["scales"][:, i] for i in range(3)}
    columns |= {f"rot_{i}": gaussians["quats"][:, i] for i in range(4)}
    rows = np.zeros(len(gaussians["means"]), [(name, "f4") for name in columns])
    for name, values in columns.items():
        rows[name] = values.numpy()
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))
    return path


@pytest.mark.usefixtures("no_bound")
@pytest.mark.parametrize("harmonics", [0, 3, 15, 24])
def test_rounds_begin_with_an_exported_splat(scene: Path, plain: Path, harmonics: int, tmp_path: Path) -> None:
    state = checkpoints.load_newest(plain / "nerfstudio_models")[1]["pipeline"]
    gaussians = {k.removeprefix("_model.gauss_params."): v for k, v in state.items() if "gauss_params" in k}
    gaussians["features_rest"] = torch.randn(len(gaussians["means"]), 24, 3) * 0.01
    gaussians["means"][0] = math.nan
    path = write_splat(tmp_path / "splat.ply", gaussians, harmonics)
    trainer = set_up(_started(scene, path, f"from ply {harmonics}"))
    found = {name: values.detach() for name, values in trainer.pipeline.model.gauss_params.items()}
    rest = gaussians.pop("features_rest")[1:, : min(harmonics, 15)]
    for name, values in gaussians.items():
        assert torch.equal(found[name], values[1:])
    assert found["features_rest"].shape[1] == 15
    assert torch.equal(found["features_rest"][:, : rest.shape[1]], rest)
    assert not found["features_rest"][:, rest.shape[1] :].any()
    assert trainer._start_step == 30_000


def test_splats_of_another_scene_are_refused(scene: Path, plain: Path, tmp_path: Path) -> None:
    state = checkpoints.load_newest(plain / "nerfstudio_models")[1]["pipeline"]
    gaussians = {k.removeprefix("_model.gauss_params."): v for k, v in state.items() if "gauss_params" in k}
    gaussians["means"] += 100.0
    path = write_splat(tmp_path / "far.ply", gaussians)
    with pytest.raises(UserError, match=r"--pipeline.guidance.start .*far.ply does not show .* dB"):
        set_up(_started(scene, path, "far"))


def test_what_is_no_splat_is_refused(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "text.ply").write_text("nothing")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "empty").mkdir()
    for name in ("text.ply", "notes.txt", "empty", "missing.ply"):
        with pytest.raises(UserError, match=rf"--pipeline.guidance.start .*{name}"):
            set_up(_started(scene, tmp_path / name, "refused"))
    checkpoint = tmp_path / "step-000000003.ckpt"
    torch.save({"step": 3, "pipeline": {}}, checkpoint)
    config = _started(scene, tmp_path / "text.ply", "both")
    config.load_checkpoint = checkpoint
    with pytest.raises(UserError, match="leave one of them out"):
        set_up(config)


def test_another_upscaler_cannot_go_on(scene: Path) -> None:
    trainer = trained(_short(scene, "one upscaler"))
    config = _short(scene, "another upscaler")
    config.pipeline.guidance.upscaler.name = "bicubic"
    config.load_checkpoint = checkpoint(trainer, 14)
    with pytest.raises(UserError, match=f"--pipeline.guidance.upscaler.name {TINY}"):
        set_up(config)


def test_another_factor_cannot_go_on(scene: Path) -> None:
    trainer = trained(_short(scene, "one factor"))
    config = _short(scene, "another factor")
    config.pipeline.guidance.factor = 2.0
    config.load_checkpoint = checkpoint(trainer, 14)
    with pytest.raises(UserError, match=r"begun with the factor 1.5: give --pipeline.guidance.factor 1.5"):
        set_up(config)
