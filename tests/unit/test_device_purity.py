"""What runs on a GPU keeps to it: each part on a CUDA device, pretended where there is none, against it on the CPU.

On a pretended device random draws are the CPU's, and so is the arithmetic; what differs are the ways that the code
takes by device. A real one draws other numbers: what draws them is there held to be finite alone.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from difix3d_ns.enhance.enhancer import Enhancer, EnhancerSettings
from difix3d_ns.enhance.temporal import EnhancedFrame, TemporalFilter
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.stereo import stereo_depths, stereo_points
from difix3d_ns.guidance.fixing import ViewFixer
from difix3d_ns.guidance.super_resolution import ThreeDSRConfig
from difix3d_ns.initialization.depth_points import depth_points, depth_ratios
from difix3d_ns.io.run import Run
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.ns.batches import to_batch
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.ns.rendering import SplatRenderer
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.ns.viewer.live import LiveEnhancer
from difix3d_ns.priors.alignment.aligned_references import align
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.embedded import load as load_embedded
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.priors.registry import available_fixers, load_fixer, load_prior
from difix3d_ns.priors.upscaler_config import UpscalerConfig
from difix3d_ns.splats.exposure import Exposures
from difix3d_ns.splats.floaters import FreeSpace
from difix3d_ns.splats.losses.log_depth import depth_loss
from difix3d_ns.splats.losses.ssim import FusedSSIM
from difix3d_ns.training.losses import PIXEL_LOSSES
from difix3d_ns.training.systems.align import AlignedBlend
from difix3d_ns.views.coverage import coverage
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.targets import auto_targets
from difix3d_ns.views.view import TrainView
from tests.pretended_cuda import pretended_cuda
from tests.stand_ins import NoReferences
from tests.unit.known_scenes import camera_at, photograph, picture
from tests.unit.official_difix import Official
from tests.unit.tiny_fixers import write_detail, write_embedded
from tests.unit.tiny_scene import datamanager, write_scene
from tests.unit.tiny_splat import tiny_camera, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

POINTS = 60
"""of a scene; fewer than the median depth has bins on a GPU, so that it is that of a Gaussian there too"""
ROUNDING, LEARNING = 1e-3, 0.05
"""of pictures and depth; and of parameters after some steps of Adam, which makes much of small gradients"""
TIPPED = 0.02
"""share of pixels whose median is another Gaussian's: sums of weights near one half"""


@dataclass(frozen=True)
class Place:
    """Device that a case runs on, and what it reads."""

    device: str
    weights: Mapping[str, str]  # of priors, by name
    scenes: Mapping[str, Path]
    folder: Path  # for what it writes

    def tensor(self, *shape: int, seed: int = 0) -> Tensor:
        """Numbers in [0, 1], always the same."""
        return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def model(self, count: int = 200, **settings: Any) -> SplatModel:
        """A small splat before its training."""
        torch.manual_seed(0)
        return tiny_model(count, **settings).to(self.device)

    def scene(self, name: str = "plain", model: SplatModel | None = None) -> TrainingScene:
        """A small scene's photographs."""
        manager = datamanager(self.scenes[name], self.device)
        return TrainingScene(manager, self.model() if model is None else model)

    def surroundings(self) -> tuple[TrainingScene, SplatRenderer, ReferenceViews]:
        """A scene with a splat at its points, which is opaque: references are chosen by what they show of it."""
        model = self.model(POINTS)
        scene, renderer = self.scene(model=model), SplatRenderer(model)
        points = scene.given_points()
        assert points is not None
        model.gauss_params["means"].data.copy_(points)
        model.gauss_params["opacities"].data.fill_(2.0)
        model.gauss_params["scales"].data.fill_(-2.5)
        model.step = 10**6
        del model.optimizers  # as of a finished training
        model.eval()
        return scene, renderer, ReferenceViews(scene, renderer)


Case = Callable[[Place], Any]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__.removeprefix("_").replace("_", " ")] = function
    return function


def tensors(result: Any, name: str = "result") -> Iterator[tuple[str, Tensor]]:
    """All that a result holds; cameras stay on the host."""
    if isinstance(result, Tensor):
        yield name, result
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from tensors(value, f"{name}[{key!r}]")
    elif is_dataclass(result) and not isinstance(result, Pinhole):
        for entry in fields(result):
            yield from tensors(getattr(result, entry.name), f"{name}.{entry.name}")
    elif isinstance(result, Sequence) and not isinstance(result, str):
        for index, value in enumerate(result):
            yield from tensors(value, f"{name}[{index}]")


