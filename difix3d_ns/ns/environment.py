"""Environment variables that change how a finished training is shown, without training again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import cast

from difix3d_ns.enhance.enhancer_config import EnhanceMode, EnhancerConfig
from difix3d_ns.errors import UserError

VARIABLES = ("DIFIX3D_ENHANCE", "DIFIX3D_WEIGHTS", "DIFIX3D_STRENGTH")


@dataclass(frozen=True)
class Overrides:
    """Settings requested by the environment; None leaves the trained config as it is."""

    enhance: EnhanceMode | None = None
    weights: str | None = None
    strength: float | None = None

    @classmethod
    def from_environment(cls) -> Overrides:
        """Read the variables; an empty one counts as unset.

        Raises:
            UserError: a value is unusable; the message names the variable.
        """
        enhance, weights, strength = (os.environ.get(name) or None for name in VARIABLES)
        if enhance not in (None, "off", "key", "rgb"):
            raise UserError(f"DIFIX3D_ENHANCE={enhance}: use off, key or rgb")
        try:
            number = None if strength is None else float(strength)
        except ValueError:
            number = float("nan")
        if number is not None and not 0 <= number <= 1:
            raise UserError(f"DIFIX3D_STRENGTH={strength}: use a number from 0 (the render) to 1 (the fixer's picture)")
        return cls(cast("EnhanceMode | None", enhance), weights, number)

    def apply_to(self, enhancer: EnhancerConfig) -> None:
        """Replace the requested settings."""
        enhancer.mode = self.enhance or enhancer.mode
        enhancer.weights = self.weights or enhancer.weights
        enhancer.strength = enhancer.strength if self.strength is None else self.strength


def ignored_in_training() -> list[str]:
    """Return the names of the variables that are set although a training follows its flags alone."""
    return [name for name in VARIABLES if os.environ.get(name)]
