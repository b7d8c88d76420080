"""Trainings of earlier versions, whose config.yml names classes that are not there any more."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from difix3d_ns.errors import UserError

_GONE = re.compile(r"No module named 'difix3d_ns[.']|cannot find '[\w.]+' in the module 'difix3d_ns[.']")
"""what yaml says of a class whose module, or which itself, cannot be imported"""


def refuse_earlier(error: BaseException, path: Path | None = None) -> None:
    """Raise a UserError if reading a config.yml failed for what this package had once and has no more.

    Args:
        error: of the reading; any other one is let pass.
        path: of the config.yml, if it is known.
    """
    if isinstance(error, yaml.YAMLError) and _GONE.search(str(error)):
        raise earlier_version(path) from error


def earlier_version(path: Path | None = None) -> UserError:
    """Return the error for a config.yml of an earlier version."""
    return UserError(
        f"{path or 'this config.yml'} was written by an earlier version of difix3d_ns, whose trainings this one cannot "
        "open: train again"
    )
