"""Who is asking for a picture."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nerfstudio.viewer.render_state_machine import RenderStateMachine


def render_thread() -> RenderStateMachine | None:
    """The viewer's render thread (one per browser tab) if it calls; None in training, evaluation and ns-render."""
    from nerfstudio.viewer.render_state_machine import RenderStateMachine

    thread = threading.current_thread()
    return thread if isinstance(thread, RenderStateMachine) else None
