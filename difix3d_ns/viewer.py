"""nerfstudio's viewer: the enhancer's controls, and who is asking for a picture."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nerfstudio.viewer.viewer_elements import ViewerCheckbox, ViewerSlider
from torch import nn

if TYPE_CHECKING:
    from nerfstudio.viewer.render_state_machine import RenderStateMachine

    from difix3d_ns.enhancer import Enhancer


def render_thread() -> RenderStateMachine | None:
    """The viewer's render thread if it is the one that calls; None in training, evaluation and ns-render."""
    from nerfstudio.viewer.render_state_machine import RenderStateMachine

    thread = threading.current_thread()
    return thread if isinstance(thread, RenderStateMachine) else None


class EnhancerControls(nn.Module):
    """A checkbox and a slider.

    nerfstudio's viewer looks for elements in the pipeline and the modules below it, hence a module (of nothing).

    To see the enhanced picture, choose ``enhanced`` as output type.
    """

    def __init__(self, enhancer: Enhancer, strength: float) -> None:
        super().__init__()
        self._enhancer = enhancer
        self.enabled = ViewerCheckbox("Enhancer", True, cb_hook=self._toggle, hint="Repair the output 'enhanced'")
        self.strength = ViewerSlider("Enhancer strength", strength, 0.0, 1.0, 0.05, cb_hook=self._set_strength)

    def _toggle(self, element: ViewerCheckbox) -> None:
        self._enhancer.enabled = bool(element.value)

    def _set_strength(self, element: ViewerSlider) -> None:
        self._enhancer.strength = float(element.value)
