"""Settings fitted to a run: every config fills in what is unset and checks what is given.

A config of ours may have ``fit(run)``, ``check(flag)``, ``kept`` (fields that a resumed training takes over from its
checkpoint) and ``announced`` (fields whose CPU-sized values are printed, with a sentence for each). A value given by
the user is never touched: settings that can be derived are None until they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from difix3d_ns.io.run import Run


def walk(config: Any, flag: str = "-") -> Iterator[tuple[str, Any]]:
    """Yield (what its flags begin with, config) of a config and everything below it, from the top."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        yield flag, config
        entries = [(f.name.replace("_", "-"), getattr(config, f.name, None)) for f in dataclasses.fields(config)]
    elif isinstance(config, dict):
        entries = [(str(name), entry) for name, entry in config.items()]
    else:
        return
    for name, entry in entries:
        yield from walk(entry, f"{flag}.{name}" if flag != "-" else f"--{name}")


def check(config: Any) -> None:
    """Raise a UserError that names the flag if a setting cannot work."""
    for flag, part in walk(config):
        if hasattr(part, "check"):
            part.check(flag)


def fit(config: Any, run: Run) -> list[str]:
    """Fill in what is unset.

    Args:
        config: changed in place.
        run: what it is fitted to; call again when more is known of it.

    Returns:
        Messages about values that were filled in.
    """
    messages = []
    for flag, part in walk(config):
        if not hasattr(part, "fit"):
            continue
        announced = getattr(part, "announced", {})
        unset = [name for name in announced if getattr(part, name) is None]
        part.fit(run)
        messages += [
            f"{announced[name].format(getattr(part, name))} ({_flag(flag, name)})"
            for name in unset
            if getattr(part, name) is not None
        ]
    return messages


def kept(config: Any) -> dict[str, Any]:
    """Return the values that a training resumed from a checkpoint takes over, by flag."""
    return {_flag(flag, name): getattr(part, name) for flag, part in walk(config) for name in getattr(part, "kept", ())}


def adopt(config: Any, values: Mapping[str, Any]) -> None:
    """Take over ``kept`` values of a checkpoint where nothing was given; of a prior, if it has the same name."""
    for flag, part in walk(config):
        fields = getattr(part, "kept", ())
        if "name" in fields and part.name not in (None, values.get(_flag(flag, "name"), part.name)):
            continue
        for name in fields:
            if getattr(part, name) is None:
                setattr(part, name, values.get(_flag(flag, name)))


def _flag(flag: str, name: str) -> str:
    word = name.replace("_", "-")
    return f"--{word}" if flag == "-" else f"{flag}.{word}"