# ------------------------------------------------------------------------------------------------------------- Priors


def _request(references: int = 2, height: int = 49, width: int = 67) -> FixRequest:
    """A noisy render of a wall with a card before it, and photographs of both, of another size."""
    target, _ = photograph(camera_at(0.0, width=width, height=height))
    shown = [photograph(camera_at(x, y, width=75, height=55))[0] for x, y in ((0.4, 0.0), (-0.3, 0.1))[:references]]
    noise = 0.05 * torch.randn(target.image.shape, generator=torch.Generator().manual_seed(1))
    return FixRequest((target.image + noise).clamp(0, 1), shown, target.camera, target.depth, target.alpha)


def _prior(name: str, place: Place, requests: Sequence[FixRequest]) -> Any:
    load_prior.cache_clear()
    return load_fixer(name, place.weights.get(name), place.device, torch.float32).fix(requests)


def _of_the_device(name: str) -> Case:
    return lambda place: _prior(name, place, [_request(count).to(place.device) for count in (2, 2, 0)])


for _name in available_fixers():
    CASES[f"prior {_name}"] = _of_the_device(_name)


@case
def _aligner(place: Place) -> Any:
    chain = load_embedded(None, place.device, torch.float32).chain
    request = _request().to(place.device)
    with torch.no_grad():
        return align(chain.align, request.camera, request.image, request.depth, request.alpha, request.references)


@case
def _aligned_blend(place: Place) -> Any:
    chain = load_embedded(None, place.device, torch.float32).chain
    return AlignedBlend(chain.align).fix([_request(count).to(place.device) for count in (2, 0)])


# ---------------------------------------------------------------------------------------------------- Splat and scene


@case
def _median_depth(place: Place) -> Any:
    scene, renderer, _ = place.surroundings()
    depth, alpha = renderer.median_depth(scene.camera(0))
    assert (depth > 0).any()
    return {"depth": depth, "alpha": alpha}


@case
def _references(place: Place) -> Any:
    scene, renderer, references = place.surroundings()
    render = renderer.render(scene.camera(1), depth=True)
    chosen = references.select(scene.camera(1), render, 2)
    assert len(chosen) == 2
    return {"render": render.image, "views": [references.view(index) for index in chosen]}


@case
def _fixed_view(place: Place) -> Any:
    """By a generative prior, which also teaches what no photograph shows."""
    scene, renderer, references = place.surroundings()
    load_prior.cache_clear()
    fixer = ViewFixer(FixerConfig("difix", place.weights["difix"], 1, "float32"), renderer, references)
    assert fixer.unseen_weight > 0
    return [made.result for made in fixer.fix(scene.cameras()[:2], [0, 1])]


@case
def _upscaled_photographs(place: Place) -> Any:
    """Two rounds, the second from renders with exposures, and what a step learns from a cut-out photograph."""
    model = place.model(POINTS)
    scene, renderer = place.scene("cut out", model), SplatRenderer(model)
    model.step, model.exposures = 10**6, Exposures(len(scene)).to(place.device)
    model.exposures.residual.data.copy_(place.tensor(len(scene), 3, 4) * 0.1)
    tiny = UpscalerConfig(name="tests.unit.tiny_upscaler")
    config = ThreeDSRConfig(upscaler=tiny, factor=1.5, low_stage=False, photos_first=False)
    guidance = config.setup()
    guidance.setup(
        scene, renderer, NoReferences(), Run(4, place.device, images=len(scene), folder=place.folder / "3dsr")
    )
    for step in (0, 2):
        while guidance.before_step(step):
            pass
    view = guidance.next_view(2, torch.Generator().manual_seed(0))
    assert guidance.round == 1 and view is not None
    view = view.to(place.device)
    rgb = (place.tensor(45, 60, 3) * 0.5).requires_grad_()
    outputs = {"rgb": rgb, "accumulation": place.tensor(45, 60, 1), "background": place.tensor(3)}
    losses = guidance.losses(outputs, view, {"main_loss": rgb.mean()})
    losses["low_loss"].backward()
    extra = {name: values.to(place.device) for name, values in view.extra.items()}
    return {"image": view.image, "alpha": view.alpha, **extra, **losses, "gradient": rgb.grad}


