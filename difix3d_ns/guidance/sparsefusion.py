"""SparseFusion as a guidance: views predicted from two to six photographs, distilled into a splat.

Zhou and Tulsiani, "SparseFusion: Distilling View-conditioned Diffusion for 3D Reconstruction", CVPR 2023, section 3.3.
A queue of cameras around the photographs' gets pictures that the photographs predict. In the first third of training
the splat learns from these. Then, where the generator can make up what no photograph shows, pictures are made again
from the splat's render, noised to a random level, and weigh by how much of them was made up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.orbits import converging, hemisphere
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.point_depth import point_depth
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import fetch, in_view, unproject
from difix3d_ns.guidance.base import Guidance, GuidanceConfig, Losses, Outputs
from difix3d_ns.guidance.scarce_memory import with_memory
from difix3d_ns.guidance.status import Status
from difix3d_ns.guidance.tracking import ViewTracker
from difix3d_ns.io.config_fields import check_at_least, check_share
from difix3d_ns.io.run import Run
from difix3d_ns.priors.base import GeneratedView, State, ViewGenerator
from difix3d_ns.priors.view_generator_config import ViewGeneratorConfig
from difix3d_ns.views.folders import POOL_FOLDER, RECORDS_FOLDER
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.protocols import References, Renderer, Scene
from difix3d_ns.views.records import About, ViewRecord, ViewRecords, panels_of
from difix3d_ns.views.store import STATE
from difix3d_ns.views.targets import auto_targets
from difix3d_ns.views.view import TrainView

MAX_PHOTOS = 6
"""of the paper's protocol; with more, other methods start from enough"""
SHOWN = 4
"""photographs that a view is predicted from, the nearest ones: as many as in the network's training"""
BOOTSTRAP = 1 / 3
"""share of training before pictures are made from renders; the paper's"""
MAX_NOISE = 0.99
"""the paper's"""
LONG_SIDE = 480
"""pixels of a generated view, at most"""
SECONDS_PER_MEGAPIXEL = 8.0
"""of a predicted view and one photograph, on one core"""
HUBER = 0.1
"""threshold of Huber's loss"""
OPACITY_EPS = 0.01
"""of the opacity loss, whose root has no slope at 0 without it; the paper's"""
_SEED = 1_000_003  # between the seeds of two trainings
_OF_VIEW = 4096  # between those of two views of one: more than a view is ever made
_OF_NOISE = 2048  # between those of a level of noise and of the noise itself
_DONE_AT = 0.9  # share of training after which no picture is made again: it would be drawn only a few times
_NO_MEMORY = (
    "the device has no memory to predict views: train with sparse-splatfacto, or on smaller photos "
    "(--pipeline.datamanager.camera-res-scale-factor 0.5)"
)

ABOUT_VIEWS = About(
    "Views predicted from the photos",
    "Each view was predicted from the photos around it, and says per pixel how far to trust it (white: fully, black: "
    "nothing is taught). Later ones were made again from the splat's render. Training learns from all of them.",
    "Generated views",
)


@dataclass
class SparseFusionConfig(GuidanceConfig):
    """Settings of generated views: where, by which generator, how often, and how they weigh."""

    _target: type = field(default_factory=lambda: SparseFusionGuidance)
    view_generator: ViewGeneratorConfig = field(default_factory=ViewGeneratorConfig)
    """what makes views from photos"""
    around: Literal["auto", "hemisphere", "scene"] = "auto"
    """hemisphere: views around what all cameras look at; scene: between and somewhat beyond the cameras; auto:
    hemisphere where cameras stand around something"""
    count: int = 24
    """views that are kept"""
    bootstrap: float = BOOTSTRAP
    """share of training in which views are as the photos predict them; then a generative generator makes them again
    from renders"""
    again: bool = False
    """have one that is not generative predict views once more after the bootstrap, by the depth that the splat found"""
    refresh: int = 5
    """training steps at least between two views that are made again; each takes some, one for each level of noise"""
    probability: float = 0.5
    """share of training steps that use a generated view"""
    weight: float = 1.0
    """loss weight of a generated view against 1 for a photo; confidence already weighs it per pixel"""
    end_weight: float = 1.0
    """what the weight falls to from the end of the bootstrap to the end of training, as a share of it"""
    depth_weight: float = 0.0
    """loss weight of a generated view's depth against the weight of its picture; 0 = depth is not taught"""
    photo_loss: Literal["splatfacto", "huber"] = "splatfacto"
    """loss of a photo: splatfacto's (L1 and SSIM), or Huber's as in the paper"""
    opacity_weight: float = 0.0
    """loss weight of the mean opacity, which keeps empty space empty (0.001 in the paper, whose objects are cut out:
    elsewhere it thins what only one photo shows)"""

    def check(self, flag: str) -> None:
        check_at_least(self, flag, {"count": 1, "refresh": 1, "weight": 0, "depth_weight": 0, "opacity_weight": 0})
        check_share(self, flag, "bootstrap")
        check_share(self, flag, "probability")
        check_share(self, flag, "end_weight")
        self.view_generator.check(f"{flag}.view-generator")


