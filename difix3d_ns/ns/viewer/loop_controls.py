"""The loop in the control panel: status, buttons, frusta, gallery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import viser
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.viewer.camera_path import path_cameras
from difix3d_ns.ns.viewer.frusta import Frusta, ShownView, thumbnail
from difix3d_ns.ns.viewer.gallery import MOST, Gallery
from difix3d_ns.ns.viewer.markdown import plain
from difix3d_ns.ns.viewer.poses import client_pinhole
from difix3d_ns.views.records import FixRecord, FixRecords

if TYPE_CHECKING:
    from difix3d_ns.guidance.rounds import FixRounds

_EVERY = 0.5
"""seconds between updates: more often nobody can read"""


class LoopControls:
    """Folder "Pseudo-views" of a training.

    Args:
        server: in whose current container the folder is made.
        rounds: the loop; None for a finished training, which has no buttons.
        references: cameras of the photographs by file name.
        long_side: of pseudo-views that are asked for, pixels.
        scale: of frusta.
        count: of targets along a camera path.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        rounds: FixRounds | None,
        references: Mapping[str, Pinhole],
        long_side: int,
        scale: float,
        count: int = 0,
    ) -> None:
        self._server = server
        self._rounds = rounds
        self._references = references
        self._long_side = long_side
        self._count = count
        self._names: dict[tuple[int, int], tuple[str, ...]] = {}
        self._pictures: dict[tuple[int, int], np.ndarray] = {}
        self._fresh: list[FixRecord] = []
        self._lock = threading.Lock()
        self._updated = float("-inf")
        gui = server.gui
        with gui.add_folder("Pseudo-views"):
            self._status = gui.add_markdown("No round yet.")
            self._note = gui.add_markdown("", visible=False)
            self._buttons: list[viser.GuiButtonHandle] = []
            if rounds is not None:
                self._button("Run a fix round now", self._run, "The next round begins, or the last one again")
                self._button("Add a pseudo-view here", self._add, "Repair what this tab shows and learn from it")
                self._button("Use this camera path as targets", self._follow, "The path of the tab Render")
            self._frusta = Frusta(server, scale)
            self._gallery = Gallery(server)

    def remember(self, record: FixRecord) -> None:
        """Of a view that was repaired; shown at the next update."""
        place = record.round, record.target
        with self._lock:
            self._names[place], self._pictures[place] = record.references, thumbnail(record.after)
            self._fresh.append(record)

    def recall(self, records: FixRecords) -> None:
        """Of views that were repaired earlier."""
        with self._lock:
            self._names |= records.references()
            self._fresh += records.latest(MOST)

    @property
    def has_news(self) -> bool:
        """Whether something waits for the next update."""
        return bool(self._fresh)

    def show_saved(self, views: Sequence[ShownView], records: FixRecords) -> None:
        """Of a finished training."""
        self.recall(records)
        self._show_fresh()
        self._frusta.show(self._linked(view) for view in views)
        rounds = len({view.round for view in views})
        self._status.content = f"{len(views)} pseudo-views in the pool, at {rounds} distances from the photographs."

    def update(self, step: int, losses: Mapping[str, float], force: bool = False) -> None:
        """Show where the loop stands; from the training thread, which owns the pool.

        Args:
            step: of training.
            losses: by what is learnt from.
            force: also shortly after another update.
        """
        if self._rounds is None or (time.monotonic() - self._updated < _EVERY and not force):
            return
        self._updated = time.monotonic()
        self._show_fresh()
        pool, shown = self._rounds.pool, self._frusta.versions()
        there, changed = set(), []
        for key in pool:
            entry = pool.entry(key)
            place = entry.round, entry.target
            there.add(place)
            if shown.get(place) != entry.generation:
                changed.append(self._linked(ShownView(*place, entry.generation, entry.camera, self._picture(key))))
        self._frusta.show(changed, gone=shown.keys() - there)
        self._frusta.show_targets(self._rounds.targets)
        self._status.content = "  \n".join([*self._rounds.describe(step), *_describe(losses)])

    def finish(self) -> None:
        """Training has ended: nothing can be asked for any more."""
        for button in self._buttons:
            button.disabled = True
        left = self._rounds is not None and self._rounds.wishes_left
        self._say("Training is finished." + (" Not all that was asked for was made before." if left else ""))

    def _picture(self, key: int) -> np.ndarray:
        assert self._rounds is not None
        pool = self._rounds.pool
        entry = pool.entry(key)
        picture = self._pictures.pop((entry.round, entry.target), None)
        if picture is None:  # of a resumed training
            try:
                picture = thumbnail((pool.get(key).image * 255).byte().numpy())
            except ValueError:  # unreadable; the pool drops it when it is drawn
                picture = np.zeros((1, 1, 3), np.uint8)
        return picture

    def _linked(self, view: ShownView) -> ShownView:
        names = self._names.get((view.round, view.target), ())
        references = tuple(self._references[name] for name in names if name in self._references)
        return ShownView(view.round, view.target, view.version, view.camera, view.image, references)

    def _show_fresh(self) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
        if fresh:
            self._gallery.add(*fresh)

    def _button(self, label: str, action: Callable[[viser.GuiEvent], str], hint: str) -> None:
        button = self._server.gui.add_button(label, hint=hint)
        self._buttons.append(button)

        @button.on_click
        def _(event: viser.GuiEvent) -> None:
            try:
                self._say(action(event))
            except UserError as error:
                self._say(f"**{plain(error)}**")
            except Exception as error:
                CONSOLE.log(f"[yellow]Viewer: {label}: {error}")
                self._say(f"**{label} failed:** {plain(error)}")

    def _say(self, text: str) -> None:
        self._note.content = text
        self._note.visible = True

    def _run(self, event: viser.GuiEvent) -> str:
        assert self._rounds is not None
        self._rounds.ask_for_round()
        return "A round was asked for; it begins when training goes on and the splat is fit to be rendered."

    def _add(self, event: viser.GuiEvent) -> str:
        assert self._rounds is not None
        if event.client is None:
            raise UserError("The browser tab is gone.")
        self._rounds.ask_for_view(client_pinhole(event.client, self._long_side))
        return "A pseudo-view was asked for; later rounds make it again."

    def _follow(self, event: viser.GuiEvent) -> str:
        assert self._rounds is not None
        targets = path_cameras(self._server, self._count, self._long_side)
        self._rounds.ask_for_targets(targets)
        return f"Later rounds lead to {len(targets)} poses along the path. To begin at once, run a fix round."


def _describe(losses: Mapping[str, float]) -> list[str]:
    if not losses:
        return []
    return ["Loss: " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items())]