@case
def _masked_and_undistorted_photographs(place: Place) -> Any:
    scene = place.scene("distorted")
    assert scene.photo(0).mask is not None
    return [scene.photo(index) for index in range(len(scene))]


@case
def _cut_out_photographs(place: Place) -> Any:
    return [place.scene("cut out").photo(index) for index in range(2)]


@case
def _photo_depth(place: Place) -> Any:
    scene = place.scene("with depth")
    points, given = depth_points(scene, 200), scene.given_points()
    assert points is not None and given is not None
    return {
        "maps": [scene.depth(0), scene.depth(1)],
        "points": points,
        "ratios": depth_ratios(scene, given).to(place.device),
    }


@case
def _stereo(place: Place) -> Any:
    views = [photograph(camera_at(x, width=48, height=36))[0] for x in (0.0, 0.4)]
    photos = [PosedImage(view.image, view.camera).to(place.device) for view in views]
    depths = stereo_depths(photos, place.tensor(60, 3) + torch.tensor([0.0, 0.0, 4.0]).to(place.device))
    assert len(depths) == 2
    return {"depths": list(depths.values()), "points": stereo_points(photos, depths, 100)}


@case
def _targets_and_coverage(place: Place) -> Any:
    """Their cameras are the host's, whatever has the points."""
    scene = place.scene()
    points = place.tensor(100, 3) - 0.5
    targets = auto_targets(scene.cameras(), points, 3, 0.25)
    numbers = coverage(targets, scene.cameras(), points)
    assert len(targets) == 3 and sum(numbers) > 0
    assert all(not target.camera_to_world.is_cuda for target in targets)
    return torch.tensor(numbers, device=place.device)


@case
def _pool(place: Place) -> Any:
    pool, camera = Pool(4, place.folder / "views"), camera_at(0.0, width=40, height=30)
    for key in ("a", "b"):
        maps = {name: place.tensor(30, 40, 1, seed=seed) for seed, name in enumerate(("confidence", "depth", "alpha"))}
        pool.put(TrainView(key, camera, place.tensor(30, 40, 3), **maps, depth_weight=place.tensor(30, 40, 1)))
    view = pool.sample(torch.Generator().manual_seed(0)).to(place.device)
    again = Pool(4, place.folder / "views")
    again.restore(place.folder / "views", pool.state(1))
    camera, batch = to_batch(view)
    assert not camera.camera_to_worlds.is_cuda  # which splatfacto reads number by number
    return {"view": view, "again": again.get("a").to(place.device), **batch}


@case
def _floaters(place: Place) -> Any:
    cameras = [camera_at(x, width=40, height=30) for x in (0.0, 0.5)]
    points = place.tensor(200, 3) * 4 + torch.tensor([-2.0, -2.0, 2.0]).to(place.device)
    space = FreeSpace.of(points, cameras, 0.5)
    means = place.tensor(200, 3, seed=1) * torch.tensor([2.0, 2.0, 3.0]).to(place.device)
    floating = space.floating(means)
    assert space.nearest and 0 < int(floating.sum()) < 200
    return floating


# ------------------------------------------------------------------------------------------------------------ Training


def _trained(place: Place, **settings: Any) -> Any:
    """The parameters after steps in which Gaussians multiply, with depth learned from."""
    model = place.model(60, background_color="black", max_gs_num=150, **settings)
    model.camera_optimizer.config.mode = "off"
    model.train()
    groups = {name: list(parameters) for name, parameters in model.get_param_groups().items() if list(parameters)}
    model.optimizers = {name: torch.optim.Adam(members, lr=1e-2) for name, members in groups.items()}
    camera = tiny_camera().to(place.device)
    camera.metadata = {"cam_idx": 1}
    batch = {"image": place.tensor(30, 40, 3), "image_idx": 1}
    torch.manual_seed(0)
    for step in range(12, 32):
        model.step_cb(SimpleNamespace(optimizers=model.optimizers), step)  # type: ignore[arg-type]
        with model.depth_in_training(True):
            outputs = model.get_outputs(camera)
        losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        target = 2 + place.tensor(30, 40, 1)
        depth = depth_loss(outputs["depth"], outputs["accumulation"], target, place.tensor(30, 40, 1))
        (sum(losses.values()) + depth).backward()
        for optimizer in model.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        model.step_post_backward(step)
    assert len(model.means) != 60
    state = {key: value for key, value in model.strategy_state.items() if isinstance(value, Tensor)}
    return {**dict(model.gauss_params), **state, "image": model.eval().get_outputs(camera)["rgb"]}


