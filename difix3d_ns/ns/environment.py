"""Environment variables that change how a finished training is shown, without training again."""

from __future__ import annotations

import os
from typing import cast, get_args

from difix3d_ns.enhance.enhancer_config import EnhanceMode, EnhancerConfig
from difix3d_ns.errors import UserError

VARIABLES = ("DIFIX3D_ENHANCE", "DIFIX3D_WEIGHTS", "DIFIX3D_STRENGTH")


def apply_environment(enhancer: EnhancerConfig) -> None:
    """Change an enhancer's settings as the environment says; an empty variable counts as unset.

    Raises:
        UserError: a value is unusable; the message names the variable.
    """
    mode, weights, strength = (os.environ.get(name) for name in VARIABLES)
    if mode:
        if mode not in get_args(EnhanceMode):
            raise UserError(f"DIFIX3D_ENHANCE={mode}: use off, key or rgb")
        enhancer.mode = cast("EnhanceMode", mode)
    if weights:
        enhancer.weights = weights
    if strength:
        try:
            enhancer.strength = float(strength)
        except ValueError:
            enhancer.strength = float("nan")
        if not 0 <= enhancer.strength <= 1:
            raise UserError(f"DIFIX3D_STRENGTH={strength}: use a number from 0 (the render) to 1 (the fixer's picture)")


def ignored_in_training() -> list[str]:
    """Return the names of the variables that are set although a training follows its flags alone."""
    return [name for name in VARIABLES if os.environ.get(name)]
