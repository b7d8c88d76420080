"""Status of a guidance for the viewer: lines, views, targets, buttons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.views.records import ViewRecord


class Visitor(Protocol):
    """A visitor of the viewer who pressed a button: has a camera, and may have drawn a camera path."""

    def camera(self) -> Pinhole:
        """Return the camera of the tab. Raises UserError where no picture can be made of it."""
        ...

    def path(self, count: int) -> list[Pinhole]:
        """Return cameras evenly spaced along the path. Raises UserError if there is none."""
        ...


@dataclass(frozen=True)
class Button:
    """A button for a request; pressed in any thread."""

    label: str
    hint: str
    press: Callable[[Visitor], str]  # returns the answer, Markdown; raises UserError


@dataclass(frozen=True)
class ShownView:
    """A made view, drawn as a frustum with its picture inside."""

    key: str
    version: int  # changes when the view is made again
    camera: Pinhole
    image: Callable[[], np.ndarray]  # [H, W, 3] uint8; called only when the version is new
    references: Sequence[str] = ()  # names of the photographs it leans on
    group: str = ""  # views of one group can be shown alone, "Round 2"; empty: of none


@dataclass(frozen=True)
class Status:
    """State of a guidance; empty: nothing is shown."""

    title: str = ""
    lines: Sequence[str] = ()  # Markdown
    views: Sequence[ShownView] = ()
    targets: Sequence[Pinhole] = ()
    records: Sequence[ViewRecord] = ()  # the latest ones, oldest first
    buttons: Sequence[Button] = ()
    waiting: bool = False  # a request is not carried out yet
    plural: str = "made views"  # how the labels call the views
