"""Difix3D+ as a guidance: views between the photographs, rendered, repaired by a fixer, learnt from, in rounds.

Wu et al., "Difix3D+: Improving 3D Reconstructions with Single-Step Diffusion Models", CVPR 2025, section 4.2. Every
choice of the method is in this file: when rounds begin, where views are made, with what, how they are kept, and how
they weigh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from rich.markup import escape

from difix3d_ns.errors import UserError, first_line
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.base import Guidance, GuidanceConfig
from difix3d_ns.guidance.fix_record import ABOUT_FIXES, fix_group, record_fix
from difix3d_ns.guidance.fixing import MIN_CONFIDENCE, ViewFixer
from difix3d_ns.guidance.progressive import interpolate_toward
from difix3d_ns.guidance.schedule import VIEWS_AT_ONCE, plan_rounds
from difix3d_ns.guidance.status import Button, ShownView, Status, Visitor
from difix3d_ns.guidance.tracking import ViewTracker
from difix3d_ns.guidance.work_queue import WorkQueue
from difix3d_ns.io.config_fields import check_at_least, check_share, fill_unset
from difix3d_ns.io.device_memory import return_unused_memory
from difix3d_ns.io.run import Run
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.views.coverage import coverage, thinness
from difix3d_ns.views.folders import POOL_FOLDER, RECORDS_FOLDER
from difix3d_ns.views.pool import Entry, Pool, most_redundant
from difix3d_ns.views.protocols import References, Renderer, Scene
from difix3d_ns.views.records import ViewRecords
from difix3d_ns.views.targets import auto_targets, camera_path_targets
from difix3d_ns.views.view import TrainView

CUDA_ROUNDS = 8
CPU_ROUNDS = 2  # a third one brought 0.01 to 0.06 dB on three captures, for a fifth of the time
PROBABILITY = 0.5
"""share of training steps that use a pseudo-view of a sparse capture: they show most of what is missing"""
MIN_PROBABILITY = 0.02
"""a smaller one is none: rounds cost more than it brings"""
_SMALLER = (
    "smaller photos (--downscale-factor 2 after the dataparser's name, or "
    "--pipeline.datamanager.camera-res-scale-factor 0.5) or fewer references (--pipeline.guidance.fixer.references 1)"
)
_SEED_OF_ROUND = 100_003  # noise is reproducible, and not the same everywhere


@dataclass
class TargetConfig:
    """Settings of the poses the rounds lead to."""

    kind: Literal["auto", "camera-path", "eval"] = "auto"
    """auto: between and somewhat beyond the training cameras; camera-path: a path saved in the viewer;
    eval: the evaluation poses, the paper's protocol (their pictures are not used, their poses are)"""
    camera_path: Path | None = None
    """JSON file saved in the viewer's Render tab, for kind camera-path"""
    count: int = 16
    """how many; measured on sparse captures, gains flatten between 12 and 24 and every view costs a fix per round"""
    beyond: float = 0.25
    """how far outside the outermost targets lie, in units of the training cameras' spacing"""


