"""The enhancer's switches in the control panel."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from difix3d_ns.fixers import available_fixers, fixer_of
from difix3d_ns.overrides import Enhance

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

    from difix3d_ns.enhancer import Enhancer, FixerSettings

MOST_REFERENCES = 8
_STILL, _ALWAYS = "when still", "always"


class EnhancerControls:
    """Enhancer on or off, how strong, with what, when, and how long the last frame took.

    On means that nerfstudio's output type is the enhanced one, so its own controls and split view go on working.

    Args:
        viewer: nerfstudio's, in whose current container the controls are made.
        enhancer: what they control.
        mode: which outputs there are.
    """

    def __init__(self, viewer: Viewer, enhancer: Enhancer, mode: Enhance) -> None:
        self._viewer = viewer
        self._enhancer = enhancer
        self._raw, self._enhanced = ("raw", "rgb") if mode == "rgb" else ("rgb", "enhanced")
        settings, gui = enhancer.settings, viewer.viser_server.gui
        self._on = gui.add_checkbox("Enhance", mode == "rgb", hint=f"Show the output '{self._enhanced}'")
        self._split = gui.add_checkbox("Split", False, hint="Render on the left, enhanced on the right")
        self._strength = gui.add_slider("Strength", 0.0, 1.0, 0.05, settings.strength, hint="0: the render")
        self._when = gui.add_dropdown(
            "When", (_STILL, _ALWAYS), hint="always: moving views wait for the fixer, which makes them slow"
        )
        self._status = gui.add_markdown("No frame was enhanced yet.")
        with gui.add_folder("Fixer", expand_by_default=False):
            most = max(MOST_REFERENCES, settings.references)
            self._references = gui.add_slider(
                "References", 0, most, 1, settings.references, hint="Photographs shown to the fixer"
            )
            names = tuple(dict.fromkeys((settings.name, *available_fixers())))
            self._fixer = gui.add_dropdown("Name", names, settings.name, hint="With its own weights")
            self._weights = gui.add_text(
                "Weights", settings.weights or "", hint="A file, a folder or a hub id; empty: the fixer's own"
            )
            self._use = gui.add_button("Use these weights", hint="A hub id such as nvidia/difix_ref downloads 5 GB")
        self._on.on_update(lambda _: self._show())
        self._split.on_update(lambda _: self._show())
        self._strength.on_update(lambda _: self._change(strength=float(self._strength.value)))
        self._references.on_update(lambda _: self._change(references=int(self._references.value)))
        self._fixer.on_update(lambda _: self._change(name=self._fixer.value, weights=None))
        self._when.on_update(lambda _: self._set_when())
        self._use.on_click(lambda _: self._load())
        enhancer.live.on_frame = self._tell_frame
        enhancer.live.on_error = self._tell_error
        self._follow(viewer.control_panel._output_render)

    def _show(self) -> None:
        """Choose nerfstudio's outputs accordingly."""
        panel = self._viewer.control_panel
        split = bool(self._split.value)
        left = self._enhanced if self._on.value and not split else self._raw
        if self._enhanced not in panel._output_render.options:
            return  # no frame yet: `_follow` comes here again
        if split:
            panel._split_output_render.value = self._enhanced
        if panel._split.value != split:
            panel._split.value = split
        if panel._output_render.value != left:
            panel._output_render.value = left
        self._render_again()

    def _render_again(self) -> None:
        with suppress(KeyError):  # nerfstudio looks up a browser tab that was closed this very moment
            self._viewer._trigger_rerender()

    def _follow(self, output: Any) -> None:
        """Keep the checkbox true when somebody chooses an output type, and choose one when there are any."""
        before, offered = output.cb_hook, output.set_options

        def chosen(element: Any) -> None:
            before(element)
            on = element.value == self._enhanced
            if not self._split.value and element.value in (self._raw, self._enhanced) and self._on.value != on:
                self._on.value = on

        def set_options(options: list[str]) -> None:
            first = self._enhanced not in output.options
            offered(options)
            if first:  # else a tab was opened, and what others look at stays
                self._show()

        output.cb_hook, output.set_options = chosen, set_options

    def _change(self, **settings: Any) -> None:
        changed: FixerSettings = replace(self._enhancer.settings, **settings)
        if changed != self._enhancer.settings:
            self._enhancer.settings = changed
            self._again()

    def _again(self) -> None:
        self._enhancer.live.settings_changed()
        self._render_again()

    def _set_when(self) -> None:
        self._enhancer.live.always = self._when.value == _ALWAYS
        self._again()

    def _load(self) -> None:
        word = str(self._weights.value).strip()
        try:
            name, weights = fixer_of(word) if word else (str(self._fixer.value), None)
        except OSError as error:
            self._tell_error(error)
            return
        self._change(name=name, weights=weights)

    def _tell_frame(self, seconds: float, width: int, height: int) -> None:
        self._status.content = f"Last enhanced frame: **{1000 * seconds:.0f} ms**, {width} x {height} px"

    def _tell_error(self, error: Exception) -> None:
        self._status.content = f"**The enhancer failed, this is the render.** {type(error).__name__}: {error}"
