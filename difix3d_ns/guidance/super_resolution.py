"""3DSR as a guidance: photographs upscaled by a diffusion model, whose estimates a splat makes agree, in rounds.

Chen et al., "Bridging Diffusion Models and 3D Representations: A 3D Consistent Super-Resolution Framework", ICCV 2025,
algorithm 1. A splat is trained on the photographs; then in each round every photograph is upscaled, the splat learns
from the results for a window of steps, and its render takes the place of the estimate that the next round begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.poses import path_order
from difix3d_ns.guidance.base import Guidance, GuidanceConfig, Losses, Outputs, Window
from difix3d_ns.guidance.enlargement_factor import PARTS, choose_factor
from difix3d_ns.guidance.photo_upscaling import PhotoUpscaling
from difix3d_ns.guidance.round_check import RoundCheck
from difix3d_ns.guidance.round_plan import RoundPlan
from difix3d_ns.guidance.scarce_memory import with_memory
from difix3d_ns.guidance.status import Status
from difix3d_ns.guidance.tracking import ViewTracker
from difix3d_ns.guidance.upscaled_photos import (
    ABOUT_UPSCALED,
    UPSCALED_FOLDER,
    EnlargedPhotos,
    record_upscaled,
    view_key,
)
from difix3d_ns.guidance.upscaling_cost import estimate_cost
from difix3d_ns.io.config_fields import check_at_least, fill_unset
from difix3d_ns.io.file_names import png_names
from difix3d_ns.io.images import Picture, write_picture
from difix3d_ns.io.run import Run
from difix3d_ns.priors.base import Upscaler, picture_round
from difix3d_ns.priors.upscaler_config import UpscalerConfig
from difix3d_ns.views.folders import POOL_FOLDER, RECORDS_FOLDER
from difix3d_ns.views.likeness import MIN_PSNR, checked_photographs, psnr_at
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.protocols import References, Renderer, Scene
from difix3d_ns.views.records import ViewRecord, ViewRecords
from difix3d_ns.views.view import TrainView

ROUNDS = 4
"""of the paper"""
STEPS_PER_ROUND = {"cpu": 500, "cuda": 5000}
"""with the paper's four rounds: 5,000 are the paper's"""
MIN_AGREEMENT = 0.65
"""of the photographs' details, from which the photographs alone teach more than what is made from noise"""
_NO_MEMORY = (
    "the device has no memory to upscale the photos: train with a smaller --pipeline.guidance.factor or "
    "--pipeline.guidance.long-side"
)


