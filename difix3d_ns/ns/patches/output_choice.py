"""The choice of an output in nerfstudio's control panel, followed by others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def follow(
    panel: Any, chosen: Callable[[str], None], split: Callable[[bool], None], offered: Callable[[], None]
) -> None:
    """Tell of what somebody chooses in a control panel, after its own callbacks.

    Args:
        panel: nerfstudio's ControlPanel.
        chosen: called with an output that was chosen.
        split: called when the split view is switched.
        offered: called when there are outputs to choose from that were not there before.
    """
    output, split_view = panel._output_render, panel._split
    chosen_before, split_before, offer = output.cb_hook, split_view.cb_hook, output.set_options

    def on_chosen(element: Any) -> None:
        chosen_before(element)
        chosen(element.value)

    def on_split(element: Any) -> None:
        split_before(element)
        split(element.value)

    def set_options(options: list[str]) -> None:
        new = not set(options) <= set(output.options)
        offer(options)
        if new:  # else a tab was opened, and what others look at stays
            offered()

    output.cb_hook, output.set_options, split_view.cb_hook = on_chosen, set_options, on_split