TRAININGS: dict[str, dict[str, Any]] = {
    "splatfacto": {},
    "mcmc": {"strategy": "mcmc", "mcmc_opacity_reg": 0.01, "mcmc_scale_reg": 0.01, "refine_every": 2},
    "exposure and dropout": {"exposure": True, "gaussian_dropout": 0.1, "rasterize_mode": "antialiased"},
}
for _name, _settings in TRAININGS.items():
    CASES[f"training {_name}"] = lambda place, settings=_settings: _trained(place, **settings)


@case
def _losses(place: Place) -> Any:
    rendered, truth = (picture(168, 176, seed).to(place.device) for seed in (0, 1))
    results: dict[str, Any] = {}
    named = {
        name: (rendered.permute(2, 0, 1)[None], truth.permute(2, 0, 1)[None], loss)
        for name, loss in PIXEL_LOSSES.items()
    }
    named["fused ssim"] = (rendered.permute(2, 0, 1)[None], truth.permute(2, 0, 1)[None], FusedSSIM().to(place.device))
    for name, (prediction, target, loss) in named.items():
        prediction = prediction.contiguous().requires_grad_()
        value = loss(prediction, target.contiguous())
        value.backward()
        results[name] = (value.detach(), prediction.grad)
    metrics = image_metrics(rendered, truth)
    return results | {"metrics": torch.tensor(list(metrics.values()), device=place.device)}


# ------------------------------------------------------------------------------------------------------- What is shown


@case
def _temporal_filter(place: Place) -> Any:
    temporal, caller, changes = TemporalFilter(), _Caller(), []
    for x in (0.0, 0.05):
        view = photograph(camera_at(x, width=48, height=36))[0].to(place.device)
        assert view.camera is not None and view.depth is not None and view.alpha is not None
        previous = temporal.previous(caller, view.camera, view.depth, view.alpha, 0)
        assert (previous is not None) == (x > 0)
        frame = EnhancedFrame(view.camera, view.depth, view.alpha, 0, (), view.image - 0.5)
        changes.append(temporal.blend_with_previous(caller, frame, previous))
    return changes


class _Caller:
    """A tab's render thread at rest, as far as the enhancer asks it."""

    running, state, client = True, "high", 0

    def __init__(self) -> None:
        self.viewer = self
        self.asked = threading.Event()

    def get_camera_state(self, client: int) -> None:
        return None

    def action(self, action: object) -> None:
        self.asked.set()


def _enhancer(place: Place, fixer: str = "blend") -> tuple[TrainingScene, SplatRenderer, Enhancer]:
    scene, renderer, references = place.surroundings()
    load_prior.cache_clear()
    config = FixerConfig(fixer, place.weights.get(fixer), references=2, dtype="float32")
    return scene, renderer, Enhancer(EnhancerSettings(config, 0.8), renderer, references)


@case
def _enhancer_of_the_viewer(place: Place) -> Any:
    """Two frames that follow each other, as a tab's render thread gets them."""
    scene, renderer, enhancer = _enhancer(place)
    live, errors, frames = LiveEnhancer(enhancer.enhance), [], []
    live.always = True
    live.on_error = errors.append
    thread = _Caller()
    for camera in scene.cameras()[:1] * 2:
        frames.append(live.picture(thread, camera, renderer.render(camera).image))  # type: ignore[arg-type]
    assert not errors and (frames[0] - renderer.render(scene.camera(0)).image).abs().max() > 0.01
    return frames


@case
def _thread_of_the_enhancer(place: Place) -> Any:
    """A resting view, repaired beside its render thread."""
    scene, renderer, enhancer = _enhancer(place, "embedded")
    live, thread, errors = LiveEnhancer(enhancer.enhance), _Caller(), []

    def on_error(error: Exception) -> None:
        errors.append(error)
        thread.asked.set()

    live.on_error = on_error
    camera = scene.camera(0)
    render = renderer.render(camera).image
    assert live.picture(thread, camera, render) is render  # type: ignore[arg-type]
    assert thread.asked.wait(60) and not errors
    shown = live.picture(thread, camera, render)  # type: ignore[arg-type]
    assert shown is not render
    return shown


