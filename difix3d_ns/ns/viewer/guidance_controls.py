"""A guidance in the control panel: its state, its buttons, frusta of its views, gallery."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import viser
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.base import Guidance
from difix3d_ns.guidance.status import Button, ShownView, Status
from difix3d_ns.ns.viewer.camera_path import path_cameras
from difix3d_ns.ns.viewer.frusta import Frusta
from difix3d_ns.ns.viewer.gallery import Gallery
from difix3d_ns.ns.viewer.markdown import plain
from difix3d_ns.ns.viewer.viewer_cameras import client_pinhole
from difix3d_ns.views.records import ViewRecord

_EVERY = 0.5
"""seconds between updates: more often nobody can read"""


@dataclass(frozen=True)
class Tab:
    """The browser tab in which a button was pressed."""

    server: viser.ViserServer
    client: viser.ClientHandle | None
    long_side: int  # pixels of requested pictures

    def camera(self) -> Pinhole:
        """Return the camera of the tab. Raises UserError where no picture can be made of it."""
        if self.client is None:
            raise UserError("The browser tab is gone.")
        return client_pinhole(self.client, self.long_side)

    def path(self, count: int) -> list[Pinhole]:
        """Return cameras along the path of the Render tab. Raises UserError if it has fewer than two."""
        return path_cameras(self.server, count, self.long_side)


class GuidanceControls:
    """Folder of a guidance, named by its status.

    Args:
        server: in whose current container the folder is made.
        status: as it is now.
        references: cameras of the photographs by file name.
        long_side: of requested views, pixels.
        scale: of frusta.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        status: Status,
        references: Mapping[str, Pinhole],
        long_side: int,
        scale: float,
    ) -> None:
        self._server = server
        self._references = references
        self._long_side = long_side
        self._seen: list[ViewRecord] = []
        self._updated = float("-inf")
        self._waiting = False
        with server.gui.add_folder(status.title):
            self._status = server.gui.add_markdown("Nothing yet.")
            self._note = server.gui.add_markdown("", visible=False)
            self._buttons = [self._button(button) for button in status.buttons]
            self._frusta = Frusta(server, scale, status.plural)
            self._gallery = Gallery(server, status.plural)
        self._show(status, {})

    def update(self, guidance: Guidance, step: int, losses: Callable[[], Mapping[str, float]], force: bool) -> None:
        """Show the state of a guidance; from the training thread.

        Args:
            guidance: its status is read, if the last update was some time ago.
            step: of training.
            losses: by what is learnt from.
            force: also shortly after another update.
        """
        if time.monotonic() - self._updated < _EVERY and not force:
            return
        self._updated = time.monotonic()
        self._show(guidance.status(step), losses())

    def finish(self) -> None:
        """Disable the buttons: training has ended."""
        for button in self._buttons:
            button.disabled = True
        self._show_note(
            "Training is finished." + (" Not all requests were carried out before." if self._waiting else "")
        )

    def _show(self, status: Status, losses: Mapping[str, float]) -> None:
        self._waiting = status.waiting
        self._show_records(status.records)
        shown = self._frusta.versions()
        changed = [view for view in status.views if shown.get(view.key) != view.version]
        gone = shown.keys() - {view.key for view in status.views}
        self._frusta.show([(view, self._links(view)) for view in changed], gone)
        self._frusta.show_targets(status.targets)
        self._status.content = "  \n".join([*status.lines, *_describe(losses)]) or "Nothing yet."

    def _links(self, view: ShownView) -> list[Pinhole]:
        return [self._references[name] for name in view.references if name in self._references]

    def _show_records(self, records: Sequence[ViewRecord]) -> None:
        known = {id(record) for record in self._seen}
        if fresh := [record for record in records if id(record) not in known]:
            self._gallery.add(*fresh)
        self._seen = list(records)

    def _button(self, button: Button) -> viser.GuiButtonHandle:
        handle = self._server.gui.add_button(button.label, hint=button.hint)

        @handle.on_click
        def _(event: viser.GuiEvent) -> None:
            try:
                self._show_note(button.press(Tab(self._server, event.client, self._long_side)))
            except UserError as error:
                self._show_note(f"**{plain(error)}**")
            except Exception as error:
                CONSOLE.log(f"[yellow]Viewer: {button.label}: {error}")
                self._show_note(f"**{button.label} failed:** {plain(error)}")

        return handle

    def _show_note(self, text: str) -> None:
        self._note.content = text
        self._note.visible = True


def _describe(losses: Mapping[str, float]) -> list[str]:
    if not losses:
        return []
    return ["Loss: " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items())]
