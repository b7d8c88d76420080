"""Choices made in the viewer's control panel, passed on to others than nerfstudio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nerfstudio.viewer.control_panel import ControlPanel
from nerfstudio.viewer.viewer_elements import ViewerParameter


def follow_panel(panel: ControlPanel, output_chosen: Callable[[], None], split_changed: Callable[[], None]) -> None:
    """Call something after nerfstudio's own, whenever the output type or the split view is changed.

    A second callback of viser's would not do: where a value is set by code, viser may call the last one twice and the
    first one not at all (the closure in its ``GuiInputHandle.value``).

    Args:
        panel: whose elements; once they are installed.
        output_chosen: for the output type.
        split_changed: for the split view.
    """
    _call_after(panel._output_render, output_chosen)
    _call_after(panel._split, split_changed)


def _call_after(element: ViewerParameter[Any], further: Callable[[], None]) -> None:
    before = element.cb_hook

    def hook(changed: Any) -> None:
        before(changed)
        further()

    element.cb_hook = hook
