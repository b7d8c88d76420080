"""When rounds of pseudo-views are rendered and how strongly they are taught, derived from the length of training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

_FIRST = 0.375
"""First round, as a share of training: before, the splat is too coarse for its depth to align photographs, and what a
fixer would hide is mere under-training; later, too little training is left to use several rounds."""

_LAST = 0.75
"""Last round: a quarter of training remains to learn from it; in the published schedule the last fix is never used."""

_END = 0.85
"""No view is rendered, not even refreshed, after this: it would be drawn only a few times."""

_RAMP = 0.05
"""Of training, in which the weight grows to its full value: the first fixed views disagree most with the splat, and a
sudden second loss upsets Adam's moments."""

_LEAST_RECOVERY = 100
"""Steps; see ``plan_rounds``."""

_QUEUE = 0.5
"""Of the steps between rounds: by then a round's queue is to be worked off, so that its views are trained on before
the next poses are rendered from the result."""

VIEWS_AT_ONCE = {"cpu": 1, "cuda": 4}
"""Views rendered and repaired together in one training step, at least. A CPU gains nothing from a batch, and one view
takes it a second; one picture does not fill a GPU, and four are still done before a viewer would seem to hang."""


@dataclass(frozen=True)
class RoundSchedule:
    """Pure function of the training step, so a resumed run needs no state for it.

    Steps count from 0 as nerfstudio's do; rendering is meant *before* the training iteration of a step.
    """

    total_steps: int
    starts: tuple[int, ...]  # step at which each round's rendering may start, strictly increasing
    asked: int  # rounds asked for; fewer starts mean that training is too short for them
    fit_from: int  # nothing is rendered before: first densification and full resolution
    end_step: int  # nor from here on
    reset_every: int  # opacity resets at its multiples; 0 = never
    refine_stop: int  # no reset from here on
    recovery: int
    views_per_step: int  # most views rendered and fixed per training step, so that the viewer stays alive
    probability: float  # that a training step draws a pseudo-view instead of a photograph, if the pool has any
    full_weight: float
    ramp_steps: int

    @property
    def rounds(self) -> int:
        """How many are planned; ``asked`` or fewer."""
        return len(self.starts)

    def may_render(self, step: int, late: bool = False) -> bool:
        """Whether the splat is fit to be rendered for fixing: densified once, at full resolution, recovered.

        Args:
            step: of training.
            late: also shortly before the end of training, for views somebody asked for.
        """
        if step < self.fit_from or (step >= self.end_step and not late):
            return False
        if self.reset_every <= 0 or self.refine_stop <= 0:
            return True
        latest = min(step, self.refine_stop - 1) // self.reset_every * self.reset_every
        # The reset comes after its step's iteration: one more step makes the recovery complete.
        return step - latest > self.recovery

    def round_at(self, step: int) -> int:
        """The round that is due at this step, from 1; 0 before the first."""
        return int(np.searchsorted(self.starts, step, side="right"))

    def weight(self, step: int, first_view: int | None = None) -> float:
        """Of the loss on a pseudo-view relative to a photograph's: 0 until the first round, then a linear ramp.

        Args:
            step: of training.
            first_view: step at which the first view was made, if that was before the first round: somebody asked for
                it.
        """
        begins = [start for start in (*self.starts[:1], first_view) if start is not None]
        if not begins or step < min(begins):
            return 0.0
        return self.full_weight * min(1.0, (step - min(begins) + 1) / self.ramp_steps)


