"""Settings of a training, those that differ from its method's defaults first."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from nerfstudio.plugins.registry import discover_methods

from difix3d_ns.ns import presets
from difix3d_ns.ns.trainer import GuidedTrainerConfig

_BOOKKEEPING = (
    "--timestamp",
    "--output-dir",  # above the training's folder
    "--pipeline.datamanager.data",  # copies of --data
    "--pipeline.datamanager.dataparser.data",
    "--pipeline.enhancer.from-environment",  # no flag
)


@dataclass(frozen=True)
class Setting:
    """A flag of a training."""

    flag: str
    value: str
    default: str | None  # what it would be by default; None if it is that


def settings(config: GuidedTrainerConfig, images: int | None = None) -> list[Setting]:
    """All settings, those that differ from the method's defaults first.

    Defaults that are fitted to the device and to the length of the training are taken as fitted to this one.

    Args:
        config: of a training.
        images: photos it was trained on; None: not known.
    """
    wanted, ours = _defaults(config, images), dict(_flat(config))
    rows = [
        Setting(flag, format_value(value), None if value == wanted.get(flag, value) else format_value(wanted[flag]))
        for flag, value in ours.items()
        if flag not in _BOOKKEEPING
    ]
    return sorted(rows, key=lambda row: row.default is None)


def format_value(value: Any) -> str:
    """Format a value for people; of a path its last two parts."""
    if value is None:
        return "unset"
    if isinstance(value, Path):
        return str(Path(*value.parts[-2:])) if len(value.parts) > 2 else str(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, (list, tuple)):
        return ", ".join(map(format_value, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _defaults(config: GuidedTrainerConfig, images: int | None) -> dict[str, Any]:
    """Flag -> value if nothing but the length of the training, and what else a resumed one keeps, were given."""
    alone, alike = _default_config(config), _default_config(config)
    presets.adopt(alike, presets.kept(config))  # other settings follow from these
    for plain in (alone, alike):
        plain.machine.device_type = config.machine.device_type
        presets.fit(plain, replace(plain.run(), images=images))
    fitted = {flag for flag, part in presets.walk(alone) if hasattr(part, "fit")}
    own = {
        flag: value
        for flag, value in presets.kept(alone).items()
        # where a config fits fields, None is: nobody can tell; priors, and weights of any, are as they were given
        if value is not None or flag.endswith(".weights") or flag.rpartition(".")[0] not in fitted
    }
    return dict(_flat(alike)) | own


def _default_config(config: GuidedTrainerConfig) -> GuidedTrainerConfig:
    """Return the unchanged config of the method, or of its classes if the method is not registered here."""
    registered = discover_methods()[0].get(str(config.method_name))
    if isinstance(registered, GuidedTrainerConfig):
        return copy.deepcopy(registered)
    plain = _class_defaults(config)
    assert isinstance(plain, GuidedTrainerConfig)
    plain.method_name, plain.optimizers = config.method_name, copy.deepcopy(config.optimizers)
    return plain


def _class_defaults(config: Any) -> Any:
    """A tree of the same classes with their defaults."""
    plain = copy.deepcopy(config)
    for each in dataclasses.fields(plain):
        part = getattr(plain, each.name, None)
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            setattr(plain, each.name, _class_defaults(part))
        elif each.default is not dataclasses.MISSING:
            setattr(plain, each.name, copy.deepcopy(each.default))
        elif each.default_factory is not dataclasses.MISSING:
            setattr(plain, each.name, each.default_factory())
    return plain


def _flat(value: Any, prefix: str = "-") -> Iterator[tuple[str, Any]]:
    """Yield (flag, value) of every setting below that has a flag."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {each.name: getattr(value, each.name, None) for each in dataclasses.fields(value) if each.init}
    elif isinstance(value, dict) and value:
        entries = value
    else:
        yield prefix, value
        return
    for name, entry in entries.items():
        if name != "_target":
            word = str(name) if isinstance(value, dict) else str(name).replace("_", "-")
            yield from _flat(entry, f"{prefix}.{word}" if prefix != "-" else f"--{word}")