class SparseFusionGuidance(Guidance):
    """Maker of predicted views, piece by piece before training steps; a step learns from one or from a photograph."""

    config: SparseFusionConfig

    def __init__(self, config: SparseFusionConfig) -> None:
        super().__init__(config)
        self.depth_weight = config.depth_weight

    # ------------------------------------------------------------------ before training

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        self._scene, self._renderer, self._run = scene, renderer, run
        self._names = scene.names()
        if len(scene) < 2:
            raise UserError(
                f"{len(scene)} photo: views are predicted from two photos or more; add one, or train sparse-splatfacto"
            )
        self.generator: ViewGenerator = self.config.view_generator.load(renderer.device)
        self.targets = [] if run.resumed else self._find_targets()  # else those it began with
        self.pool = Pool(None, run.folder / POOL_FOLDER, device=renderer.device)
        self._made = [0] * len(self.targets)  # how often each was made
        self._current: int | None = None  # the one that is being made
        self._state: State | None = None
        self._kept: State | None = None  # what the pool has of it
        self._seconds = 0.0
        self._seed = torch.initial_seed() % 2**31
        self._tracking = ViewTracker(
            run.tracker, ViewRecords(run.folder / RECORDS_FOLDER, ABOUT_VIEWS), ABOUT_VIEWS.short
        )
        self._cut_out = any(scene.alpha(index) is not None for index in range(len(scene)))
        self._hints: dict[int, Tensor] = {}  # depth of photographs at the scene's points
        if not run.resumed:
            self._announce()

    def _find_targets(self) -> list[Pinhole]:
        cameras = [self._scene.unoptimized_camera(index) for index in range(len(self._scene))]
        around = self.config.around
        if around == "auto":
            around = "hemisphere" if converging(cameras) else "scene"
        try:
            if around == "hemisphere":
                found = hemisphere(cameras, self.config.count)
            else:
                found = auto_targets(cameras, self._scene.points(), self.config.count)
            if not found:
                raise ValueError("there is no room between the photos")
        except ValueError as error:
            raise UserError(f"no cameras for generated views: {error}") from error
        self.around = around
        return [camera.within(LONG_SIDE) for camera in found]

    def _announce(self) -> None:
        photos, log = len(self._scene), self._run.tracker.log
        kind = {"hemisphere": "around what the cameras look at", "scene": "between and beyond the cameras"}
        log(
            f"{len(self.targets)} views {kind[self.around]} are predicted from {photos} photos "
            "(--pipeline.guidance.around, --pipeline.guidance.count)"
            + (f"; this takes about {self._minutes():.1f} minutes beside training." if self._run.on_cpu else ".")
        )
        if photos > MAX_PHOTOS:
            log(
                f"[yellow]This method is made for 2 to {MAX_PHOTOS} photos and was measured on no more: with {photos} "
                "photos difix3d-splatfacto starts from enough."
            )
        if self.around == "scene":
            log(
                "[yellow]The cameras do not stand around one thing: what lies between photos that show nothing in "
                "common, as in a street or a room walked through, cannot be predicted."
            )

    def _minutes(self) -> float:
        """Return how long a processor takes to predict all views once."""
        pixels = sum(camera.width * camera.height for camera in self.targets)
        return SECONDS_PER_MEGAPIXEL * min(SHOWN, len(self._scene)) * pixels / 60e6

    # ------------------------------------------------------------------ making views

    def before_step(self, step: int) -> bool:
        """Do one piece of making a view: a step of the generator."""
        if self._current is None:
            self._current = self._next(step)
        if self._current is not None:
            with_memory(partial(self._work, self._current, step), self.pool, _NO_MEMORY)
        return False

    @property
    def _bootstrapped(self) -> int:
        """Return the step from which on views are made again."""
        return self._run.first_step + round(self.config.bootstrap * self._run.steps)

    def _next(self, step: int) -> int | None:
        """Return the view to make: each once, then, past the bootstrap, the one that was made least often."""
        fewest = min(self._made)
        if fewest == 0:
            return self._made.index(0)
        since = step - self._bootstrapped
        if since < 0 or step >= self._run.first_step + _DONE_AT * self._run.steps or not self._renderer.fit_at(step):
            return None
        if not self._generative:
            return self._made.index(1) if self.config.again and fewest == 1 else None
        return self._made.index(fewest) if since % self.config.refresh == 0 else None

    @property
    def _generative(self) -> bool:
        return self.generator.generative

    def _work(self, number: int, step: int) -> None:
        started = time.perf_counter()
        if self._state is None:
            self._state = self._begun(number)
        else:
            self._state = self.generator.step(self._state)
        self._seconds += time.perf_counter() - started
        if self.generator.steps_left(self._state) == 0:
            self._finish(number, step)

    def _begun(self, number: int) -> State:
        camera, times = self.targets[number], self._made[number]
        seed = self._seed * _SEED + _OF_VIEW * number + times
        if times == 0:
            return self.generator.start(
                self._shown(camera), [camera], noise=0.0 if self._generative else 1.0, seed=seed
            )
        if not self._generative:
            return self.generator.start(self._shown(camera, by_splat=True), [camera], seed=seed)
        noise = MAX_NOISE * float(torch.rand((), generator=torch.Generator().manual_seed(seed + _OF_NOISE)))
        render = self._renderer.render(camera).image
        before = self.pool.stored_state(f"{STATE}/{number:03d}")
        if before is not None:
            return self.generator.again(before, [render], noise, seed)
        return self.generator.start(self._shown(camera), [camera], [render], noise, seed)

    def _shown(self, camera: Pinhole, by_splat: bool = False) -> list[PosedImage]:
        """Photographs that a view is predicted from, with depth at the scene's points, or the splat's."""
        return [self._photograph(index, by_splat) for index in sorted(self._nearest(camera)[:SHOWN])]

    def _nearest(self, camera: Pinhole) -> list[int]:
        """Photographs by how near their cameras are in position and direction, nearest first."""
        poses = stack_poses([self._scene.unoptimized_camera(index) for index in range(len(self._scene))])
        return pose_distances(stack_poses([camera]), poses, camera_spacing(poses))[0].argsort().tolist()

    def _photograph(self, index: int, by_splat: bool) -> PosedImage:
        photo, camera = self._scene.photo(index), self._scene.unoptimized_camera(index)
        photo = replace(photo, camera=camera, mask=self._scene.used(index))
        if by_splat:
            depth, alpha = self._renderer.median_depth(camera.within(LONG_SIDE))
            return replace(photo, depth=depth.where(alpha > 0.5, 0.0), alpha=None)
        if index not in self._hints:
            self._hints[index] = self._hint(index)
        return replace(photo, depth=self._hints[index].to(photo.image.device), alpha=None)

    def _hint(self, index: int) -> Tensor:
        """Depth [h, w, 1] of a photograph at the scene's points, 0 where none is."""
        camera, points = self._scene.unoptimized_camera(index).within(LONG_SIDE), self._scene.given_points()
        if points is None:
            return torch.zeros(camera.height, camera.width, 1)
        return point_depth(points.cpu(), camera)

    def _finish(self, number: int, step: int) -> None:
        assert self._state is not None
        (view,) = self.generator.result(self._state)
        key = f"orbit/{number:03d}"
        made = TrainView(key, self.targets[number], view.image, confidence=view.confidence, weight=view.weight)
        if view.depth is not None:
            if (alpha := self._silhouette(self.targets[number], view.depth)) is not None:
                # only where the depth is trusted: elsewhere a silhouette would carve, or fill
                made = replace(made, alpha=alpha, valid=(view.confidence > 0).to(alpha))
            if self.config.depth_weight:
                made = replace(made, depth=view.depth, depth_weight=1.0)
        self.pool.put(made)
        if self._generative and self._made[number] == 0:  # later ones begin with what photographs alone tell
            self.pool.put_state(f"{STATE}/{number:03d}", self._state)
        self._made[number] += 1
        self._tracking.made(self._record(key, number, step, view))
        self._current, self._state, self._seconds = None, None, 0.0
        if all(times == self._made[0] for times in self._made):
            self._tracking.end(f"Generated views, {self._group(self._made[0])}", step, len(self.targets))
            self._tracking.round = []

    def _silhouette(self, camera: Pinhole, depth: Tensor) -> Tensor | None:
        """Silhouette [H, W, 1] of a view where all photographs are cut out: what lies inside of all that show it."""
        alpha = torch.ones_like(depth)
        for index in range(len(self._scene)):
            own = self._scene.alpha(index)
            if own is None:
                return None
            pose = self._scene.unoptimized_camera(index)
            inside, _, _ = in_view(unproject(depth, camera), pose)
            alpha = torch.minimum(alpha, fetch(own.cpu(), depth, camera, pose).where(inside[..., None], 1.0))
        return alpha

    def _record(self, key: str, number: int, step: int, view: GeneratedView) -> ViewRecord:
        nearest = self._nearest(self.targets[number])[0]
        numbers: dict[str, float | str] = {"confidence": float(view.confidence.mean())}
        if view.visible is not None:
            numbers["no photo shows"] = float((view.visible < 0.5).float().mean())
        return ViewRecord(
            key=key,
            group=self._group(self._made[number]),
            order=self._made[number],
            title=f"View {number}",
            step=step,
            seconds=self._seconds,
            pairs=(("Generated", "Photo"), ("Generated", "Confidence")),
            numbers=numbers,
            references=(self._names[nearest],),
            panels=panels_of(
                {"Generated": view.image, "Photo": self._scene.photo(nearest).image, "Confidence": view.confidence}
            ),
        )

    @staticmethod
    def _group(times: int) -> str:
        return "As the photos predict them" if times <= 1 else f"Made again {times - 1}"

    # ------------------------------------------------------------------ learning

    def next_view(self, step: int, generator: torch.Generator) -> TrainView | None:
        ready = [number for number, times in enumerate(self._made) if times]
        if not ready or float(torch.rand((), generator=generator)) >= self.config.probability:
            return None
        number = ready[int(torch.randint(len(ready), (), generator=generator))]
        view = self.pool.drawn(f"orbit/{number:03d}")
        if view is None:  # its file became unreadable: it is made once more
            self._made[number] = 0
            return None
        return replace(view, weight=view.weight * self._weight(step))

    def _weight(self, step: int) -> float:
        """Return the weight of generated views at a step."""
        start, end = self._bootstrapped, self._run.last_step
        share = min(1.0, max(0.0, (step - start) / max(1, end - start)))
        return self.config.weight * (1 + share * (self.config.end_weight - 1))

    @property
    def weighs_photographs(self) -> bool:
        return self.config.photo_loss != "splatfacto" or self.config.opacity_weight > 0 or self._cut_out

    def losses(self, outputs: Outputs, view: TrainView, base: Losses) -> Losses:
        losses = super().losses(outputs, view, base)
        if view.photo is not None:
            if self.config.photo_loss == "huber":
                losses["main_loss"] = _huber_error(outputs["rgb"], view.image, view.valid) * view.weight
            if (alpha := self._scene.alpha(view.photo)) is not None:
                losses["silhouette_loss"] = _huber_error(outputs["accumulation"], alpha, view.valid) * view.weight
        if self.config.opacity_weight:
            opacity = (outputs["accumulation"].square() + OPACITY_EPS).sqrt().mean()
            losses["opacity_loss"] = self.config.opacity_weight * opacity
        return losses

    # ------------------------------------------------------------------ state

    def state_dict(self, step: int) -> dict[str, Any]:
        if self._state is not None and self._state is not self._kept:
            self.pool.put_state(STATE, self._state)
            self._kept = self._state
        return {
            "generator": self.config.view_generator.name,
            "seed": self._seed,
            "made": list(self._made),
            "current": self._current,
            "begun": self._state is not None,
            "targets": [target.state() for target in self.targets],
            "pool": self.pool.state(checkpoint=step),
        }

    def load_state_dict(self, state: dict[str, Any], folder: Path, step: int) -> None:
        self.config.view_generator.check_resumed(state["generator"])
        self.pool.restore(folder / POOL_FOLDER, state["pool"])
        self._seed, self._made, self._current = state["seed"], list(state["made"]), state["current"]
        self.targets = [Pinhole.of_state(target) for target in state["targets"]]
        for number in range(len(self._made)):
            if f"orbit/{number:03d}" not in self.pool:  # it could not be written: it is made once more
                self._made[number] = 0
        self._state = self._kept = self.pool.stored_state(STATE) if state["begun"] else None
        self._tracking.recall(folder / RECORDS_FOLDER, step)

    def keep(self, steps: Sequence[int]) -> None:
        self.pool.prune(steps)

    # ------------------------------------------------------------------ what people see

    def status(self, step: int) -> Status:
        made = sum(times > 0 for times in self._made)
        lines = [f"**{made} of {len(self.targets)}** views predicted from {len(self._scene)} photos"]
        unseen = [head.numbers.get("no photo shows") for head in self._tracking.heads.values()]
        known = [value for value in unseen if isinstance(value, float)]
        if known:
            lines.append(f"{sum(known) / len(known):.0%} of their pixels no photo shows")
        return Status(
            title=ABOUT_VIEWS.short,
            lines=lines,
            views=[self._tracking.shown(entry, self.pool) for entry in self.pool.entries()],
            targets=self.targets,
            records=list(self._tracking.latest),
            plural="generated views",
        )


def _huber_error(found: Tensor, expected: Tensor, valid: Tensor | None) -> Tensor:
    """Huber's loss of maps [H, W, C], in units of its threshold, where they may be used."""
    height, width = found.shape[:2]
    error = F.huber_loss(found, resized(expected, height, width), reduction="none", delta=HUBER)
    if valid is not None:
        error = error * resized(valid, height, width)
    return error.mean() / HUBER
