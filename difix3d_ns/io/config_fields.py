"""Fields of configs: filling in those that are unset, and checking those that are given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from difix3d_ns.errors import UserError


def fill_unset(config: Any, **values: Any) -> None:
    """Set fields that are None; a value given by the user is never touched."""
    for name, value in values.items():
        if getattr(config, name) is None:
            setattr(config, name, value)


def check_at_least(config: Any, flag: str, bounds: Mapping[str, float]) -> None:
    """Raise a UserError that names the flag of a number below its bound, or not finite.

    Args:
        config: whose fields.
        flag: what its flags begin with, "--pipeline.guidance".
        bounds: smallest value by field ("count", "targets.count"); None passes.
    """
    for name, bound in bounds.items():
        number = attrgetter(name)(config)
        if number is not None and not bound <= number < math.inf:
            raise UserError(f"{flag}.{name.replace('_', '-')} {number}: at least {bound} is needed")


def check_share(config: Any, flag: str, name: str) -> None:
    """Raise a UserError that names the flag of a number outside [0, 1]; None passes."""
    number = getattr(config, name)
    if number is not None and not 0 <= number <= 1:
        raise UserError(f"{flag}.{name.replace('_', '-')} {number}: a number in [0, 1] is needed")
