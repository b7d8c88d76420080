"""Paths in a training's settings: saved so that they hold from any folder, found again where a training was moved."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from difix3d_ns.ns import presets

_RELATIVE = "relative_"
"""beginning of nerfstudio's names of paths that are below another one by design"""
_WEIGHTS = "weights"
"""a name of text that may be a path"""


def make_absolute(config: Any) -> None:
    """Make the paths of a trainer's config absolute, in place.

    These are the output folder, the scene, and whatever else was given and is there. What a dataparser looks for below
    the scene stays as it is.

    Args:
        config: of a training that starts in the current folder.
    """
    config.output_dir = _absolute(config.output_dir)
    scene = _scene(config)
    for flag, part in presets.walk(config):
        if not dataclasses.is_dataclass(part):
            continue
        above = scene if flag.endswith(".dataparser") else None
        for field in dataclasses.fields(part):
            value = getattr(part, field.name, None)
            if value != field.default and not field.name.startswith(_RELATIVE):
                setattr(part, field.name, _from_anywhere(value, field.name, above))
    if config.data == config.pipeline.datamanager.data:  # one object is one entry of config.yml
        config.data = config.pipeline.datamanager.data


def find_again(config: Any, path: Path) -> Any:
    """Correct the paths of a trainer's config that was read, in place: a training may have been moved since.

    Checkpoints lie beside config.yml, or where they were. The scene is where it was or, if it is not there, at the same
    place as seen from the training's folder, below the current folder, or below a folder above the training's. The
    folder of trainings that is named after the scene is never taken for it.

    Args:
        config: read from ``path``.
        path: its config.yml.

    Returns:
        The config.
    """
    find_scene_again(config, path)
    beside = _absolute(path).parent / config.relative_model_dir
    if beside.exists() or not config.get_checkpoint_dir().exists():  # else a copy of config.yml is elsewhere
        config.relative_model_dir = beside
    return config


def find_scene_again(config: Any, path: Path) -> None:
    """Correct the path of the scene alone; see ``find_again``."""
    if (data := _scene(config)) is not None:
        found = _present(data, _absolute(path).parent, config.get_base_dir())
        config.data = config.pipeline.datamanager.data = found


def _scene(config: Any) -> Path | None:
    """Return where the scene is, by the one of nerfstudio's three settings that counts."""
    manager = config.pipeline.datamanager
    return manager.data or config.data or getattr(manager.dataparser, "data", None)


def _from_anywhere(value: Any, name: str, above: Path | None) -> Any:
    """Return an absolute path for one that is there, unless it is below a folder."""
    if isinstance(value, (list, tuple)) and any(isinstance(each, Path) for each in value):
        return type(value)(_from_anywhere(each, name, above) for each in value)
    if isinstance(value, Path):
        below = above is not None and name != "data" and (above / value).exists()
        return _absolute(value) if value.exists() and not below else value
    if isinstance(value, str) and name.endswith(_WEIGHTS) and Path(value).expanduser().exists():
        return str(_absolute(Path(value).expanduser()))
    return value


def _absolute(path: Path) -> Path:
    """Without "..", and with symbolic links as they are."""
    return Path(os.path.abspath(path))


def _present(data: Path, folder: Path, before: Path) -> Path:
    """Find the scene of a training.

    Args:
        data: where it was, perhaps relative to where the training was started.
        folder: of the training.
        before: the training's folder as its config has it.

    Returns:
        ``data`` itself if it is nowhere.
    """
    if data.is_absolute() and data.exists():
        return data
    candidates = []
    if data.is_absolute() == before.is_absolute():
        with suppress(ValueError):  # of another drive
            candidates.append(_absolute(folder / os.path.relpath(data, before)))
    if not data.is_absolute():
        candidates += [_absolute(above / data) for above in (Path.cwd(), *folder.parents)]
    return next((each for each in candidates if each.exists() and not any(each.glob("*/*/config.yml"))), data)
