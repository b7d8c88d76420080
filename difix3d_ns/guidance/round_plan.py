"""Plan of a training in rounds: at which steps they begin, and where densification may go on."""

from __future__ import annotations

from dataclasses import dataclass

from difix3d_ns.guidance.base import Window


@dataclass(frozen=True)
class RoundPlan:
    """Steps at which rounds begin."""

    first: int  # step of the first round
    window: int  # steps of each
    rounds: int
    last: int  # step at which training ends

    def start(self, round: int) -> int:
        """Step at which a round begins, from 0."""
        return self.first + round * self.window

    def round_at(self, step: int) -> int:
        """Round that is due at a step; -1 before the first."""
        return min(self.rounds, max(0, step - self.first + self.window) // self.window) - 1

    def windows(self) -> list[Window]:
        """Windows of densification: in each a tenth of it to a half, as in the official training."""
        starts = [self.start(round) for round in range(self.rounds)]
        ends = [*starts[1:], self.last]
        return [
            Window(a, a + max(1, (b - a) // 10), a + max(2, (b - a) // 2), restart_rate=True, reset=False)
            for a, b in zip(starts, ends, strict=True)
        ]
