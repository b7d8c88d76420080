"""Schedule of the rounds of pseudo-views and of their weight, derived from the length of training."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from difix3d_ns.geometry.spacing import evenly_spaced

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

_QUEUE = 0.5
"""Of the steps between rounds: by then a round's queue is to be worked off, so that its views are trained on before
the next poses are rendered from the result."""

VIEWS_AT_ONCE = {"cpu": 1, "cuda": 4}
"""Views rendered and repaired together in one training step, at least. A CPU gains nothing from a batch, and one view
takes it a second; one picture does not fill a GPU, and four are still done before a viewer would seem to hang."""


@dataclass(frozen=True)
class RoundSchedule:
    """Rounds of a training; a pure function of the step, so a resumed run needs no state for it.

    Steps count from 0 as nerfstudio's do; rendering is meant *before* the training iteration of a step.
    """

    starts: tuple[int, ...]  # step at which each round's rendering may start, strictly increasing
    end_step: int  # nothing is rendered from here on
    views_per_step: int  # most views rendered and fixed per training step, so that the viewer stays alive
    full_weight: float
    ramp_steps: int
    fit_at: Callable[[int], bool] = field(compare=False)  # True if the splat is worth rendering at a step

    @property
    def rounds(self) -> int:
        """Return how many rounds are planned."""
        return len(self.starts)

    def may_render(self, step: int, late: bool = False) -> bool:
        """Return whether views are made at this step.

        Args:
            step: of training.
            late: also shortly before the end of training, for views requested in the viewer.
        """
        return (late or step < self.end_step) and self.fit_at(step)

    def round_at(self, step: int) -> int:
        """Return the round that is due at this step, from 1; 0 before the first."""
        return bisect_right(self.starts, step)

    def weight(self, step: int, first_view: int | None = None) -> float:
        """Return the weight of a made view's loss, relative to a photograph's: 0 until the first round, then a ramp.

        Args:
            step: of training.
            first_view: step at which the first view was made, if that was before the first round: on
                request.
        """
        begins = [start for start in (*self.starts[:1], first_view) if start is not None]
        if not begins or step < min(begins):
            return 0.0
        return self.full_weight * min(1.0, (step - min(begins) + 1) / self.ramp_steps)


def plan_rounds(
    last_step: int,
    rounds: int,
    fit_at: Callable[[int], bool],
    views_per_round: int = 16,
    weight: float = 1.0,
    first_step: int = 0,
    views_at_once: int = 1,
) -> RoundSchedule:
    """Spread rounds over the steps at which the splat may be rendered for fixing.

    Rounds lie evenly among the fit steps between 37.5 % and 75 % of training. Where training is too short for all
    rounds, fewer are planned.

    Args:
        last_step: the step at which training ends, also what a resumed run will have reached in the end.
        rounds: how many; 0 plans none.
        fit_at: returns whether the splat is worth rendering at a step.
        views_per_round: most that are made in one, those made again included.
        weight: of the loss on a made view, 1 for a photograph; the reason is with ``--pipeline.guidance.weight``.
        first_step: of this training; above 0 if it starts from a model trained without made views.
        views_at_once: least number of views made in a step, see ``VIEWS_AT_ONCE``.
    """
    length = max(0, last_step - first_step)
    end_step = first_step + int(_END * length)
    candidates = range(first_step + math.ceil(_FIRST * length), first_step + int(_LAST * length) + 1)
    fit = [step for step in candidates if step < end_step and fit_at(step)]
    starts = tuple(fit[place] for place in evenly_spaced(len(fit), rounds))
    views_per_step = views_at_once
    if starts:  # else views can still be requested
        ends = (*starts[1:], max(end_step, starts[-1] + 1))
        fit_steps = [
            sum(step < end_step and fit_at(step) for step in range(start, end))
            for start, end in zip(starts, ends, strict=True)
        ]
        # steps in which the shortest round's queue is to be worked off
        views_per_step = max(views_at_once, math.ceil(views_per_round / max(1, int(_QUEUE * min(fit_steps)))))
    return RoundSchedule(starts, end_step, views_per_step, weight, max(1, round(_RAMP * length)), fit_at)
