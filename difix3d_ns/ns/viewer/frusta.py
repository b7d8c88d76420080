"""Made views, their references and targets in the viewer's scene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import viser

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.status import ShownView
from difix3d_ns.ns.viewer.viewer_cameras import placed

PSEUDO_VIEW = (255, 140, 0)
TARGET = (70, 200, 120)
LINK = (255, 190, 110)
_ROOT = "/difix3d"
_ALL = "all"


class Frusta:
    """Frusta with the repaired picture inside, by round; links to their reference views; targets.

    Args:
        server: in whose current container the switches are made.
        scale: of a frustum, in viser's scene.
    """

    def __init__(self, server: viser.ViserServer, scale: float) -> None:
        self._server = server
        self._scale = scale
        self._shown: dict[str, tuple[int, list[viser.SceneNodeHandle]]] = {}
        self._targets: list[Pinhole] = []
        gui, scene = server.gui, server.scene
        self._views_on = gui.add_checkbox("Show pseudo-views", True, hint="Frusta with the repaired picture inside")
        self._round = gui.add_dropdown("Round", (_ALL,), hint="Views of one round alone", visible=False)
        self._links_on = gui.add_checkbox("Show references", False, hint="Lines to the photos each leans on")
        self._targets_on = gui.add_checkbox("Show targets", False, hint="Poses the rounds lead to")
        self._views = scene.add_frame(f"{_ROOT}/views", show_axes=False)
        self._links = scene.add_frame(f"{_ROOT}/references", show_axes=False, visible=False)
        self._target_root = scene.add_frame(f"{_ROOT}/targets", show_axes=False, visible=False)
        self._rounds: dict[str, tuple[viser.FrameHandle, viser.FrameHandle]] = {}
        self._target_handles: list[viser.CameraFrustumHandle] = []
        for switch in (self._views_on, self._links_on, self._targets_on):
            switch.on_update(lambda _: self._switch())
        self._round.on_update(lambda _: self._switch())

    def versions(self) -> Mapping[str, int]:
        """Version of what is shown, by key of the view."""
        return {key: version for key, (version, _) in self._shown.items()}

    def show(self, views: Iterable[tuple[ShownView, Sequence[Pinhole]]], gone: Iterable[str] = ()) -> None:
        """Add or replace views, each with the cameras of its references, and take away those of the keys ``gone``."""
        for key in gone:
            for handle in self._shown.pop(key, (0, []))[1]:
                handle.remove()
        for view, references in views:
            self._add_round(view.round)
            self._add(view, references)

    def show_targets(self, targets: Sequence[Pinhole]) -> None:
        """Show these poses in the place of earlier ones."""
        if len(targets) == len(self._targets) and all(a is b for a, b in zip(targets, self._targets, strict=True)):
            return
        self._targets = list(targets)
        for handle in self._target_handles:
            handle.remove()
        add = self._server.scene.add_camera_frustum
        self._target_handles = [
            add(f"{_ROOT}/targets/{i:03d}", scale=self._scale * 0.6, color=TARGET, **placed(camera))
            for i, camera in enumerate(targets)
        ]

    def _add_round(self, number: str) -> None:
        if number in self._rounds:
            return
        scene = self._server.scene
        self._rounds[number] = (
            scene.add_frame(f"{_ROOT}/views/round_{number}", show_axes=False),
            scene.add_frame(f"{_ROOT}/references/round_{number}", show_axes=False),
        )
        self._round.options = (_ALL, *sorted(filter(None, self._rounds), key=lambda text: (len(text), text)))
        self._round.visible = len(self._round.options) > 1
        self._switch()

    def _add(self, view: ShownView, references: Sequence[Pinhole]) -> None:
        name = f"round_{view.round}/{view.key.partition('@')[0].replace('/', '_')}"
        frustum = self._server.scene.add_camera_frustum(
            f"{_ROOT}/views/{name}",
            scale=self._scale,
            color=PSEUDO_VIEW,
            image=view.image(),
            **placed(view.camera),
        )

        @frustum.on_click
        def _(event: viser.SceneNodePointerEvent[viser.CameraFrustumHandle]) -> None:
            with event.client.atomic():
                event.client.camera.position = event.target.position
                event.client.camera.wxyz = event.target.wxyz

        handles: list[viser.SceneNodeHandle] = [frustum]
        if references:
            handles.append(self._link(f"{_ROOT}/references/{name}", view, references))
        for handle in self._shown.get(view.key, (0, []))[1][len(handles) :]:
            handle.remove()  # a line; what has a successor of the same name is gone already
        self._shown[view.key] = view.version, handles

    def _link(self, name: str, view: ShownView, references: Sequence[Pinhole]) -> viser.SceneNodeHandle:
        """Straight lines to all references, as one spline that goes there and back."""
        here = placed(view.camera)["position"]
        corners = [here]
        for reference in references:
            corners += [placed(reference)["position"], here]
        points = np.stack(corners)
        thirds = [points[:-1] + (points[1:] - points[:-1]) * share for share in (1 / 3, 2 / 3)]
        control = np.stack(thirds, axis=1).reshape(-1, 3)
        return self._server.scene.add_spline_cubic_bezier(name, points, control, color=LINK, line_width=1.5)

    def _switch(self) -> None:
        self._views.visible = bool(self._views_on.value)
        self._links.visible = bool(self._views_on.value and self._links_on.value)
        self._target_root.visible = bool(self._targets_on.value)
        for number, frames in list(self._rounds.items()):  # viser calls back in threads of its own
            for frame in frames:
                frame.visible = self._round.value in (_ALL, number)
