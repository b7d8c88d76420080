"""Outputs sent to a browser tab, which the pipeline may serve in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from typing import Any, Protocol

from nerfstudio.viewer.render_state_machine import RenderStateMachine

_render_img = RenderStateMachine._render_img


class TabServer(Protocol):
    """A pipeline's attribute ``panel`` that serves tabs."""

    def serve(self, tab: RenderStateMachine, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the outputs of a render as the tab is to get them."""
        ...


def _render_and_serve(self: RenderStateMachine, camera_state: Any) -> Any:
    outputs = copy_context().run(_render_img, self, camera_state)  # the background set there ends with it
    panel: TabServer | None = getattr(self.viewer.pipeline, "panel", None)
    return outputs if panel is None else panel.serve(self, outputs)


def apply() -> None:
    """Let the panel serve the outputs that render threads send to their tabs."""
    RenderStateMachine._render_img = _render_and_serve  # type: ignore[method-assign]
