"""One training: its length, its folder, its device, and where its messages go."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import rich
from torch import Tensor


class Tracker:
    """Messages and curves of a training; this one prints messages and keeps no curves."""

    def log(self, message: str) -> None:
        """Print a line, which may have rich's markup."""
        rich.get_console().log(message)

    def image(self, name: str, picture: Tensor, step: int) -> None:
        """Keep a picture [H, W, 3] in [0, 1]."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Keep a point of a curve."""


@dataclass(frozen=True)
class Run:
    """The training that settings are fitted to and guidance is set up for."""

    steps: int  # of the training itself, without those of a checkpoint of another method it starts from
    device: str = "cpu"  # cpu or cuda
    first_step: int = 0  # above 0 if it starts from a checkpoint of another method
    own_steps: int | None = None  # of them splatfacto's own schedule spans the first; None: all
    images: int | None = None  # training photographs; None while they are not known
    folder: Path = Path()  # of this training's files
    resumed: bool = False
    tracker: Tracker = field(default_factory=Tracker)

    @property
    def last_step(self) -> int:
        """The step at which training ends."""
        return self.first_step + self.steps

    @property
    def schedule_steps(self) -> int:
        """Number of steps that splatfacto's own schedule spans."""
        return self.steps if self.own_steps is None else self.own_steps

    @property
    def on_cpu(self) -> bool:
        """True if it runs without CUDA."""
        return self.device == "cpu"


def at_most(steps: float, bound: int) -> int:
    """Bound a number of steps that shrinks with a short training: at least 1, at most ``bound``."""
    return max(1, min(round(steps), bound))
