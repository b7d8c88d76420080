"""Hi3D as a guidance: an orbit of the splat's own renders, made better, from which the splat goes on to learn.

Yang et al., "Hi3D: Pursuing High-Resolution Image-to-3D Generation with Video Diffusion Models", ACM MM 2024, section
3.3, for photographs with poses: in place of a generated orbit of low resolution there are renders of the splat, from
cameras on the smoothest ring through the photographs' own, at twice their size. A refiner may make them better jointly,
as in the paper; then a fixer carries over what photographs show of the same surfaces, and training learns from the
result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.orbits import converging, orbit, surrounding, swing
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.guidance.base import Guidance, GuidanceConfig, Losses, Outputs
from difix3d_ns.guidance.scarce_memory import with_memory
from difix3d_ns.guidance.status import Status
from difix3d_ns.guidance.tracking import ViewTracker
from difix3d_ns.io.config_fields import check_at_least, check_share
from difix3d_ns.io.run import Run
from difix3d_ns.priors.base import Fixer, FixRequest, OrbitFrame, OrbitRefiner, State
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.priors.orbit_refiner_config import NO_REFINER, OrbitRefinerConfig
from difix3d_ns.views.folders import POOL_FOLDER, RECORDS_FOLDER
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.protocols import References, Render, Renderer, Scene
from difix3d_ns.views.records import About, ViewRecord, ViewRecords, panels_of
from difix3d_ns.views.store import RENDERED, STATE
from difix3d_ns.views.view import TrainView

MIN_PHOTOS = 3
"""photographs that a ring goes through"""
SIDE, CPU_SIDE = 512, 256
"""pixels of a frame's longer side before it is refined, on CUDA and on a CPU; the paper's is 512"""
SECONDS_PER_MEGAPIXEL = 12.0
"""of refined frames, on one core"""
NO_FIXER = "none"
_FACTOR = 2  # of frames that nothing refines
_PHOTOS_PER_STEP = 8  # at whose poses the splat is rendered, so that references can be chosen
_SEED = 1_000_003  # between the seeds of two trainings
_SAME_PLACE, _SAME_WAY = 1e-3, 1e-3  # of the camera spacing, and of a direction: a frame at a photograph's very pose
_NO_MEMORY = (
    "the device has no memory for the orbit: train with a smaller --pipeline.guidance.side, without a refiner "
    "(--pipeline.guidance.orbit-refiner.name none), or with sparse-splatfacto"
)

ABOUT_FRAMES = About(
    "The orbit",
    "Frames of an orbit around the object: as the splat showed them when the orbit was begun, and made better, by what "
    "photos show of the same surfaces or by a refiner. Training learns from the latter.",
    "Orbit",
)


@dataclass
class Hi3DConfig(GuidanceConfig):
    """Settings of the orbit: its frames, when they are rendered, what refines them, and how they weigh."""

    _target: type = field(default_factory=lambda: Hi3DGuidance)
    announced: ClassVar[dict[str, str]] = {"side": "frames of {} pixels before they are refined"}
    serves_one_photo: ClassVar[bool] = True
    orbit_refiner: OrbitRefinerConfig = field(default_factory=OrbitRefinerConfig)
    """what refines the frames jointly"""
    fixer: FixerConfig = field(default_factory=lambda: FixerConfig("aligned-blend"))
    """what then carries photos over into each frame; none: nothing, and so it is with frames made of one photo"""
    frames: int = 16
    """of the orbit"""
    side: int | None = None
    """pixels of a frame's longer side before it is refined, which doubles it; never more than the photos have (unset:
    256 on a CPU, 512 on CUDA)"""
    begin: float = 0.5
    """share of training after which the orbit is rendered"""
    probability: float = 0.5
    """share of training steps that use a frame, once they are there; of a single photo all do, unless it is 0"""
    weight: float = 1.0
    """loss weight of a frame against 1 for a photo"""

    def fit(self, run: Run) -> None:
        if self.side is None:
            self.side = CPU_SIDE if run.on_cpu else SIDE

    def check(self, flag: str) -> None:
        check_at_least(self, flag, {"frames": 3, "side": 16, "weight": 0})
        check_share(self, flag, "begin")
        if self.begin == 1:
            raise UserError(f"{flag}.begin 1: nothing is left of training to learn from the orbit; give 0.9 or less")
        check_share(self, flag, "probability")
        self.orbit_refiner.check(f"{flag}.orbit-refiner")
        self.fixer.check(f"{flag}.fixer")


class Hi3DGuidance(Guidance):
    """Maker of one orbit; a step learns from a frame of it or from a photograph."""

    config: Hi3DConfig

    # ------------------------------------------------------------------ before training

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        self._scene, self._renderer, self._run = scene, renderer, run
        if len(scene) < MIN_PHOTOS:
            other = "train sparsefusion-splatfacto" if len(scene) == 2 else "take more photos"
            count = "1 photo" if len(scene) == 1 else f"{len(scene)} photos"
            raise UserError(f"{count}: an orbit needs {MIN_PHOTOS} around the object; {other}")
        self._generated = any(scene.generated(index) for index in range(len(scene)))  # frames made of one photograph
        refiner = self.config.orbit_refiner
        if refiner.name is None:
            refiner.name = "hi3d" if self._generated or refiner.weights else NO_REFINER
        self.refiner: OrbitRefiner | None = refiner.load(renderer.device)
        self._factor = _FACTOR if self.refiner is None else self.refiner.factor
        self._references = references
        self._fixer: Fixer | None = None
        if not self._generated and self.config.fixer.name != NO_FIXER:
            self._fixer = self.config.fixer.load(renderer.device)
        self.targets = [] if run.resumed else self._find_targets()  # else those it began with
        self.pool = Pool(None, run.folder / POOL_FOLDER, device=renderer.device)
        self._frames: list[OrbitFrame] = []  # those rendered so far
        self._state: State | None = None
        self._kept: State | None = None  # what the pool has of it
        self._results: list[Tensor] = []  # refined
        self._finished = 0  # frames that training can learn from
        self._done = False
        self._seconds = 0.0
        self._seed = torch.initial_seed() % 2**31
        self._tracking = ViewTracker(
            run.tracker, ViewRecords(run.folder / RECORDS_FOLDER, ABOUT_FRAMES), ABOUT_FRAMES.short, "refined"
        )
        if not run.resumed:
            self._announce()

    def _find_targets(self) -> list[Pinhole]:
        """Cameras of the frames as they are refined."""
        cameras = [self._scene.unoptimized_camera(index) for index in range(len(self._scene))]
        if not converging(cameras):
            raise UserError(
                "the cameras do not stand around one thing, so that there is no orbit: train difix3d-splatfacto, which "
                "is made for rooms, streets and facades"
            )
        count = self.config.frames
        # where they stand on one side alone, the way there, of there and back
        found = orbit(cameras, count) if surrounding(cameras) else swing(cameras, 2 * (count - 1))[:count]
        assert self.config.side is not None
        low = [camera.within(self.config.side) for camera in found]
        sizes = [(camera.width, camera.height) for camera in low]
        width, height = max(set(sizes), key=sizes.count)  # photographs may differ in size, frames may not
        return [camera.resized(self._factor * width, self._factor * height) for camera in low]

    def _announce(self) -> None:
        first, factor = self.targets[0], self._factor
        made = f"{len(self.targets)} frames of {first.width} x {first.height} pixels"
        if self.refiner is not None:
            pixels = sum(camera.width * camera.height for camera in self.targets)
            minutes = SECONDS_PER_MEGAPIXEL * pixels / 60e6
            made += f", refined from {first.width // factor} x {first.height // factor}"
            made += f", which takes about {minutes:.1f} minutes beside training," if self._run.on_cpu else ","
        self._run.tracker.log(
            f"An orbit of {made} is rendered after {self.config.begin:.0%} of training "
            "(--pipeline.guidance.frames, --pipeline.guidance.side)"
            + ("." if self._fixer is None else "; what photos show of it is carried over.")
        )

    # ------------------------------------------------------------------ making frames

    def before_step(self, step: int) -> bool:
        """Render a frame of the orbit, all of them before this step; later do a step of the refiner, or finish one."""
        if self._done or step < self._begins or not (self._begun or self._renderer.fit_at(step)):
            return False
        with_memory(partial(self._piece, step), self.pool, _NO_MEMORY)
        return self._state is None and not self._done

    def _piece(self, step: int) -> None:
        started = time.perf_counter()
        if self._state is None:
            self._frames.append(self._rendered(len(self._frames)))
            if len(self._frames) == len(self.targets):
                self._tracking.begin(f"{len(self._frames)} frames are rendered, and made better beside training")
                self._state = {}
                if self.refiner is not None:
                    self._state = self.refiner.start(self._frames, self._seed * _SEED % 2**31)
                self._frames = []
        elif self.refiner is not None and self.refiner.steps_left(self._state):
            self._state = self.refiner.step(self._state)
        elif self._fixer is None or self._references.prepare([self.targets[self._finished]], _PHOTOS_PER_STEP):
            self._finish(self._finished, step, started)
        self._seconds += time.perf_counter() - started

    @property
    def _begun(self) -> bool:
        return self._state is not None

    @property
    def _begins(self) -> int:
        return self._run.first_step + round(self.config.begin * self._run.steps)

    def _rendered(self, number: int) -> OrbitFrame:
        """A frame as the splat shows it: rendered at its full size, and reduced; kept in the pool."""
        camera = self.targets[number]
        render = self._renderer.render(camera, depth=True)
        assert render.depth is not None
        low = camera.resized(camera.width // self._factor, camera.height // self._factor)
        image = resampled(render.image, low.height, low.width)
        shown = render.image if self.refiner is None else resampled(image, camera.height, camera.width)
        self.pool.put(TrainView(f"{RENDERED}/{number:03d}", camera, shown, alpha=render.alpha, depth=render.depth))
        taken = self._photo_at(camera)
        photo = None if taken is None else self._scene.photo(taken).image
        return OrbitFrame(image, low, render.depth.where(render.alpha > 0.5, 0.0), photo)

    def _photo_at(self, camera: Pinhole) -> int | None:
        """Number of the photograph taken at a pose, whole and as wide."""
        own = [self._scene.unoptimized_camera(index) for index in range(len(self._scene))]
        spacing = camera_spacing(stack_poses(own))
        for index, other in enumerate(own):
            if self._scene.generated(index):
                continue
            near = float((other.position - camera.position).norm()) < _SAME_PLACE * spacing
            same = near and torch.allclose(
                other.resized(camera.width, camera.height).intrinsics, camera.intrinsics, rtol=_SAME_WAY
            )
            turned = other.camera_to_world[:3, :3] - camera.camera_to_world[:3, :3]
            if same and float(turned.abs().max()) < _SAME_WAY and self._scene.used(index) is None:
                return index
        return None

    def _finish(self, number: int, step: int, started: float) -> None:
        """Carry photographs over into a frame and keep it; after the last one, training learns from all."""
        assert self._state is not None
        if self.refiner is not None and not self._results:
            self._results = self.refiner.result(self._state)
        camera = self.targets[number]
        before = self.pool.stored(f"{RENDERED}/{number:03d}")
        image = self._results[number] if self._results else None if before is None else before.image
        if image is not None:  # else it was lost, with nothing to make it of
            made = TrainView(f"orbit/{number:03d}", camera, image, photo=self._photo_at(camera))
            if before is not None:
                made = self._with_photos(made, before)
            self.pool.put(made)
            seconds = (self._seconds + time.perf_counter() - started) / (number + 1)
            self._tracking.made(self._record(made, number, step, seconds, before))
        self._finished = number + 1
        if self._finished < len(self.targets):
            return
        self._tracking.end("Orbit", step, len(self.targets))
        if self._kept is not None:  # in its place next to nothing: checkpoints would hold it until the end
            self.pool.put_state(STATE, {})
        self._state, self._kept, self._results, self._done = None, None, [], True

    @torch.no_grad()
    def _with_photos(self, frame: TrainView, before: TrainView) -> TrainView:
        """Return a frame with what photographs show of the same surfaces, and with its confidence.

        Args:
            frame: refined, or as it was rendered.
            before: as it was rendered, with depth and alpha.
        """
        assert before.alpha is not None
        # Where the splat has nothing, a frame shows the background it was rendered on, and what was added to that:
        # nothing to learn. An object that is cut out stands before the background of each step.
        cut_out = all(self._scene.alpha(index) is not None for index in range(len(self._scene)))
        if self._generated and cut_out:  # then no photograph says where the object ends
            return replace(frame, alpha=before.alpha)
        frame = replace(frame, confidence=before.alpha, alpha=before.alpha if cut_out else None)
        if frame.photo is not None:  # the photograph at its very pose; a refiner is given it
            photo = resampled(self._scene.photo(frame.photo).image, frame.camera.height, frame.camera.width)
            return frame if self.refiner is not None else replace(frame, image=photo)
        if self._fixer is None:
            return frame
        render = Render(before.image, before.alpha, before.depth)
        chosen = self._references.select(frame.camera, render, self.config.fixer.references_for(self._fixer))
        photos = [self._references.view(index) for index in chosen]
        request = FixRequest(frame.image, photos, frame.camera, before.depth, before.alpha, self._seed)
        fixed = self._fixer.fix([request])[0]
        # a splat learns nothing from its own render; what a refiner says counts where no photograph does as well
        confidence = before.alpha if self.refiner is not None else before.alpha * fixed.confidence
        return replace(frame, image=torch.lerp(frame.image, fixed.image, before.alpha), confidence=confidence)

    def _record(self, made: TrainView, number: int, step: int, seconds: float, before: TrainView | None) -> ViewRecord:
        nearest = self._nearest(made.camera)
        name = "Refined" if self.refiner is not None else "With photos"
        panels = {name: made.image, "Photo": self._scene.photo(nearest).image}
        if before is not None:
            panels = {"As rendered": before.image, **panels}
        return ViewRecord(
            key=made.key,
            group="",
            order=0,
            title=f"Frame {number}",
            step=step,
            seconds=seconds,
            pairs=(*((("As rendered", name),) if before is not None else ()), (name, "Photo")),
            numbers={},
            references=(self._scene.names()[nearest],),
            panels=panels_of(panels),
        )

    def _nearest(self, camera: Pinhole) -> int:
        """Number of the photograph taken nearest to a camera; a frame that a generator made is none."""
        poses = stack_poses([self._scene.unoptimized_camera(index) for index in range(len(self._scene))])
        distances = pose_distances(stack_poses([camera]), poses, camera_spacing(poses))[0]
        made = torch.tensor([self._scene.generated(index) for index in range(len(poses))])
        return int(distances.masked_fill(made.to(distances.device), torch.inf).argmin())

    # ------------------------------------------------------------------ learning

    def next_view(self, step: int, generator: torch.Generator) -> TrainView | None:
        if not self._done or float(torch.rand((), generator=generator)) >= self._share:
            return None
        number = int(torch.randint(len(self.targets), (), generator=generator))
        key = f"orbit/{number:03d}"
        view = self.pool.drawn(key) if key in self.pool else None  # one that was lost is a photograph's turn
        return None if view is None else replace(view, weight=view.weight * self.config.weight)

    @property
    def weighs_photographs(self) -> bool:
        return False

    def losses(self, outputs: Outputs, view: TrainView, base: Losses) -> Losses:
        # a frame's silhouette is what the splat's was when it was rendered: beside photographs that teaches nothing
        return super().losses(outputs, view if self._generated else replace(view, alpha=None), base)

    @property
    def _share(self) -> float:
        """Return the share of steps that use a refined frame: of frames that a generator made, the finer take all."""
        return 1.0 if self._generated and self.config.probability else self.config.probability

    # ------------------------------------------------------------------ state

    def state_dict(self, step: int) -> dict[str, Any]:
        if self._state is not None and self._state is not self._kept:
            self.pool.put_state(STATE, self._state)
            self._kept = self._state
        return {
            "refiner": self.config.orbit_refiner.name,
            "seed": self._seed,
            "done": self._done,
            "begun": self._state is not None,
            "finished": self._finished,
            "targets": [target.state() for target in self.targets],
            "pool": self.pool.state(checkpoint=step),
        }

    def load_state_dict(self, state: dict[str, Any], folder: Path, step: int) -> None:
        self.config.orbit_refiner.check_resumed(state["refiner"])
        self.pool.restore(folder / POOL_FOLDER, state["pool"])
        self._seed, self._done, self._finished = state["seed"], state["done"], state.get("finished", 0)
        self.targets = [Pinhole.of_state(target) for target in state["targets"]]
        # where it was lost the orbit is rendered again
        self._state = self._kept = self.pool.stored_state(STATE) if state["begun"] else None
        if self._state is None:
            self._finished = 0
        self._tracking.recall(folder / RECORDS_FOLDER, step)

    def keep(self, steps: Sequence[int]) -> None:
        self.pool.prune(steps)

    # ------------------------------------------------------------------ what people see

    def status(self, step: int) -> Status:
        if self._done:
            line = f"**{len(self.targets)}** frames around the object" + (", refined" if self.refiner else "")
        elif self._state is not None:
            left = 0 if self.refiner is None else self.refiner.steps_left(self._state)
            line = f"the orbit is made better: {left + len(self.targets) - self._finished} pieces of work to go"
        elif step < self._begins:
            line = f"an orbit of {len(self.targets)} frames is rendered at step {self._begins}"
        else:
            line = f"an orbit of {len(self.targets)} frames is rendered as soon as the splat has recovered from a reset"
        return Status(
            title=ABOUT_FRAMES.short,
            lines=[line],
            views=[self._tracking.shown(entry, self.pool) for entry in self.pool.entries()],
            targets=self.targets,
            records=list(self._tracking.latest),
            plural="frames",
        )
