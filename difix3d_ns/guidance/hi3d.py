"""Hi3D as a guidance: an orbit of the splat's own renders, refined jointly, from which the splat goes on to learn.

Yang et al., "Hi3D: Pursuing High-Resolution Image-to-3D Generation with Video Diffusion Models", ACM MM 2024, section
3.3, for photographs with poses: in place of a generated orbit of low resolution there are renders of the splat, from
cameras on the smoothest ring through the photographs' own; the refiner doubles their sides, and training learns from
the result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.orbits import converging, orbit, surrounding, swing
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.guidance.base import Guidance, GuidanceConfig
from difix3d_ns.guidance.status import ShownView, Status
from difix3d_ns.guidance.tracking import ViewTracker
from difix3d_ns.io.config_fields import check_at_least, check_share
from difix3d_ns.io.run import Run
from difix3d_ns.priors.base import OrbitFrame, OrbitRefiner, State
from difix3d_ns.priors.orbit_refiner_config import OrbitRefinerConfig
from difix3d_ns.views.folders import POOL_FOLDER, RECORDS_FOLDER
from difix3d_ns.views.pool import Entry, Pool
from difix3d_ns.views.protocols import References, Renderer, Scene
from difix3d_ns.views.records import About, ViewRecord, ViewRecords, panels_of
from difix3d_ns.views.view import TrainView

MIN_PHOTOS = 3
"""photographs that a ring goes through"""
SIDE, CPU_SIDE = 512, 256
"""pixels of a frame's longer side before it is refined, on CUDA and on a CPU; the paper's is 512"""
SECONDS_PER_MEGAPIXEL = 12.0
"""of refined frames, on one core"""
_SEED = 1_000_003  # between the seeds of two trainings
_STATE, _RENDERED = "state", "rendered"
_SAME_PLACE, _SAME_WAY = 1e-3, 1e-3  # of the camera spacing, and of a direction: a frame at a photograph's very pose

ABOUT_FRAMES = About(
    "The orbit, refined",
    "Frames of an orbit around the object: as the splat showed them when the orbit was begun, and refined and enlarged "
    "together. Training learns from the refined ones. A frame taken where a photo was taken shows that photo.",
    "Refined orbit",
)


@dataclass
class Hi3DConfig(GuidanceConfig):
    """Settings of the orbit: its frames, when they are rendered, what refines them, and how they weigh."""

    _target: type = field(default_factory=lambda: Hi3DGuidance)
    announced: ClassVar[dict[str, str]] = {"side": "frames of {} pixels before they are refined"}
    serves_one_photo: ClassVar[bool] = True
    orbit_refiner: OrbitRefinerConfig = field(default_factory=OrbitRefinerConfig)
    """what refines the frames"""
    frames: int = 16
    """of the orbit"""
    side: int | None = None
    """pixels of a frame's longer side before it is refined, which doubles it; never more than the photos have (unset:
    256 on a CPU, 512 on CUDA)"""
    begin: float = 0.5
    """share of training after which the orbit is rendered"""
    probability: float = 0.25
    """share of training steps that use a refined frame, once they are there; of a single photo all do, unless it is
    0"""
    weight: float = 1.0
    """loss weight of a refined frame against 1 for a photo"""

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


class Hi3DGuidance(Guidance):
    """Maker of one refined orbit; a step learns from a frame of it or from a photograph."""

    config: Hi3DConfig

    # ------------------------------------------------------------------ before training

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        self._scene, self._renderer, self._run = scene, renderer, run
        if len(scene) < MIN_PHOTOS:
            other = "train sparsefusion-splatfacto" if len(scene) == 2 else "take more photos"
            count = "1 photo" if len(scene) == 1 else f"{len(scene)} photos"
            raise UserError(f"{count}: an orbit needs {MIN_PHOTOS} around the object; {other}")
        self.refiner: OrbitRefiner = self.config.orbit_refiner.load(renderer.device)
        self.targets = [] if run.resumed else self._find_targets()  # else those it began with
        self.pool = Pool(None, run.folder / POOL_FOLDER, device=renderer.device)
        self._frames: list[OrbitFrame] = []  # those rendered so far
        self._state: State | None = None
        self._kept: State | None = None  # what the pool has of it
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
        factor = self.refiner.factor
        return [camera.resized(factor * width, factor * height) for camera in low]

    def _announce(self) -> None:
        first, factor = self.targets[0], self.refiner.factor
        pixels = sum(camera.width * camera.height for camera in self.targets)
        minutes = SECONDS_PER_MEGAPIXEL * pixels / 60e6
        self._run.tracker.log(
            f"An orbit of {len(self.targets)} frames is rendered after {self.config.begin:.0%} of training and refined "
            f"from {first.width // factor} x {first.height // factor} to {first.width} x {first.height} pixels "
            "(--pipeline.guidance.frames, --pipeline.guidance.side)"
            + (f"; this takes about {minutes:.1f} minutes beside training." if self._run.on_cpu else ".")
        )

    # ------------------------------------------------------------------ making frames

    def before_step(self, step: int) -> bool:
        """Render a frame of the orbit, all of them before this step; later do a step of the refiner."""
        if self._done or step < self._begins or not (self._state or self._renderer.fit_at(step)):
            return False
        started = time.perf_counter()
        if self._state is None:
            self._frames.append(self._rendered(len(self._frames)))
            if len(self._frames) == len(self.targets):
                self._tracking.begin(f"{len(self._frames)} frames are rendered, and refined beside training")
                self._state = self.refiner.start(self._frames, self._seed * _SEED % 2**31)
                self._frames = []
        else:
            self._state = self.refiner.step(self._state)
        self._seconds += time.perf_counter() - started
        if self._state is not None and self.refiner.steps_left(self._state) == 0:
            self._finish(step)
        return self._state is None and not self._done

    @property
    def _begins(self) -> int:
        return self._run.first_step + round(self.config.begin * self._run.steps)

    def _rendered(self, number: int) -> OrbitFrame:
        """A frame as the splat shows it: rendered at its refined size, and reduced; kept in the pool with its alpha."""
        camera = self.targets[number]
        render = self._renderer.render(camera, depth=True)
        assert render.depth is not None
        low = camera.resized(camera.width // self.refiner.factor, camera.height // self.refiner.factor)
        image = resampled(render.image, low.height, low.width)
        shown = resampled(image, camera.height, camera.width)
        self.pool.put(TrainView(f"{_RENDERED}/{number:03d}", camera, shown, alpha=render.alpha))
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

    def _finish(self, step: int) -> None:
        assert self._state is not None
        seconds = self._seconds / len(self.targets)
        cut_out = all(self._scene.alpha(index) is not None for index in range(len(self._scene)))
        for number, image in enumerate(self.refiner.result(self._state)):
            key, camera = f"orbit/{number:03d}", self.targets[number]
            made = TrainView(key, camera, image, photo=self._photo_at(camera))
            before = self.pool.stored(f"{_RENDERED}/{number:03d}")
            if before is not None and before.alpha is not None:
                # An object that is cut out stands before the background of each step; elsewhere, where the splat has
                # nothing, a frame shows the background it was rendered on, which is nothing to learn.
                made = replace(made, alpha=before.alpha) if cut_out else replace(made, confidence=before.alpha)
            self.pool.put(made)
            self._tracking.made(self._record(made, number, step, seconds, before))
        self._tracking.end("Orbit", step, len(self.targets))
        if self._kept is not None:  # in its place next to nothing: checkpoints would hold it until the end
            self.pool.put_state(_STATE, {})
        self._state, self._kept, self._done = None, None, True

    def _record(self, made: TrainView, number: int, step: int, seconds: float, before: TrainView | None) -> ViewRecord:
        nearest = self._nearest(made.camera)
        panels = {"Refined": made.image, "Photo": self._scene.photo(nearest).image}
        if before is not None:
            panels = {"As rendered": before.image, **panels}
        return ViewRecord(
            key=made.key,
            group="",
            order=0,
            title=f"Frame {number}",
            step=step,
            seconds=seconds,
            pairs=(*((("As rendered", "Refined"),) if before is not None else ()), ("Refined", "Photo")),
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
    def _share(self) -> float:
        """Return the share of steps that use a refined frame: of frames that a generator made, the finer take all."""
        made = any(self._scene.generated(index) for index in range(len(self._scene)))
        return 1.0 if made and self.config.probability else self.config.probability

    # ------------------------------------------------------------------ state

    def state_dict(self, step: int) -> dict[str, Any]:
        if self._state is not None and self._state is not self._kept:
            self.pool.put_state(_STATE, self._state)
            self._kept = self._state
        return {
            "refiner": self.config.orbit_refiner.name,
            "seed": self._seed,
            "done": self._done,
            "begun": self._state is not None,
            "targets": [[t.camera_to_world.float(), t.intrinsics.float(), t.width, t.height] for t in self.targets],
            "pool": self.pool.state(checkpoint=step),
        }

    def load_state_dict(self, state: dict[str, Any], folder: Path, step: int) -> None:
        if (name := state["refiner"]) != self.config.orbit_refiner.name:
            raise UserError(
                f"this training was begun with the orbit refiner {name}: give --pipeline.guidance.orbit-refiner.name "
                f"{name}"
            )
        self.pool.restore(folder / POOL_FOLDER, state["pool"])
        self._seed, self._done = state["seed"], state["done"]
        self.targets = [Pinhole(pose, intrinsics, w, h) for pose, intrinsics, w, h in state["targets"]]
        # where it was lost the orbit is rendered again
        self._state = self._kept = self.pool.stored_state(_STATE) if state["begun"] else None
        self._tracking.recall(folder / RECORDS_FOLDER, step)

    def keep(self, steps: Sequence[int]) -> None:
        self.pool.prune(steps)

    # ------------------------------------------------------------------ what people see

    def status(self, step: int) -> Status:
        if self._done:
            line = f"**{len(self.targets)}** frames around the object, refined"
        elif self._state is not None:
            line = f"the orbit is refined: {self.refiner.steps_left(self._state)} pieces of work to go"
        elif step < self._begins:
            line = f"an orbit of {len(self.targets)} frames is rendered at step {self._begins}"
        else:
            line = f"an orbit of {len(self.targets)} frames is rendered as soon as the splat has recovered from a reset"
        return Status(
            title=ABOUT_FRAMES.short,
            lines=[line],
            views=[self._shown_view(entry) for entry in self.pool.entries() if entry.key.startswith("orbit/")],
            targets=self.targets,
            records=list(self._tracking.latest),
            plural="refined frames",
        )

    def _shown_view(self, entry: Entry) -> ShownView:
        head, picture = self._tracking.heads.get(entry.key), partial(self.pool.thumbnail, entry.key)
        return ShownView(entry.key, entry.generation, entry.camera, picture, () if head is None else head.references)