@dataclass
class DifixConfig(GuidanceConfig):
    """Settings of pseudo-views: when they are made, where, with which fixer, and how they weigh."""

    _target: type = field(default_factory=lambda: DifixGuidance)
    kept: ClassVar[tuple[str, ...]] = ("rounds", "probability")
    announced: ClassVar[dict[str, str]] = {"rounds": "{} rounds"}
    rounds: int | None = None
    """how often new pseudo-views are made; 0 = never (unset: 8 with CUDA, 2 on a CPU, none where photos are many
    enough; see probability)"""
    targets: TargetConfig = field(default_factory=TargetConfig)
    """where pseudo-views are wanted"""
    fixer: FixerConfig = field(default_factory=FixerConfig)
    """what repairs them"""
    probability: float | None = None
    """share of training steps that use a pseudo-view (unset: half where rounds or other targets are given, else as
    thinly as photos cover the targets: half in a capture of up to 12 photos, none in one of 60)"""
    by_coverage: bool = field(default=False, init=False, compare=False)
    """whether probability follows coverage; no flag"""
    weight: float = 1.0
    """loss weight of a pseudo-view against 1 for a photo; confidence already weighs it per pixel"""
    unseen_weight: float | None = None
    """smallest confidence of a generative fixer, such as difix, where the splat is opaque (over 0.5), whether or not a
    photo shows it (unset: 0.2 for a generative fixer; others teach nothing there)"""
    depth_weight: float = 0.0
    """loss weight of a pseudo-view's depth, as the fixer corrected it, against the weight of its picture;
    0 = depth is not taught"""
    pool_capacity: int = 256
    """most pseudo-views kept; at 960 x 640 one takes about 5 MB of memory"""

    def fit(self, run: Run) -> None:
        if self.probability is None and self.rounds is None and self.targets.kind == "auto":
            self.by_coverage = True  # nothing was requested
        if not self.by_coverage:
            fill_unset(self, probability=PROBABILITY)
        fill_unset(self, rounds=CPU_ROUNDS if run.on_cpu else CUDA_ROUNDS)

    def check(self, flag: str) -> None:
        at_least_0 = dict.fromkeys(("rounds", "targets.beyond", "weight", "depth_weight"), 0)
        check_at_least(self, flag, {**at_least_0, "targets.count": 1, "pool_capacity": 1})
        check_share(self, flag, "probability")
        check_share(self, flag, "unseen_weight")
        if self.targets.kind == "camera-path" and self.targets.camera_path is None:
            raise UserError(f"{flag}.targets.kind camera-path needs {flag}.targets.camera-path FILE")

    def setup(self, **kwargs: Any) -> Guidance:
        """Make the guidance; without rounds it does nothing."""
        return super().setup(**kwargs) if self.rounds else Guidance(self)

    @property
    def fixer_config(self) -> FixerConfig:
        return self.fixer


@dataclass(frozen=True)
class Task:
    """One view to be made: the pose of ``target`` in round ``round`` (counted from 1)."""

    round: int
    target: int
    requested: bool = False  # by somebody in the viewer, not by the schedule

    @property
    def key(self) -> str:
        """Return the key of the view."""
        return f"target/{self.target:03d}@{self.round}"

    @classmethod
    def of(cls, key: str) -> Task:
        """Return the task that made the view of a key."""
        target, _, number = key.removeprefix("target/").partition("@")
        return cls(int(number), int(target))


