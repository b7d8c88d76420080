"""The enhancer's switches in the control panel."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nerfstudio.viewer.render_state_machine import RenderAction
from nerfstudio.viewer.viewer import Viewer

from difix3d_ns.enhance.enhancer import Enhancer, EnhancerSettings
from difix3d_ns.enhance.enhancer_config import EnhanceMode
from difix3d_ns.ns.patches.panel_elements import follow_panel
from difix3d_ns.ns.viewer.live import LiveEnhancer
from difix3d_ns.ns.viewer.markdown import plain
from difix3d_ns.priors.base import DEFAULT_REFERENCES
from difix3d_ns.priors.registry import available_fixers, fixer_of

MAX_REFERENCES = 8
_STILL, _ALWAYS = "when still", "always"


class EnhancerControls:
    """Enhancer on or off, how strong, with what, when, and how long the last frame took.

    On means that nerfstudio's output type is the enhanced one, so its own controls and split view go on working.

    Args:
        viewer: nerfstudio's, in whose current container the controls are made.
        enhancer: what they control.
        live: the enhancer as tabs see it.
        mode: which outputs there are.
    """

    def __init__(self, viewer: Viewer, enhancer: Enhancer, live: LiveEnhancer, mode: EnhanceMode) -> None:
        self._viewer = viewer
        self._enhancer = enhancer
        self._live = live
        self._raw, self._enhanced = ("raw", "rgb") if mode == "rgb" else ("rgb", "enhanced")
        settings, fixer, gui = enhancer.settings, enhancer.settings.fixer, viewer.viser_server.gui
        self._on = gui.add_checkbox("Enhance", mode == "rgb", hint=f"Show the output '{self._enhanced}'")
        self._split = gui.add_checkbox("Split", False, hint="Render on the left, enhanced on the right")
        self._strength = gui.add_slider(
            "Strength, %", 0, 100, 5, round(100 * settings.strength), hint="0: the render; 100: the fixer's picture"
        )
        self._when = gui.add_dropdown(
            "When", (_STILL, _ALWAYS), hint="always: moving views wait for the fixer, which makes them slow"
        )
        self._status = gui.add_markdown("No frame was enhanced yet.")
        with gui.add_folder("Fixer", expand_by_default=False):
            count = DEFAULT_REFERENCES if fixer.references is None else fixer.references
            maximum = max(MAX_REFERENCES, count)
            self._references = gui.add_slider("References", 0, maximum, 1, count, hint="Photos shown to the fixer")
            names = tuple(dict.fromkeys((fixer.name, *available_fixers())))
            self._fixer = gui.add_dropdown("Name", names, fixer.name, hint="With its own weights")
            self._weights = gui.add_text(
                "Weights", fixer.weights or "", hint="A file, a folder or a hub id; empty: the fixer's own"
            )
            self._use = gui.add_button("Use these weights", hint="A hub id such as nvidia/difix_ref downloads 5 GB")
        self._lock = threading.Lock()  # viser calls back in threads of its own
        self._on.on_update(lambda _: self._show())
        self._split.on_update(lambda _: self._set_split())
        self._strength.on_update(lambda _: self._change(strength=self._strength.value / 100))
        self._references.on_update(lambda _: self._choose_references())
        self._fixer.on_update(lambda _: self._choose_fixer())
        self._when.on_update(lambda _: self._set_when())
        self._use.on_click(lambda _: self._load())
        live.on_frame = self._report_frame
        live.on_error = self._report_error
        viewer.viser_server.on_client_disconnect(lambda client: live.forget_closed())  # after nerfstudio's own
        follow_panel(viewer.control_panel, self._on_output, self._on_split)

    def _show(self) -> None:
        """Choose nerfstudio's output accordingly."""
        output = self._viewer.control_panel._output_render
        if self._enhanced in output.options:  # else no frame yet: comes here again with one
            enhanced = bool(self._on.value and not self._split.value)
            if enhanced != (output.value == self._enhanced):  # any other output stays, if it is not to be enhanced
                output.value = self._enhanced if enhanced else self._raw
        self._render_again()

    def _set_split(self) -> None:
        panel = self._viewer.control_panel
        if self._split.value and self._enhanced in panel._split_output_render.options:
            panel._split_output_render.value = self._enhanced
        if panel._split.value != self._split.value:
            panel._split.value = self._split.value
        self._show()

    def _render_again(self) -> None:
        for machine in list(self._viewer.render_statemachines.values()):
            machine.action(RenderAction("move", self._viewer.get_camera_state(machine.client)))

    def offer(self, outputs: Mapping[str, Any]) -> None:
        """Choose an output with the first picture of all, before nerfstudio reads which to show."""
        panel = self._viewer.control_panel
        if self._enhanced in outputs and self._enhanced not in panel._output_render.options:
            panel._output_render.set_options(list(outputs.keys()))
            self._show()

    def _on_output(self) -> None:
        """Update the switch when somebody uses nerfstudio's own."""
        on = self._viewer.control_panel._output_render.value == self._enhanced
        if not self._split.value and self._on.value != on:
            self._on.value = on

    def _on_split(self) -> None:
        """Update the split switch as well."""
        if self._split.value and not self._viewer.control_panel._split.value:
            self._split.value = False

    def _change(self, strength: float | None = None, **fixer: Any) -> None:
        with self._lock:
            settings = self._enhancer.settings
            changed = EnhancerSettings(
                replace(settings.fixer, **fixer), settings.strength if strength is None else strength
            )
            if changed == settings:
                return
            self._enhancer.settings = changed
        name, weights = changed.fixer.name, changed.fixer.weights or ""
        if self._fixer.value != name and name in self._fixer.options:
            self._fixer.value = name
        if "weights" in fixer and self._weights.value != weights:
            self._weights.value = weights
        self._refresh()

    def _choose_fixer(self) -> None:
        if self._fixer.value != self._enhancer.settings.fixer.name:
            self._change(name=self._fixer.value, weights=None, references=None)

    def _choose_references(self) -> None:
        count = int(self._references.value)
        if self._enhancer.settings.fixer.references is None and count == self._enhancer.references:
            return  # the fixer's own number: shown, not chosen
        self._change(references=count)

    def _refresh(self) -> None:
        self._live.settings_changed()
        self._render_again()

    def _set_when(self) -> None:
        self._live.always = self._when.value == _ALWAYS
        self._refresh()

    def _load(self) -> None:
        word = str(self._weights.value).strip()
        try:
            name, weights = fixer_of(word) if word else (str(self._fixer.value), None)
        except OSError as error:
            self._report_error(error)
            return
        self._change(name=name, weights=weights, references=None)

    def _report_frame(self, seconds: float, width: int, height: int) -> None:
        self._status.content = f"Last enhanced frame: **{1000 * seconds:.0f} ms**, {width} x {height} px"
        count = self._enhancer.references
        if self._enhancer.settings.fixer.references is None and count not in (None, int(self._references.value)):
            self._references.value = count

    def _report_error(self, error: Exception) -> None:
        self._status.content = (
            f"**The enhancer failed, this is the render.** {plain(type(error).__name__)}: {plain(error)}"
        )
