"""The settings of a training, told apart: given, fitted, left as they are."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError
from difix3d_ns.ns.presets import settle
from difix3d_ns.ns.trainer import GuidedTrainerConfig

_BOOKKEEPING = ("--timestamp", "--pipeline.datamanager.data", "--pipeline.datamanager.dataparser.data")
"""and copies of --data"""


@dataclass(frozen=True)
class Setting:
    """One flag of a training."""

    flag: str
    value: str
    default: str | None  # what it would be by default; None if it is that


def settings(config: GuidedTrainerConfig) -> list[Setting]:
    """All settings, those that differ from the method's defaults first.

    Defaults that are fitted to the device and to the length of the training are taken as fitted to this one.
    """
    wanted, ours = _defaults(config), dict(_flat(config))
    rows = [
        Setting(flag, said(value), None if value == wanted.get(flag, value) else said(wanted[flag]))
        for flag, value in ours.items()
        if flag not in _BOOKKEEPING
    ]
    return sorted(rows, key=lambda row: row.default is None)


def said(value: Any) -> str:
    """A value for people; of a path its end."""
    if value is None:
        return "unset"
    if isinstance(value, Path):
        return str(Path(*value.parts[-2:])) if len(value.parts) > 2 else str(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, (list, tuple)):
        return ", ".join(map(said, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _defaults(config: GuidedTrainerConfig) -> dict[str, Any]:
    from difix3d_ns.methods.difix3d import difix3d_splatfacto

    plain = copy.deepcopy(difix3d_splatfacto.config)
    assert isinstance(plain, GuidedTrainerConfig)
    plain.machine.device_type = config.machine.device_type
    unset, fitted = dict(_flat(plain)), copy.deepcopy(plain)
    longer = copy.deepcopy(plain)
    longer.max_num_iterations, longer.pipeline.rounds = config.max_num_iterations, config.pipeline.rounds
    if not (_settled(fitted) and _settled(longer)):  # trained on a device that is not here
        return unset
    own = dict(_flat(fitted))
    return dict(_flat(longer)) | {flag: own[flag] for flag in ("--max-num-iterations", "--pipeline.rounds")}


def _settled(config: GuidedTrainerConfig) -> bool:
    try:
        with CONSOLE.capture():
            settle(config)
    except UserError:
        return False
    return True


def _flat(value: Any, prefix: str = "-") -> Iterator[tuple[str, Any]]:
    """(flag, value) of everything below."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    elif isinstance(value, dict) and value:
        entries = value
    else:
        yield prefix, value
        return
    for name, entry in entries.items():
        if name != "_target":
            word = str(name) if isinstance(value, dict) else str(name).replace("_", "-")
            yield from _flat(entry, f"{prefix}.{word}" if prefix != "-" else f"--{word}")
