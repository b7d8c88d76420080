"""Steps at which a splat in training is fit to render, and the pause of densification after a reset."""

from __future__ import annotations

from dataclasses import dataclass

_MIN_RECOVERY = 100
"""steps: Adam at splatfacto's 0.05 lifts an opacity from its reset value to 0.9 in some 75 at best"""


@dataclass(frozen=True)
class Fitness:
    """Steps at which a render shows what the splat has learnt; a pure function of the step, so it needs no state.

    Steps count from 0 as nerfstudio's do; rendering is meant before the training iteration of a step.
    """

    fit_from: int  # first densification and full training resolution
    reset_every: int = 0  # opacity resets at its multiples; 0 = never
    refine_stop: int = 0  # no reset from here on
    resets: tuple[tuple[int, int], ...] | None = None  # (first step, end) of stretches with resets; None: one, from 0
    recovery: int | None = None
    """steps of training after a reset until renders are sound again; None: a sixth of ``reset_every`` (500 of
    splatfacto's 3000), at least 100, and at most half of it"""

    def __post_init__(self) -> None:
        if self.recovery is None:
            recovery = min(max(_MIN_RECOVERY, self.reset_every // 6), self.reset_every // 2)
            object.__setattr__(self, "recovery", recovery)

    def at(self, step: int) -> bool:
        """Return whether the splat is densified once, at full resolution, and recovered from the last reset."""
        if step < self.fit_from:
            return False
        if self.reset_every <= 0:
            return True
        stretches = ((0, self.refine_stop),) if self.resets is None else self.resets
        multiples = ((start, min(step, end - 1) // self.reset_every * self.reset_every) for start, end in stretches)
        latest = max((reset for start, reset in multiples if reset >= start), default=None)
        # The reset comes after its step's iteration: one more step makes the recovery complete.
        assert self.recovery is not None
        return latest is None or step - latest > self.recovery


def pause_after_reset(rotation: int, refine_every: int, reset_every: int) -> int:
    """Steps for which gsplat's densification waits after an opacity reset.

    splatfacto waits until every photograph was seen once before Gaussians are judged; with made views among the steps
    that takes longer. At most half of the interval, or many views would end densification altogether.

    Args:
        rotation: number of views among which steps are drawn.
        refine_every: steps between densifications.
        reset_every: steps between resets; 0 without.
    """
    pause = rotation + refine_every
    return min(pause, reset_every // 2) if reset_every > 0 else pause
