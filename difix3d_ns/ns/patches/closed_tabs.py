"""A viewer's render threads by browser tab, made to survive a request for one that was closed this very moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer


class _ClosedTab:
    """Stand-in of a render thread that does nothing."""

    running = False

    def action(self, action: Any) -> None:
        """Ignore an action: nobody is there."""


class _Tabs(dict):
    def __missing__(self, client_id: int) -> _ClosedTab:
        return _ClosedTab()


def survive_closed_tabs(viewer: Viewer) -> None:
    """Let nerfstudio move the camera of a tab that is gone, which is a KeyError in its callbacks and in training.

    Args:
        viewer: that is being set up.
    """
    viewer.render_statemachines = _Tabs(viewer.render_statemachines)
