"""The loop: targets, poses, render, references, fix, pool; a few views per training step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.enhancer import FixerSettings
from difix3d_ns.fixers.contract import Fixer, FixRequest
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.photographs import Photographs, to_cameras
from difix3d_ns.pseudoviews.pool import Pool, PseudoView
from difix3d_ns.pseudoviews.progress import advance
from difix3d_ns.pseudoviews.schedule import RoundSchedule

if TYPE_CHECKING:
    from difix3d_ns.model import Difix3DModel

_PHOTOGRAPHS_PER_VIEW = 8
"""at which the splat is rendered in a step that prepares references: takes no longer than repairing a view"""


@dataclass(frozen=True)
class Task:
    """One pseudo-view to be made: the pose of ``target`` in round ``round`` (counted from 1)."""

    round: int
    target: int


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
    """

    def __init__(
        self,
        schedule: RoundSchedule,
        targets: Sequence[Pinhole],
        photographs: Photographs,
        model: Difix3DModel,
        fixer: FixerSettings,
        pool: Pool,
        keep_depth: bool = False,
    ) -> None:
        self.schedule = schedule
        self._targets = list(targets)
        self._photographs = photographs
        self._model = model
        self._settings = fixer
        self._fixer: Fixer | None = None
        self.pool = pool
        self._keep_depth = keep_depth
        self.progress = Progress()

    def before_step(self, step: int) -> None:
        """Start a round if one is due, and make a few of the queued views if the splat is fit to be rendered."""
        due = self.schedule.round_at(step)
        if due > self.progress.round:
            self._begin(due)
        if self.progress.queue and self.schedule.may_render(step):
            batch = self.progress.queue[: self.schedule.views_per_step]
            cameras = [self._poses(task.round)[task.target] for task in batch]
            most = _PHOTOGRAPHS_PER_VIEW * self.schedule.views_per_step
            if self._settings.references and not self._photographs.prepare(cameras, most):
                return
            self._make(batch, cameras, step)
            del self.progress.queue[: len(batch)]
            if not self.progress.queue:
                self._tell_end(step)

    def state(self) -> dict[str, Any]:
        """What resuming needs, as plain values and tensors."""
        return {
            "round": self.progress.round,
            "queue": [[task.round, task.target] for task in self.progress.queue],
            "targets": [[t.camera_to_world.float(), t.intrinsics.float(), t.width, t.height] for t in self._targets],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, also in the middle of a round."""
        self.progress = Progress(state["round"], [Task(r, t) for r, t in state["queue"]])
        self._targets = [Pinhole(pose, intrinsics, w, h) for pose, intrinsics, w, h in state["targets"]]

    def _poses(self, number: int) -> list[Pinhole]:
        return advance(self._photographs.cameras(), self._targets, self._fraction(number))

    def _fraction(self, number: int) -> float:
        """Of the way to the targets in round ``number``; of three or more, the last makes the views there anew.

        Views at the targets teach most, and what is made in the last round is seen only a few times.
        """
        rounds = self.schedule.rounds
        return min(1.0, number / (rounds - 1 if rounds > 2 else rounds))

    def _first_with_poses_of(self, number: int) -> int:
        """The round that made the views round ``number`` makes anew; itself if its poses are new."""
        return next(r for r in range(1, number + 1) if self._fraction(r) == self._fraction(number))

    def _begin(self, number: int) -> None:
        self._photographs.forget()
        count = len(self._poses(number))
        place = self._first_with_poses_of(number)
        outdated = [Task(entry.round, entry.target) for entry in self.pool.views() if entry.round < place]
        fresh = [Task(place, target) for target in range(count)]
        self.progress = Progress(number, fresh + outdated)
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
        requests = []
        for task, camera in zip(tasks, cameras, strict=True):
            image, depth, alpha = self._render(camera)
            references = self._photographs.choose(camera, depth, alpha, self._settings.references)
            # reproducible, and not the same noise everywhere
            seed = task.round * 100_003 + task.target
            requests.append(FixRequest(image, references, camera, depth, alpha, seed))
        results = self._fixer.fix(requests)
        for task, request, result in zip(tasks, requests, results, strict=True):
            assert request.camera is not None
            view = PseudoView(result.image, result.confidence, request.camera, task.round, task.target)
            if self._keep_depth:
                view = replace(view, depth=result.depth, depth_confidence=result.depth_confidence)
            self.pool.put(view)
            self.progress.change += float((result.image - request.image).abs().mean())
        self.progress.seconds += time.perf_counter() - started
        self.progress.views += len(tasks)
        left = len(self.progress.queue) - len(tasks)
        CONSOLE.log(
            f"Round {self.progress.round}/{self.schedule.rounds}: {self.progress.views} fixed, {left} to go, "
            f"{self.progress.seconds / self.progress.views:.2f} s per view"
        )
        if writer.is_initialized():
            pair = torch.cat([requests[0].image, results[0].image, results[0].confidence.expand(-1, -1, 3)], dim=1)
            writer.put_image(name="Pseudo-views/before | after | confidence", image=pair, step=step)

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
        CONSOLE.log(f"Round {done.round}/{self.schedule.rounds} done in {done.seconds:.0f} s: pool of {len(self.pool)}")
