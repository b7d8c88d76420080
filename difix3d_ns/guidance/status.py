"""What a guidance shows in the viewer: lines, views, targets, buttons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.views.records import FixRecord


class Visitor(Protocol):
    """Who pressed a button: somebody who looks from somewhere and may have drawn a camera path."""

    def camera(self) -> Pinhole:
        """What the tab shows. Raises UserError where no picture can be made of it."""
        ...

    def path(self, count: int) -> list[Pinhole]:
        """Cameras evenly spread along the path. Raises UserError if there is none."""
        ...


@dataclass(frozen=True)
class Button:
    """Something that can be asked for; pressed in any thread."""

    label: str
    hint: str
    press: Callable[[Visitor], str]  # what is answered, Markdown; raises UserError


@dataclass(frozen=True)
class ShownView:
    """A made view, drawn as a frustum with its picture inside."""

    key: str
    version: int  # changes when the view is made again
    camera: Pinhole
    image: Callable[[], np.ndarray]  # [H, W, 3] uint8; called only when the version is new
    references: Sequence[str] = ()  # names of the photographs it leans on

    @property
    def round(self) -> str:
        """The round it was made in, the end of a key like "target/003@2"; empty without rounds."""
        return self.key.rpartition("@")[2] if "@" in self.key else ""


@dataclass(frozen=True)
class Status:
    """Where a guidance stands; empty: nothing is shown."""

    title: str = ""
    lines: Sequence[str] = ()  # Markdown
    views: Sequence[ShownView] = ()
    targets: Sequence[Pinhole] = ()
    records: Sequence[FixRecord] = ()  # the latest ones, oldest first
    buttons: Sequence[Button] = ()
    waiting: bool = False  # something was asked for that is not done yet