class DifixGuidance(Guidance):
    """Maker of views in rounds while training goes on; a step learns from one of them or from a photograph."""

    config: DifixConfig

    def __init__(self, config: DifixConfig) -> None:
        super().__init__(config)
        self.depth_weight = config.depth_weight

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        config = self.config
        assert config.rounds
        if run.images is not None and run.images < 2:
            raise UserError(
                "pseudo-views need at least two training images; add some, or give --pipeline.guidance.rounds 0"
            )
        self._scene, self._renderer, self._references, self._run = scene, renderer, references, run
        self.round = 0
        self._first_view: int | None = None  # step at which the first view was made
        self._problem = ""
        self._given_up = False
        self._made, self._skipped = 0, 0  # views of this round: made, and planned but skipped
        # a scene that cannot have any is reported now, not in the middle of training; so are unreadable weights
        self._targets = self._find_targets()  # only appended to: views in the pool are known by their position here
        self._current = list(range(len(self._targets)))  # those that rounds lead to
        if config.by_coverage and not run.resumed:
            self._follow_coverage()
        if run.resumed and not self.probability:
            run.tracker.log(
                "Resumed without pseudo-views, as this training began (--pipeline.guidance.probability "
                f"{PROBABILITY} makes some)."
            )
        self.schedule = plan_rounds(
            last_step=run.last_step,
            rounds=config.rounds if self.probability else 0,
            fit_at=renderer.fit_at,
            views_per_round=config.targets.count * config.rounds,  # the last one refreshes all earlier views
            weight=config.weight,
            first_step=run.first_step,
            views_at_once=VIEWS_AT_ONCE[renderer.device.type],
        )
        if self.probability and self.schedule.rounds < config.rounds:
            run.tracker.log(
                f"[yellow]Training has room for {self.schedule.rounds} of {config.rounds} rounds "
                "(--pipeline.guidance.rounds, --max-num-iterations)."
            )
        self.queue: WorkQueue[Task] = WorkQueue(self.schedule.views_per_step)
        self.pool = Pool(
            config.pool_capacity, run.folder / POOL_FOLDER, most_redundant_of_oldest_round, device=renderer.device
        )
        self._fixing = ViewFixer(config.fixer, renderer, references, config.unseen_weight)
        self._names = scene.names()
        records = ViewRecords(run.folder / RECORDS_FOLDER, ABOUT_FIXES)
        self._tracking = ViewTracker(run.tracker, records, ABOUT_FIXES.short, "fixed")
        for sentence in self._fixing.describe() if self.probability else ():
            run.tracker.log(f"[yellow]{escape(sentence[0].upper() + sentence[1:])}.")

    @property
    def probability(self) -> float:
        """Return the share of steps that planned views get."""
        return PROBABILITY if self.config.probability is None else self.config.probability

    @property
    def targets(self) -> list[Pinhole]:
        """Return the poses rounds lead to."""
        return [self._targets[index] for index in self._current]

    # ------------------------------------------------------------------ where

    def _find_targets(self) -> list[Pinhole]:
        targets = self.config.targets
        try:
            if targets.kind == "camera-path":
                assert targets.camera_path is not None
                # a path is saved at the size of the video; more pixels than photographs have teach nothing
                bound = max(max(camera.width, camera.height) for camera in self._scene.cameras())
                return [camera.within(bound) for camera in camera_path_targets(targets.camera_path, targets.count)]
            if targets.kind == "eval":
                self._run.tracker.log(
                    "[yellow]Targets are the evaluation poses (--pipeline.guidance.targets.kind eval)."
                )
                if not (cameras := self._scene.evaluation_cameras()):
                    raise UserError(
                        "--pipeline.guidance.targets.kind eval: the scene has no evaluation images; use kind auto"
                    )
                return cameras
            return auto_targets(self._scene.cameras(), self._scene.points(), targets.count, targets.beyond)
        except (ValueError, FileNotFoundError) as error:
            raise UserError(
                f"no poses for pseudo-views: {error} (--pipeline.guidance.targets.kind camera-path takes a saved path, "
                "--pipeline.guidance.rounds 0 trains without)"
            ) from error

    def _follow_coverage(self) -> None:
        """Give pseudo-views as many steps, at as many targets, as photographs leave room for, and say so."""
        photographs, steps, points = len(self._scene), self._run.last_step, self._scene.points()
        covered: list[float] = [photographs] * len(self._targets)  # without points, any photograph may show anything
        if points is not None:
            covered = coverage(self._targets, self._scene.cameras(), points)
        thin = thinness(covered, photographs, steps)
        mean = sum(thin) / max(1, len(thin))
        self.config.probability = PROBABILITY * mean
        if mean == 1.0:
            return
        if self.config.probability < MIN_PROBABILITY:
            self.config.probability = 0.0
        else:
            thinnest = sorted(self._current, key=lambda index: -thin[index])[: math.ceil(mean * len(thin))]
            self._current = sorted(thinnest)
        self._run.tracker.log(
            f"{photographs} photos, {steps / photographs:.0f} steps for each, and {np.median(covered):.0f} show what a "
            f"pseudo-view would show: "
            + (
                f"{len(self._current)} pseudo-views get {self.config.probability:.0%} of the steps"
                if self.config.probability
                else "training goes without pseudo-views"
            )
            + f" (--pipeline.guidance.probability {PROBABILITY} gives them half)."
        )

    def _poses(self, number: int) -> list[Pinhole]:
        return interpolate_toward(self._scene.cameras(), self._targets, self._fraction(number))

    def _fraction(self, number: int) -> float:
        """Return the fraction of the way from the nearest photograph to the target in round ``number``.

        Of three or more rounds the last makes the views at the targets again: they teach most, and what is made in the
        last round is seen only a few times.
        """
        return min(1.0, number / (self._rounds - 1 if self._rounds > 2 else self._rounds))

    @property
    def _rounds(self) -> int:
        """Return the number of rounds; one at least: it can be requested."""
        return max(1, self.schedule.rounds)

    def _first_round_at_poses_of(self, number: int) -> int:
        """Return the round that made the views round ``number`` makes again; itself if its poses are new."""
        return next(r for r in range(1, number + 1) if self._fraction(r) == self._fraction(number))

    # ------------------------------------------------------------------ when

    def before_step(self, step: int) -> bool:
        """Start a round if one is due, and make a few of the queued views if the splat is fit to be rendered."""
        self.queue.take_requests()
        due = self.schedule.round_at(step)
        if due > self.round and not self._given_up:
            self._begin(due)
        if self.queue.tasks and self.schedule.may_render(step, late=self.queue.tasks[0].requested):
            self._make_batch(step)
        return False

    def _begin(self, number: int) -> None:
        self._references.forget()
        place = self._first_round_at_poses_of(number)
        fresh = [Task(place, target) for target in self._current]
        made = [Task.of(key) for key in self.pool]
        outdated = [task for task in made if task not in fresh]
        requested = [task for task in self.queue.tasks if task.requested]
        tasks = list({task.key: task for task in fresh + outdated + requested}.values())
        self.round = number
        self._made, self._skipped = 0, 0
        self.queue.tasks = sorted(tasks, key=lambda task: not task.requested)
        self._tracking.begin(
            f"Round {number}/{self.schedule.rounds}: fixing {len(fresh)} pseudo-views "
            f"at {self._fraction(number):.0%} of the way"
            + (f" and {len(outdated)} earlier ones again" if outdated else "")
        )

    # ------------------------------------------------------------------ with what

    def _make_batch(self, step: int) -> None:
        batch = self.queue.tasks[: self.queue.per_step]
        cameras = [self._poses(task.round)[task.target] for task in batch]
        try:
            if not self._fixing.prepare(cameras, self.queue.per_step):
                return
        except torch.cuda.OutOfMemoryError:
            pass  # what is missing is rendered for each view, which is skipped where that does not fit either
        self._attempt(batch, cameras, step)
        if not self.queue.tasks:
            self._tracking.end(self._label(), step, len(self.pool))
            self._report_teach_nothing()
            if self._skipped and not self._made:
                self._give_up()

    def _attempt(self, tasks: Sequence[Task], cameras: Sequence[Pinhole], step: int) -> None:
        """Make views together or, where that fails on the device, one by one; those that fail alone are skipped.

        CUDA's libraries report that memory ran out, and fixers that numbers ran over, by a ``RuntimeError``.
        """
        try:
            self._make(tasks, cameras, step)
            return
        except torch.cuda.OutOfMemoryError as error:
            problem = f"since memory ran out ({first_line(error).rstrip('.')}). Less is needed with {_SMALLER}"
        except RuntimeError as error:
            problem = f"since making it failed: {first_line(error).rstrip('.')}"
        except Exception as error:
            if not all(task.requested for task in tasks):
                raise
            self._problem = f"A requested view could not be made: {error}"  # which must not end the training
            self._run.tracker.log(f"[yellow]{escape(self._problem)}")
            del self.queue.tasks[: len(tasks)]
            return
        self.pool.leave_device()
        return_unused_memory()  # outside of that clause the failed attempt's tensors are gone
        if len(tasks) == 1:
            self._skip(tasks[0], cameras[0], problem)
            return
        for task, camera in zip(tasks, cameras, strict=True):
            self._attempt([task], [camera], step)

    def _make(self, tasks: Sequence[Task], cameras: Sequence[Pinhole], step: int) -> None:
        seeds = [task.round * _SEED_OF_ROUND + task.target for task in tasks]
        views = self._fixing.fix(cameras, seeds)
        if self._first_view is None:
            self._first_view = step
        for task, camera, view in zip(tasks, cameras, views, strict=True):
            made = TrainView(task.key, camera, view.result.image, confidence=view.result.confidence)
            if self.config.depth_weight > 0 and view.result.depth is not None:
                confidence = view.result.depth_confidence
                made = replace(made, depth=view.result.depth, depth_weight=1.0 if confidence is None else confidence)
            self.pool.put(made)
            self._tracking.made(record_fix(task.key, task.round, task.target, step, view, self._names))
        self._made += len(tasks)
        self._problem = ""
        del self.queue.tasks[: len(tasks)]
        self._tracking.progress(self._label(), len(self.queue.tasks))

    def _skip(self, task: Task, camera: Pinhole, problem: str) -> None:
        """Go on without a view that cannot be made, and say so once in a round."""
        self._problem = f"A pseudo-view of {camera.width}x{camera.height} is skipped, {problem}."
        if not self._skipped:
            self._run.tracker.log(f"[yellow]{escape(self._problem)}")
        self._skipped += not task.requested  # people see by themselves what becomes of their requests
        self.queue.tasks.remove(task)

    def _give_up(self) -> None:
        """Plan no more rounds, since none of this one's views could be made; views can still be requested."""
        self._given_up = True
        self._problem = (
            f"{self._problem} No view of round {self.round} could be made: training goes on without further rounds."
        )
        self._run.tracker.log(f"[yellow]{escape(self._problem)}")

    def _report_teach_nothing(self) -> None:
        """Say how many views of a round a step never learns from."""
        views = self._tracking.round
        if count := sum(float(view.numbers["confidence"]) < MIN_CONFIDENCE for view in views):
            self._run.tracker.log(
                f"[yellow]{self._label()}: {count} of {len(views)} pseudo-views teach nothing, since the fixer "
                "has no confidence in them: no reference photo shows what they show."
            )

    def _label(self) -> str:
        return f"Round {self.round}/{self.schedule.rounds}" if self.round else "Requested"

    # ------------------------------------------------------------------ how they weigh

    def next_view(self, step: int, generator: torch.Generator) -> TrainView | None:
        if len(self.pool) == 0:
            return None
        if float(torch.rand((), generator=generator)) >= self._share():
            return None
        view = self.pool.sample(generator)
        if self.pool.entry(view.key).confidence < MIN_CONFIDENCE:
            return None
        view = replace(view, weight=self.schedule.weight(step, self._first_view))
        return view if self.config.depth_weight > 0 else replace(view, depth=None)

    def _share(self) -> float:
        """Share of steps of pseudo-views; requested views without planned ones count as one photograph each."""
        return self.probability or min(PROBABILITY, len(self.pool) / (len(self.pool) + len(self._scene)))

    def rotation(self) -> int:
        return len(self._scene) + len(self.pool)

    # ------------------------------------------------------------------ state

    def state_dict(self, step: int) -> dict[str, Any]:
        self._references.forget()  # a resumed training renders them here, so this one does too
        return {
            "fixer": self.config.fixer.name,
            "round": self.round,
            "queue": [[task.round, task.target, task.requested] for task in self.queue.tasks],
            "targets": [target.state() for target in self._targets],
            "current": list(self._current),
            "first_view": self._first_view,
            "pool": self.pool.state(checkpoint=step),
        }

    def load_state_dict(self, state: dict[str, Any], folder: Path, step: int) -> None:
        if not state:  # of a training without rounds
            return
        self.config.fixer.check_resumed(state.get("fixer", self.config.fixer.name))
        self.round = state["round"]
        self.queue.tasks = [Task(*task) for task in state["queue"]]
        self._targets = [Pinhole.of_state(target) for target in state["targets"]]
        self._current = state["current"]
        self._first_view = state["first_view"]
        self.pool.restore(folder / POOL_FOLDER, state["pool"])
        self._made = len(self.pool)  # what was made of its round before is not known
        self._tracking.recall(folder / RECORDS_FOLDER, step)

    def keep(self, steps: Sequence[int]) -> None:
        self.pool.prune(steps)

    # ------------------------------------------------------------------ what people see and request

    def status(self, step: int) -> Status:
        lines = [f"Round **{self.round} of {self.schedule.rounds}**, {len(self.pool)} pseudo-views in the pool"]
        if left := len(self.queue.tasks):
            fit = self.schedule.may_render(step, late=self.queue.tasks[0].requested)
            lines.append(f"{left} views to go" + ("" if fit else ", waiting: the splat is not fit to be rendered yet"))
        elif self.round < self.schedule.rounds and not self._given_up:
            lines.append(f"Next round at step {self.schedule.starts[self.round]:,}, now {step:,}")
        return Status(
            title="Pseudo-views",
            lines=[*lines, f"**{self._problem}**"] if self._problem else lines,
            views=[self._shown_view(entry) for entry in self.pool.entries()],
            targets=self.targets,
            records=list(self._tracking.latest),
            buttons=(
                Button("Run a fix round now", "The next round begins, or the last one again", self._on_round),
                Button("Add a pseudo-view here", "Repair what this tab shows and learn from it", self._on_view),
                Button("Use this camera path as targets", "The path of the tab Render", self._on_path),
            ),
            waiting=self.queue.requested or any(task.requested for task in self.queue.tasks),
            plural="pseudo-views",
        )

    def _shown_view(self, entry: Entry) -> ShownView:
        return replace(self._tracking.shown(entry, self.pool), group=fix_group(Task.of(entry.key).round))

    def request_round(self) -> None:
        """Request the next round now, or the last one again; from any thread, taken up before the next step."""
        self.queue.request(self._begin_requested)

    def request_view(self, camera: Pinhole) -> None:
        """Request a view here and in later rounds again; from any thread, taken up before the next step."""
        self.queue.request(lambda: self._add_view(camera))

    def request_targets(self, targets: Sequence[Pinhole]) -> None:
        """Request other targets for later rounds; from any thread, taken up before the next step.

        Views at earlier targets stay in the pool and are made again as before.
        """
        self.queue.request(lambda: self._replace_targets(targets))

    def _on_round(self, visitor: Visitor) -> str:
        self.request_round()
        return "A round was requested; it begins when training goes on and the splat is fit to be rendered."

    def _on_view(self, visitor: Visitor) -> str:
        self.request_view(visitor.camera())
        return "A pseudo-view was requested; later rounds make it again."

    def _on_path(self, visitor: Visitor) -> str:
        targets = visitor.path(self.config.targets.count)
        self.request_targets(targets)
        return f"Later rounds lead to {len(targets)} poses along the path. To begin at once, run a fix round."

    def _begin_requested(self) -> None:
        place = self._first_round_at_poses_of(max(1, self.round))
        left = {task.target for task in self.queue.tasks if task.requested and task.round == place}
        made = {task.target for task in map(Task.of, self.pool) if task.round == place}
        if self.round and left and set(self._current) <= left | made:
            return  # a requested one is being made
        self._begin(min(self.round + 1, self._rounds))
        self.queue.tasks = [replace(task, requested=True) for task in self.queue.tasks]

    def _add_view(self, camera: Pinhole) -> None:
        self._targets.append(camera)
        self._current.append(len(self._targets) - 1)
        place = self._first_round_at_poses_of(self._rounds)  # whose poses are the targets themselves
        self.queue.tasks.insert(0, Task(place, self._current[-1], requested=True))

    def _replace_targets(self, targets: Sequence[Pinhole]) -> None:
        first = len(self._targets)
        self._targets += targets
        self._current = list(range(first, len(self._targets)))
        self._run.tracker.log(f"The next rounds lead to {len(targets)} other targets.")


def most_redundant_of_oldest_round(entries: Sequence[Entry]) -> str:
    """Choose what a full pool gives up: of the oldest round, the view whose pose is most like another's."""
    first = min(Task.of(entry.key).round for entry in entries)
    return most_redundant(entries, [entry for entry in entries if Task.of(entry.key).round == first])
