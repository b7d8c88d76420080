"""Scenes found in the folder of a published data set, before they are written for the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Misfit(Exception):
    """A folder that has not the layout of its data set; the text names what is missing."""


@dataclass(frozen=True)
class SceneSource:
    """A scene of a data set."""

    name: str
    """unique in the data set"""
    write: Callable[[Path], object]
    """writes it as a nerfstudio dataset to a folder"""


def scene_folders(folder: Path, *marks: str) -> list[Path]:
    """Find the scenes of a data set: the folder itself if it is one, else the folders in it.

    Args:
        folder: of the data set, or of one of its scenes.
        marks: a file or folder that every scene has, by its path in the scene; one of them is enough.

    Raises:
        Misfit: there is none.
    """

    def is_scene(place: Path) -> bool:
        return any((place / mark).exists() for mark in marks)

    found = [folder] if is_scene(folder) else sorted(place for place in folder.iterdir() if is_scene(place))
    if not found:
        raise Misfit(f"{folder / 'SCENE' / marks[0]} is missing")
    return found


def scene_name(folder: Path) -> str:
    """Return the name of a scene's folder, also of ``.``."""
    return folder.resolve().name
