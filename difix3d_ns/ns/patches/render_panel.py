"""The camera path of nerfstudio's Render tab, which otherwise only the tab's own callbacks can reach."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import viser
from nerfstudio.viewer import render_panel

_PATHS: WeakKeyDictionary[viser.ViserServer, render_panel.CameraPath] = WeakKeyDictionary()
_CameraPath = render_panel.CameraPath


class _RememberedPath(_CameraPath):
    def __init__(self, server: viser.ViserServer, *arguments: Any, **options: Any) -> None:
        super().__init__(server, *arguments, **options)
        _PATHS[server] = self


def apply() -> None:
    """Remember the path of every viewer that is opened from now on."""
    setattr(render_panel, "CameraPath", _RememberedPath)  # noqa: B010  (it is a type to mypy)


def edited_path(server: viser.ViserServer) -> render_panel.CameraPath | None:
    """The path that is being edited in a viewer."""
    return _PATHS.get(server)