def plan_rounds(
    total_steps: int,
    rounds: int,
    first_densification: int,
    reset_every: int,
    refine_stop: int,
    recovery: int | None = None,
    resolution_full_step: int = 0,
    views_per_round: int = 16,
    weight: float = 1.0,
    probability: float = 0.5,
    first_step: int = 0,
    views_at_once: int = 1,
) -> RoundSchedule:
    """Spread rounds over the steps at which the splat may be rendered for fixing.

    Rounds lie evenly among the allowed steps between 37.5 % and 75 % of training. A step is allowed from the first
    densification and full training resolution on, and later than ``recovery`` steps after an opacity reset, when the
    splat is a fog. Where training is too short for all rounds, fewer are planned (``starts`` against ``asked``).

    Args:
        total_steps: of training, also what a resumed run will have reached in the end.
        rounds: how many; 0 trains plainly.
        first_densification: step of it.
        reset_every: steps between opacity resets (gsplat's DefaultStrategy resets at the multiples below
            ``refine_stop``); 0 without resets, as with MCMC.
        refine_stop: step at which densification and resets end.
        recovery: steps of training after a reset until renders are sound again. None: a sixth of ``reset_every`` (500
            of splatfacto's 3000), at least 100, since Adam at splatfacto's 0.05 lifts an opacity from its reset value
            to 0.9 in some 75 steps at best, and at most half of ``reset_every``.
        resolution_full_step: first step at full training resolution; 0 if it is never reduced.
        views_per_round: most that are made in one, those made again included.
        weight: of the loss on a pseudo-view, 1 for a photograph; the reason is with ``--pipeline.pseudo-weight``.
        probability: that a step draws a pseudo-view; the reason is with ``--pipeline.pseudo-probability``.
        first_step: of this training; above 0 if it starts from a model trained without pseudo-views.
        views_at_once: least number of views made in a step, see ``VIEWS_AT_ONCE``.

    Raises:
        ValueError: no steps, or a negative number of rounds; the message names the flag.
    """
    if total_steps < 1:
        raise ValueError(f"training needs at least one step, got {total_steps}: set --max-num-iterations")
    if rounds < 0:
        raise ValueError(f"the number of rounds cannot be negative, got {rounds}: set --pipeline.rounds")
    if recovery is None:
        recovery = min(max(_LEAST_RECOVERY, reset_every // 6), reset_every // 2)
    length = max(0, total_steps - first_step)
    schedule = RoundSchedule(
        total_steps=total_steps,
        starts=(),
        asked=rounds,
        fit_from=max(0, first_densification, resolution_full_step),
        end_step=first_step + int(_END * length),
        reset_every=max(0, reset_every),
        refine_stop=max(0, refine_stop),
        recovery=max(0, recovery),
        views_per_step=1,
        probability=probability,
        full_weight=weight,
        ramp_steps=max(1, round(_RAMP * length)),
    )
    window = range(first_step + math.ceil(_FIRST * length), first_step + int(_LAST * length) + 1)
    allowed = [step for step in window if schedule.may_render(step)]
    count = min(rounds, len(allowed))
    starts = tuple(allowed[i] for i in np.linspace(0, len(allowed) - 1, count).round().astype(int)) if count else ()
    least = max(1, views_at_once)
    if not starts:  # views can still be asked for
        return replace(schedule, views_per_step=least)
    steps = _shortest_round(schedule, starts)
    return replace(schedule, starts=starts, views_per_step=max(least, -(-views_per_round // steps)))


def pause_refine_after_reset(photographs: int, pool: int, refine_every: int, reset_every: int) -> int:
    """gsplat's pause of densification after an opacity reset, with the pool counted in.

    splatfacto pauses for ``photographs + refine_every`` steps, so that every photograph is seen once before Gaussians
    are judged; with pseudo-views among the steps that takes longer. At most half of the interval, or a large pool
    would end densification altogether.

    Args:
        photographs: number of training images.
        pool: capacity of the pool, 0 without rounds.
        refine_every: steps between densifications.
        reset_every: steps between resets; 0 without.
    """
    pause = photographs + pool + refine_every
    return min(pause, reset_every // 2) if reset_every > 0 else pause


def _shortest_round(schedule: RoundSchedule, starts: tuple[int, ...]) -> int:
    """Allowed steps in which a round's queue is to be worked off."""
    ends = (*starts[1:], max(schedule.end_step, starts[-1] + 1))
    lengths = [sum(map(schedule.may_render, range(a, b))) for a, b in zip(starts, ends, strict=True)]
    return max(1, int(_QUEUE * min(lengths)))