@dataclass
class ThreeDSRConfig(GuidanceConfig):
    """Settings of upscaled photographs: how large, by which upscaler, in how many rounds, and how they weigh."""

    _target: type = field(default_factory=lambda: ThreeDSRGuidance)
    kept: ClassVar[tuple[str, ...]] = (
        *("factor", "rounds", "steps_per_round", "photos_first", "low_stage", "steps_before"),
    )
    upscaler: UpscalerConfig = field(default_factory=UpscalerConfig)
    """what enlarges the photos"""
    factor: float | None = None  # type: ignore[assignment]
    """sides of upscaled photos over those of the photos, above 1 and up to 4 in steps of 0.25 (unset: the largest of
    4, 3, 2 and 1.5 that fits; see long-side)"""
    long_side: int | None = None
    """most pixels on the long side of an upscaled photo (unset: 1600 on a CPU; with CUDA by free memory)"""
    rounds: int | None = None
    """rounds at the large size; beyond the upscaler's own number its last results stay (unset: that number, 4 for
    diffusion)"""
    steps_per_round: int | None = None
    """training steps of a round (unset: 20000 with CUDA and 2000 on a CPU shared by all rounds; at most half of the
    training)"""
    photos_first: bool | None = None
    """spend the first half of the rounds on the photos alone; upscaling then begins from renders instead of noise
    (unset: if the photos agree on their details by 0.65 and more, as they do where poses and exposure are exact; never
    with feedback False, low-weight 0, or one round)"""
    low_stage: bool | None = None
    """train on the photos as they are before the rounds (unset: yes, except with start)"""
    steps_before: int | None = field(default=None, init=False, compare=False)
    """of this training before its first round, once that is planned: then more iterations prolong the last round; no
    flag"""
    start: Path | None = None
    """a splat to begin the rounds with: a .ply or .spz, a checkpoint, or the folder or config.yml of a training on
    these photos (unset: it is trained first)"""
    feedback: bool = True
    """go on from the splat's renders after each round; False goes on from the upscaler's own results: upscaling that is
    independent of the other photos"""
    low_weight: float = 10.0
    """loss weight of the difference between the reduced render and the photo: what is certain (1 in the paper)"""
    high_weight: float = 1.0
    """loss weight of the difference between the render and the upscaled photo"""

    def default_steps(self, usual: int, on_cpu: bool) -> int:
        high = ROUNDS * _usual(on_cpu) if self.steps_per_round is None else self.high_steps(0, on_cpu)
        return (usual if self._has_low_stage else 0) + high

    def own_steps(self, steps: int, on_cpu: bool) -> int:
        if not self._has_low_stage:
            return steps
        return max(1, steps - self.high_steps(steps, on_cpu) if self.steps_before is None else self.steps_before)

    def high_steps(self, steps: int, on_cpu: bool) -> int:
        """Return how many steps of a training are at the large size.

        Raises:
            UserError: the upscaler cannot be loaded.
        """
        if self.steps_per_round is None:
            return min(ROUNDS * _usual(on_cpu), steps // 2) if self._has_low_stage else steps
        return self.count_rounds(self.upscaler.load(torch.device("cpu" if on_cpu else "cuda"))) * self.steps_per_round

    def count_rounds(self, upscaler: Upscaler) -> int:
        """Return the number of rounds: of the flag, or as many as the upscaler has results."""
        return upscaler.rounds if self.rounds is None else self.rounds

    def begins_with_photos(self, upscaler: Upscaler) -> bool | None:
        """Return whether the first half of the rounds is of the photos alone; None if their agreement decides."""
        if self.photos_first is not None:
            return self.photos_first
        several = upscaler.rounds > 1 and self.count_rounds(upscaler) > 1
        return None if several and self.feedback and self.low_weight > 0 else False

    @property
    def starting_splat(self) -> Path | None:
        return self.start

    @property
    def _has_low_stage(self) -> bool:
        return self.start is None if self.low_stage is None else self.low_stage

    def fit(self, run: Run) -> None:
        fill_unset(self, low_stage=self.start is None)

    def check(self, flag: str) -> None:
        at_least_1 = ("rounds", "steps_per_round", "long_side")
        at_least_0 = ("low_weight", "high_weight")
        check_at_least(self, flag, dict.fromkeys(at_least_1, 1) | dict.fromkeys(at_least_0, 0))
        if self.factor is not None and not (1 < self.factor <= 4 and (self.factor * PARTS).is_integer()):
            raise UserError(f"{flag}.factor {self.factor}: above 1 and up to 4 in steps of 0.25 is needed")
        if not self.low_weight and not self.high_weight:
            raise UserError(f"{flag}.low-weight 0 and {flag}.high-weight 0 leave nothing to learn from: raise one")
        if self.photos_first and not self.low_weight:
            raise UserError(
                f"{flag}.photos-first True learns from the photos alone, which {flag}.low-weight 0 leaves out: drop "
                "one of them"
            )


def _usual(on_cpu: bool) -> int:
    return STEPS_PER_ROUND["cpu" if on_cpu else "cuda"]


class ThreeDSRGuidance(Guidance):
    """Upscaler of all photographs at the beginning of each round; steps then learn from the results alone."""

    config: ThreeDSRConfig

    # ------------------------------------------------------------------ when

    def windows(self, run: Run) -> Sequence[Window]:
        return self._planned(run).windows()

    def _planned(self, run: Run) -> RoundPlan:
        config, upscaler = self.config, self._upscaler(run)
        rounds = config.count_rounds(upscaler)
        if rounds < 2 and config.photos_first:
            raise UserError(
                "--pipeline.guidance.photos-first True is for the first half of the rounds, and there is only one: add "
                "--pipeline.guidance.rounds 2, or leave it out"
            )
        window = config.steps_per_round
        if window is None:
            window = config.high_steps(run.steps, run.on_cpu) // rounds
        first = run.last_step - rounds * window if config.low_stage else run.first_step
        if config.steps_before is not None:
            first = run.first_step + config.steps_before
        if window < 1 or first < run.first_step + bool(config.low_stage):
            raise UserError(
                f"--max-num-iterations {run.steps} has no room for {rounds} rounds of {max(1, window)} steps"
                + (" after training on the photos" if config.low_stage else "")
                + ": raise it, or lower --pipeline.guidance.rounds or --pipeline.guidance.steps-per-round"
            )
        return RoundPlan(first, window, rounds, run.last_step)

    def _upscaler(self, run: Run) -> Upscaler:
        return self.config.upscaler.load(torch.device(run.device))

    # ------------------------------------------------------------------ before training

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        from difix3d_ns.splats.losses.reduced import ReducedLoss  # not for every ns-command

        self._scene, self._renderer, self._run = scene, renderer, run
        self.plan, self.upscaler = self._planned(run), self._upscaler(run)
        self._shortened = self.config.steps_per_round is None
        fill_unset(
            self.config,
            rounds=self.plan.rounds,
            steps_per_round=self.plan.window,
            steps_before=self.plan.first - run.first_step,
        )
        self._reduced_loss = ReducedLoss()
        self.config.factor = self._chosen_factor()
        self.photos = EnlargedPhotos(scene, self.config.factor)
        self._names = scene.names()
        self._files = png_names(self._names)
        order = path_order([scene.unoptimized_camera(index) for index in range(len(scene))])
        self.round = -1
        self._unseen: list[int] = []  # of this pass through the photographs
        self.agreement: list[float] = []  # of each round
        self._wrote = True
        self.pool = Pool(None, run.folder / POOL_FOLDER, device=renderer.device)
        seed = torch.initial_seed() % 2**31
        self._upscaling = PhotoUpscaling(self.upscaler, self.photos, renderer, self.pool, order, seed)
        self._check = RoundCheck(self.photos, renderer, order)
        self.photos_first = self.config.begins_with_photos(self.upscaler)
        self._tracking = ViewTracker(
            run.tracker, ViewRecords(run.folder / RECORDS_FOLDER, ABOUT_UPSCALED), ABOUT_UPSCALED.short, "upscaled"
        )
        if not run.resumed:
            self._check_start()
            self._announce()

    def _chosen_factor(self) -> float:
        cameras = [self._scene.unoptimized_camera(index) for index in range(len(self._scene))]
        longest = max(cameras, key=lambda camera: max(camera.width, camera.height))
        sides = sorted((longest.width, longest.height))
        given, device = self.config.factor, self._renderer.device
        return choose_factor(sides[1], self.config.long_side, device, given, sides[1] / sides[0])

    def _check_start(self) -> None:
        """Refuse a splat that does not show the photographs."""
        if (start := self.config.start) is None:
            return
        for index in checked_photographs(len(self._scene)):
            psnr = psnr_at(self._scene, self._renderer, index)
            self._run.tracker.log(f"{start} shows {self._names[index]} with a PSNR of {psnr:.1f} dB.")
            if psnr < MIN_PSNR:
                raise UserError(
                    f"--pipeline.guidance.start {start} does not show {self._names[index]} ({psnr:.1f} dB): it is of "
                    "another scene, or in other coordinates than this training's; leave it out to train one"
                )

    def _announce(self) -> None:
        plan, count, results = self.plan, len(self._scene), self._results
        cost = estimate_cost(self.photos, count, self.upscaler, results, plan.last - plan.first, self._run.device)
        largest = max(range(count), key=lambda index: max(self.photos.size(index)))
        low, high = self.photos.size(largest), self.photos.high_size(largest)
        sizes = "" if len({self.photos.size(index) for index in range(count)}) == 1 else "at most "
        self._run.tracker.log(
            f"{count} photos of {sizes}{low[1]} x {low[0]} px are upscaled by {float(self.photos.factor):g} to "
            f"{high[1]} x {high[0]} (--pipeline.guidance.factor, --pipeline.guidance.long-side), from step "
            f"{plan.first} on in {plan.rounds} round{'s' * (plan.rounds > 1)} of {plan.window} steps: "
            f"{cost.describe()} for it."
        )
        usual, steps = ROUNDS * _usual(self._run.on_cpu), plan.rounds * plan.window
        if self._shortened and steps + plan.rounds <= usual:  # of division, a step may be left in each
            self._run.tracker.log(
                f"[yellow]Only {steps} steps are at the large size, usually {usual}: --max-num-iterations leaves no "
                "room for more (--pipeline.guidance.steps-per-round)."
            )
        if self.photos_first is not None and results < plan.rounds - self._photo_rounds:
            self._run.tracker.log(
                f"The upscaler {self.config.upscaler.name} makes {results} result{'s' * (results > 1)} of a photo: the "
                f"last {plan.rounds - self._photo_rounds - results} rounds learn from the same."
            )

    @property
    def _photo_rounds(self) -> int:
        """Return how many of the first rounds are of the photographs alone."""
        return self.plan.rounds // 2 if self.photos_first else 0

    @property
    def _first_level(self) -> int:
        """Return which of its rounds, from 0, the upscaler begins with."""
        return picture_round(self.upscaler.rounds) if self.photos_first else 0

    @property
    def _results(self) -> int:
        """Return how often each photograph is upscaled."""
        return min(self.plan.rounds - self._photo_rounds, self.upscaler.rounds - self._first_level)

    @property
    def _result(self) -> int:
        """Return which of its results, from 0, the upscaler has made or makes of the photographs; negative before."""
        return min(self.round - self._photo_rounds, self._results - 1)

    # ------------------------------------------------------------------ upscaling

    def before_step(self, step: int) -> bool:
        """Do one piece of a round: a step of the upscaler, or a render of the splat and what follows from it."""
        if not self._busy and self.round < self.plan.round_at(step):
            self._begin()
        if self._upscaling.left:
            with_memory(partial(self._upscale, step), self.pool, _NO_MEMORY)
        elif self._check.running:
            with_memory(partial(self._check_on, step), self.pool, _NO_MEMORY)
        return self._busy or self.round < self.plan.round_at(step)

    @property
    def _busy(self) -> bool:
        return self._upscaling.left > 0 or self._check.running

    def _begin(self) -> None:
        if self.photos_first is None:
            self._begin_check()
            return
        self.round += 1
        if self._photo_rounds <= self.round < self._photo_rounds + self._results:
            self._upscaling.begin()
            self._tracking.begin(f"{self._label()}: upscaling {len(self._scene)} photos")

    def _decide(self, agreement: float | None) -> None:
        """Choose what the first half of the rounds learns from."""
        self.photos_first = agreement is not None and agreement >= MIN_AGREEMENT
        found = "cannot be compared" if agreement is None else f"agree on their details by {agreement:.2f}"
        begun = "upscaling begins from noise"
        if self.photos_first:
            begun = f"the first {self._photo_rounds} of {self.plan.rounds} rounds learn from them alone"
        self._run.tracker.log(f"The photos {found}: {begun} (--pipeline.guidance.photos-first).")

    def _upscale(self, step: int) -> None:
        """Do a piece of upscaling, and keep what is finished with it."""
        from_renders = self.upscaler.rounds > 1 and (self._result > 0 or bool(self.photos_first))
        last = self._result + 1 == self._results
        made = self._upscaling.piece(self._result, last, from_renders, self.config.feedback)
        if made is None:
            return
        for index, picture, render in zip(made.indices, made.pictures, made.renders, strict=True):
            view = self.photos.view(index, picture)
            self.pool.put(view)
            self._write(index, picture, view.alpha)
            self._tracking.made(self._record(index, step, made.seconds, picture, render))
        self._upscaling.finish()
        self._tracking.progress(self._label(), self._upscaling.left)
        if not self._upscaling.left:
            self._begin_check()

    def _begin_check(self) -> None:
        """Begin to measure how far the upscaled photographs agree; before a decision, how far the photographs do."""
        if self.photos_first is None:
            self._check.begin(self.photos.enlarged)
            return
        self._check.begin(
            lambda index: self.pool.get(view_key(index)).image, lambda index: view_key(index) in self.pool
        )

    def _write(self, index: int, picture: Tensor, alpha: Tensor | None) -> None:
        """Write an upscaled photograph for people; nothing depends on it."""
        quick = {"compress_level": 1}  # a third of the time, for a sixth more bytes
        whole = Picture(picture.cpu(), None if alpha is None else alpha.cpu(), keep=quick)
        try:
            write_picture(self._run.folder / UPSCALED_FOLDER / self._files[index], whole)
        except OSError as error:
            if self._wrote:
                self._run.tracker.log(f"[yellow]Upscaled photos cannot be written ({error}); training goes on.")
            self._wrote = False

    def _record(self, index: int, step: int, seconds: float, picture: Tensor, render: Tensor | None) -> ViewRecord:
        known = (index, self._names[index], self._group(), self.round + 1, step, seconds)
        return record_upscaled(*known, self.photos.enlarged(index), picture, render)

    def _check_on(self, step: int) -> None:
        """Do a piece of a check."""
        self._check.piece()
        if self._check.running:
            return
        found = self._check.agreement
        if self.photos_first is None:
            self._decide(found)
            return
        if found is not None:
            self.agreement.append(found)
            self._run.tracker.scalar(f"{ABOUT_UPSCALED.short}/agreement", found, step)
            self._run.tracker.log(f"{self._label()}: agreement of photos {found:.3f}")
        self._tracking.end(self._label(), step, len(self._scene))

    def _label(self) -> str:
        return f"Round {self.round + 1}/{self.plan.rounds}"

    def _level(self) -> str:
        return "" if self._result < 0 else self.upscaler.level(self._first_level + self._result)

    def _group(self) -> str:
        level = self._level()
        return f"Round {self.round + 1}" + (f", level {level}" if level else "")

    # ------------------------------------------------------------------ learning

    def next_view(self, step: int, generator: torch.Generator) -> TrainView | None:
        if step < self.plan.first:
            return None
        if not self._unseen:
            self._unseen = list(range(len(self._scene)))
        index = self._unseen.pop(int(torch.randint(len(self._unseen), (), generator=generator)))
        if self._result < 0:
            view = replace(self.photos.view(index, self.photos.enlarged(index)), weight=0.0)
        else:
            key = view_key(index)
            drawn = self.pool.drawn(key) if key in self.pool else None
            if drawn is None:
                return None
            view = replace(drawn, weight=self.config.high_weight)
        return replace(view, extra=self.photos.low_maps(index))

    def losses(self, outputs: Outputs, view: TrainView, base: Losses) -> Losses:
        losses = super().losses(outputs, view, base)
        if "low" in view.extra and self.config.low_weight:
            losses["low_loss"] = self._low_loss(outputs, view) * self.config.low_weight
        return losses

    def _low_loss(self, outputs: Outputs, view: TrainView) -> Tensor:
        """Compute the difference between the reduced render and the photograph."""
        # resampling takes four times as long on pixels that lie together
        picture, low = (maps.permute(2, 0, 1)[None].contiguous() for maps in (outputs["rgb"], view.extra["low"]))
        if (alpha := view.extra.get("alpha")) is not None:  # before the background of this step
            change = outputs["background"] - self._scene.background.to(low)
            low = low + (1 - alpha.permute(2, 0, 1)[None]) * change[:, None, None]
        used = view.extra.get("used")
        return self._reduced_loss(picture, low, None if used is None else used.permute(2, 0, 1)[None])

    # ------------------------------------------------------------------ state

    def state_dict(self, step: int) -> dict[str, Any]:
        upscaling = self._upscaling.state_dict()  # of which a part is in the pool
        return {
            "upscaler": self.config.upscaler.name,
            "factor": float(self.photos.factor),
            "round": self.round,
            **upscaling,
            "checking": self._check.running,
            "photos first": self.photos_first,
            "agreement": list(self.agreement),
            "unseen": list(self._unseen),
            "pool": self.pool.state(checkpoint=step),
        }

    def load_state_dict(self, state: dict[str, Any], folder: Path, step: int) -> None:
        if state["round"] >= 0:
            self.config.upscaler.check_resumed(state["upscaler"])
        own = float(self.photos.factor)
        if (factor := state.get("factor", own)) != own and state["round"] >= 0:
            raise UserError(
                f"this training was begun with the factor {factor:g}: give --pipeline.guidance.factor {factor:g}, or "
                "leave it out"
            )
        self.pool.restore(folder / POOL_FOLDER, state["pool"])
        self.round, self._unseen = state["round"], list(state["unseen"])
        self._take_over(state)
        self.agreement = list(state["agreement"])
        self._upscaling.load_state_dict(state)
        if state["checking"]:
            self._begin_check()
        between = self._busy  # then what was made before this step is in the pool
        self._tracking.recall(folder / RECORDS_FOLDER, step + between)

    def _take_over(self, state: dict[str, Any]) -> None:
        """Go on with what was decided about the first half of the rounds."""
        if "photos first" not in state:
            raise UserError(
                "this training was begun by an earlier version, whose rounds were others: begin again, without "
                "--load-dir or --load-checkpoint"
            )
        decided, given = state["photos first"], self.config.photos_first
        if decided is None:
            return  # not yet
        if given is not None and given != decided and state["round"] >= 0:
            raise UserError(
                f"this training was begun with --pipeline.guidance.photos-first {decided}: give that, or leave it out"
            )
        self.photos_first = decided if state["round"] >= 0 or given is None else given

    def keep(self, steps: Sequence[int]) -> None:
        self.pool.prune(steps)

    # ------------------------------------------------------------------ what people see

    def status(self, step: int) -> Status:
        plan, rounds = self.plan, self.plan.rounds
        lines = [f"Photos x {float(self.photos.factor):g}"]
        if self.round >= 0:
            level = "photos alone" if self._result < 0 else f"level {self._level()}" if self._level() else ""
            lines.append(f"Round **{self.round + 1} of {rounds}**" + (f", {level}" if level else ""))
        if self._upscaling.left:
            lines.append(f"{self._upscaling.left} photos to upscale")
        elif self.round + 1 < rounds:
            lines.append(f"Next round at step {plan.start(self.round + 1)}, now {step}")
        if self.agreement:
            lines.append("Agreement of upscaled photos: " + ", ".join(f"{value:.2f}" for value in self.agreement))
        return Status(
            title=ABOUT_UPSCALED.short,
            lines=lines,
            views=[self._tracking.shown(entry, self.pool) for entry in self.pool.entries()],
            records=list(self._tracking.latest),
            plural="upscaled photos",
        )
