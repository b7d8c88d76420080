"""The loop: targets, poses, render, references, fix, pool; a few views per training step."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import nerfstudio.configs.base_config  # noqa: F401  (nerfstudio's writer cannot be imported before it)
import torch
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.enhance.enhancer import FixerSettings
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.progressive import advance
from difix3d_ns.guidance.schedule import RoundSchedule
from difix3d_ns.ns.reference_views import ReferenceViews, to_cameras
from difix3d_ns.priors.base import Fixer, FixRequest
from difix3d_ns.views.pool import Pool, PseudoView
from difix3d_ns.views.records import FixRecord, record_fix

if TYPE_CHECKING:
    from difix3d_ns.ns.model import SplatModel

_STRIP = "before, after, reference, confidence of target"
_PHOTOGRAPHS_PER_VIEW = 8
"""at which the splat is rendered in a step that prepares references: takes no longer than repairing a view"""


@dataclass(frozen=True)
class Task:
    """One pseudo-view to be made: the pose of ``target`` in round ``round`` (counted from 1)."""

    round: int
    target: int
    asked: bool = False  # by somebody in the viewer, not by the schedule


@dataclass
class Progress:
    """Where the loop stands."""

    round: int = 0
    queue: list[Task] = field(default_factory=list)
    seconds: float = 0.0
    views: int = 0
    change: float = 0.0


class FixRounds:
    """Makes pseudo-views in rounds while training goes on.

    Args:
        schedule: when rounds start and when rendering is allowed.
        targets: the poses rounds lead to.
        photographs: starting poses and references.
        model: the splat that is rendered; between steps, so that densification never sees these renders.
        fixer: how to repair, and how to load it when the first view is made.
        pool: where pseudo-views go.
        keep_depth: whether they carry the fixer's depth; it takes a quarter more memory.
        on_fix: told of each repaired view.
    """

    def __init__(
        self,
        schedule: RoundSchedule,
        targets: Sequence[Pinhole],
        photographs: ReferenceViews,
        model: SplatModel,
        fixer: FixerSettings,
        pool: Pool,
        keep_depth: bool = False,
        on_fix: Callable[[FixRecord], None] = lambda record: None,
    ) -> None:
        self.schedule = schedule
        self._targets = list(targets)  # only appended to: views in the pool are known by their position here
        self._current = list(range(len(self._targets)))  # those that rounds lead to
        self._photographs = photographs
        self._model = model
        self._settings = fixer
        self._fixer: Fixer | None = None
        self.pool = pool
        self._keep_depth = keep_depth
        self._on_fix = on_fix
        self.progress = Progress()
        self.first_view: int | None = None
        """step at which the first view was made"""
        self._problem = ""
        self._wishes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    @property
    def targets(self) -> list[Pinhole]:
        """The poses rounds lead to."""
        return [self._targets[index] for index in self._current]

    def describe(self, step: int) -> list[str]:
        """Lines for people: where the loop stands at this step of training."""
        lines = [f"Round **{self.progress.round} of {self.schedule.rounds}**, pool {len(self.pool)}"]
        if left := len(self.progress.queue):
            fit = self.schedule.may_render(step, late=self.progress.queue[0].asked)
            lines.append(f"{left} views to go" + ("" if fit else ", waiting: the splat is not fit to be rendered yet"))
        elif self.progress.round < self.schedule.rounds:
            lines.append(f"Next round at step {self.schedule.starts[self.progress.round]}, now {step}")
        return lines + ([f"**{self._problem}**"] if self._problem else [])

    @property
    def wishes_left(self) -> bool:
        """Whether something was asked for that is not done yet."""
        return not self._wishes.empty() or any(task.asked for task in self.progress.queue)

    def ask_for_round(self) -> None:
        """Have the next round begin now, or the last one again; from any thread, taken up before the next step."""
        self._wishes.put(self._begin_asked)

    def ask_for_view(self, camera: Pinhole) -> None:
        """Have a pseudo-view made here and in later rounds again; from any thread, taken up before the next step."""
        self._wishes.put(lambda: self._add_view(camera))

    def ask_for_targets(self, targets: Sequence[Pinhole]) -> None:
        """Lead later rounds to other targets; from any thread, taken up before the next step.

        Views at earlier targets stay in the pool and are made anew as before.
        """
        self._wishes.put(lambda: self._replace_targets(targets))

    def before_step(self, step: int) -> None:
        """Start a round if one is due, and make a few of the queued views if the splat is fit to be rendered."""
        while not self._wishes.empty():
            self._wishes.get()()
        due = self.schedule.round_at(step)
        if due > self.progress.round:
            self._begin(due)
        if self.progress.queue and self.schedule.may_render(step, late=self.progress.queue[0].asked):
            batch = self.progress.queue[: self.schedule.views_per_step]
            cameras = [self._poses(task.round)[task.target] for task in batch]
            most = _PHOTOGRAPHS_PER_VIEW * self.schedule.views_per_step
            if self._settings.references and not self._photographs.prepare(cameras, most):
                return
            try:
                self._make(batch, cameras, step)
                self._problem = ""
            except Exception as error:
                if not all(task.asked for task in batch):
                    raise
                self._problem = f"What was asked for could not be made: {error}"  # which must not end the training
                CONSOLE.log(f"[yellow]{self._problem}")
            del self.progress.queue[: len(batch)]
            if not self.progress.queue:
                self._tell_end(step)

    def state(self) -> dict[str, Any]:
        """What resuming needs, as plain values and tensors."""
        return {
            "round": self.progress.round,
            "queue": [[task.round, task.target, task.asked] for task in self.progress.queue],
            "targets": [[t.camera_to_world.float(), t.intrinsics.float(), t.width, t.height] for t in self._targets],
            "current": list(self._current),
            "first_view": self.first_view,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, also in the middle of a round."""
        self.progress = Progress(state["round"], [Task(*task) for task in state["queue"]])
        self._targets = [Pinhole(pose, intrinsics, w, h) for pose, intrinsics, w, h in state["targets"]]
        self._current = state.get("current", list(range(len(self._targets))))
        self.first_view = state.get("first_view")

    def _begin_asked(self) -> None:
        place = self._first_with_poses_of(max(1, self.progress.round))
        left = {task.target for task in self.progress.queue if task.asked and task.round == place}
        made = {entry.target for entry in self.pool.views() if entry.round == place}
        if self.progress.round and left and set(self._current) <= left | made:
            return  # one that was asked for is being made
        self._begin(min(self.progress.round + 1, self._rounds))
        self.progress.queue = [replace(task, asked=True) for task in self.progress.queue]

    def _add_view(self, camera: Pinhole) -> None:
        self._targets.append(camera)
        self._current.append(len(self._targets) - 1)
        place = self._first_with_poses_of(self._rounds)  # whose poses are the targets themselves
        self.progress.queue.insert(0, Task(place, self._current[-1], asked=True))

    def _replace_targets(self, targets: Sequence[Pinhole]) -> None:
        first = len(self._targets)
        self._targets += targets
        self._current = list(range(first, len(self._targets)))
        CONSOLE.log(f"The next rounds lead to {len(targets)} other targets.")

    def _poses(self, number: int) -> list[Pinhole]:
        return advance(self._photographs.cameras(), self._targets, self._fraction(number))

    def _fraction(self, number: int) -> float:
        """Of the way to the targets in round ``number``; of three or more, the last makes the views there anew.

        Views at the targets teach most, and what is made in the last round is seen only a few times.
        """
        return min(1.0, number / (self._rounds - 1 if self._rounds > 2 else self._rounds))

    @property
    def _rounds(self) -> int:
        """One at least: it can be asked for."""
        return max(1, self.schedule.rounds)

    def _first_with_poses_of(self, number: int) -> int:
        """The round that made the views round ``number`` makes anew; itself if its poses are new."""
        return next(r for r in range(1, number + 1) if self._fraction(r) == self._fraction(number))

    def _begin(self, number: int) -> None:
        self._photographs.forget()
        place = self._first_with_poses_of(number)
        fresh = [Task(place, target) for target in self._current]
        made = [Task(entry.round, entry.target) for entry in self.pool.views()]
        outdated = [task for task in made if task not in fresh]
        asked = [task for task in self.progress.queue if task.asked]
        self.progress = Progress(number, list({(t.round, t.target): t for t in fresh + outdated + asked}.values()))
        self.progress.queue.sort(key=lambda task: not task.asked)
        CONSOLE.log(
            f"Round {number}/{self.schedule.rounds}: fixing {len(fresh)} pseudo-views "
            f"at {self._fraction(number):.0%} of the way"
            + (f" and {len(outdated)} earlier ones again" if outdated else "")
        )

    @torch.no_grad()
    def _make(self, tasks: Sequence[Task], cameras: Sequence[Pinhole], step: int) -> None:
        started = time.perf_counter()
        if self._fixer is None:
            self._fixer = self._settings.load(self._model.device)
        requests, shown, names = [], [], self._photographs.names()
        for task, camera in zip(tasks, cameras, strict=True):
            image, depth, alpha = self._render(camera)
            chosen = self._photographs.choose_indices(camera, depth, alpha, self._settings.references)
            references = [self._photographs.reference(index) for index in chosen]
            # reproducible, and not the same noise everywhere
            seed = task.round * 100_003 + task.target
            requests.append(FixRequest(image, references, camera, depth, alpha, seed))
            shown.append(tuple(names[index] for index in chosen))
        results = self._fixer.fix(requests)
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        if self.first_view is None:
            self.first_view = step
        for task, request, result, its_names in zip(tasks, requests, results, shown, strict=True):
            assert request.camera is not None
            view = PseudoView(result.image, result.confidence, request.camera, task.round, task.target)
            if self._keep_depth:
                view = replace(view, depth=result.depth, depth_confidence=result.depth_confidence)
            self.pool.put(view)
            record = record_fix(
                *(task.round, task.target, step, its_names, seconds / len(tasks)),
                *(request.image, result.image, result.confidence),
                request.references[0].image if request.references else None,
            )
            self.progress.change += record.change
            self._on_fix(record)
            if writer.is_initialized():
                strip = torch.from_numpy(record.strip[::2, ::2].copy()).float() / 255  # the whole one is in the records
                writer.put_image(name=f"Pseudo-views/{_STRIP} {task.target:03d}", image=strip, step=step)
        self.progress.seconds += time.perf_counter() - started
        self.progress.views += len(tasks)
        left = len(self.progress.queue) - len(tasks)
        CONSOLE.log(
            f"{self._label()}: {self.progress.views} fixed, {left} to go, "
            f"{self.progress.seconds / self.progress.views:.2f} s per view"
        )

    def _render(self, camera: Pinhole) -> tuple[Tensor, Tensor, Tensor]:
        """Image [H, W, 3], median depth [H, W, 1] and opacity [H, W, 1] of the splat."""
        training = self._model.training
        self._model.eval()
        try:
            rgb = self._model.get_outputs_for_camera(to_cameras(camera, self._model.device))
            image = rgb["raw"] if "raw" in rgb else rgb["rgb"]
            depth, alpha = self._model.median_depth(
                camera.camera_to_world, camera.intrinsics, camera.width, camera.height
            )
        finally:
            self._model.train(training)
        return image, depth, alpha

    def _tell_end(self, step: int) -> None:
        done = self.progress
        if writer.is_initialized():
            writer.put_scalar(name="Pseudo-views/pool", scalar=len(self.pool), step=step)
            writer.put_scalar(name="Pseudo-views/mean change", scalar=done.change / max(1, done.views), step=step)
        CONSOLE.log(f"{self._label()} done in {done.seconds:.0f} s: pool of {len(self.pool)}")

    def _label(self) -> str:
        return f"Round {self.progress.round}/{self.schedule.rounds}" if self.progress.round else "Asked for"