@case
def _panorama(place: Place) -> Any:
    """With its faces enhanced, as ns-render has it."""
    _, renderer, enhancer = _enhancer(place)
    model = renderer._model

    def enhance(camera: Cameras, image: Tensor, face: int = 0) -> Tensor:
        return enhancer.enhance(to_pinhole(camera), image)

    model.enhancer, model.enhance = enhance, "key"
    pose = torch.eye(4)[:3]
    camera = Cameras(pose[None], 16.0, 32.0, 32.0, 16.0, 64, 32, camera_type=CameraType.EQUIRECTANGULAR)
    outputs = model.get_outputs_for_camera(camera.to(place.device))
    return {name: outputs[name] for name in ("rgb", "accumulation", "enhanced")}


# --------------------------------------------------------------------------------------------------------------- Tests


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny random weights of those priors that have large ones or none."""
    difix = str(Official().write(tmp_path_factory.mktemp("difix")))
    embedded = str(write_embedded(tmp_path_factory.mktemp("embedded")))
    detail = str(write_detail(tmp_path_factory.mktemp("detail")))
    return {"difix": difix, "cascade": difix, "embedded": embedded, "aligned-blend": embedded, "detail": detail}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scenes")
    made = {
        "plain": write_scene(root / "plain"),
        "distorted": write_scene(root / "distorted", masks=True, k1=-0.2, k2=0.05),
        "cut out": write_scene(root / "cut", mode="RGBA"),
        "with depth": write_scene(root / "depth", k1=-0.1),
    }
    content = json.loads((made["with depth"] / "transforms.json").read_text())
    for index, frame in enumerate(content["frames"]):
        frame["depth_file_path"] = f"depth_{index}.npy"
        np.save(made["with depth"] / frame["depth_file_path"], np.full((30, 40), 2.0 + 0.1 * index, np.float32))
    (made["with depth"] / "transforms.json").write_text(json.dumps(content))
    return made


@pytest.fixture
def place(weights: dict[str, str], scenes: dict[str, Path], tmp_path: Path) -> Place:
    return Place("cpu", weights, scenes, tmp_path / "cpu")


@contextmanager
def cuda() -> Iterator[bool]:
    """Have a CUDA device inside; yields whether it is real."""
    if not torch.cuda.is_available():
        with pretended_cuda(bf16=False):
            yield False
        return
    with torch.backends.cudnn.flags(allow_tf32=False):  # which rounds convolutions to ten bits
        yield True


@pytest.mark.parametrize("name", CASES)
def test_results_are_on_the_device_and_the_cpus(name: str, place: Place) -> None:
    expected = dict(tensors(CASES[name](place)))
    with cuda() as real:
        found = dict(tensors(CASES[name](replace(place, device="cuda", folder=place.folder.with_name("cuda")))))
        astray = [key for key, value in found.items() if not value.is_cuda]
        found = {key: value.detach().cpu() for key, value in found.items()}
    assert expected and found.keys() == expected.keys()
    assert not astray
    if real and name.startswith("training"):
        assert all(values.isfinite().all() for values in found.values())
        return
    tolerance = LEARNING if name.startswith("training") else ROUNDING
    for key, values in expected.items():
        assert found[key].shape == values.shape and found[key].dtype == values.dtype, key
        apart = (found[key].double() - values.detach().double()).abs()
        bound = tolerance * (1 + values.detach().double().abs()) if values.dtype.is_floating_point else 0
        assert int((apart > bound).sum()) <= TIPPED * apart.numel(), f"{key}: {apart.max()} apart"


@pytest.mark.parametrize("name", available_fixers())
def test_a_prior_answers_where_it_is_asked(name: str, place: Place) -> None:
    """Pictures on the host, networks on the device: training a prior asks so when it validates."""
    request = _request()
    with cuda():
        (found,) = _prior(name, replace(place, device="cuda"), [copy.deepcopy(request)])
    (expected,) = _prior(name, place, [request])
    assert not found.image.is_cuda and not found.confidence.is_cuda
    torch.testing.assert_close(found.image, expected.image, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.confidence, expected.confidence, atol=1e-3, rtol=0)
