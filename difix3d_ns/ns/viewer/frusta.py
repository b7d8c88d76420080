"""Made views, their references and targets in the viewer's scene."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import viser

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.status import ShownView
from difix3d_ns.io.file_names import natural
from difix3d_ns.ns.viewer.viewer_cameras import placed, stand_at

MADE_VIEW = (255, 140, 0)
TARGET = (70, 200, 120)
LINK = (255, 190, 110)
_ROOT = "/difix3d"
_ALL = "all"


class Frusta:
    """Frusta with the made picture inside, by group; links to their reference views; targets.

    Args:
        server: in whose current container the switches are made.
        scale: of a frustum, in viser's scene.
        plural: how labels call the views.
    """

    def __init__(self, server: viser.ViserServer, scale: float, plural: str = "made views") -> None:
        self._server = server
        self._scale = scale
        self._shown: dict[str, tuple[int, dict[str, viser.SceneNodeHandle]]] = {}  # handles by their names
        self._targets: list[Pinhole] = []
        self._inside: dict[int, str | None] = {}  # key of the view that a tab stands in
        self._arrived: dict[int, bool] = {}  # whether it was seen there
        gui, scene = server.gui, server.scene
        server.on_client_disconnect(lambda client: self.leave(client.client_id))
        self._views_on = gui.add_checkbox(f"Show {plural}", True, hint="Frusta with the picture inside")
        self._group = gui.add_dropdown("Group", (_ALL,), hint="Views of one group alone", visible=False)
        self._links_on = gui.add_checkbox("Show references", False, hint="Lines to the photos each leans on")
        self._targets_on = gui.add_checkbox("Show targets", False, hint="Where views are wanted", visible=False)
        self._views = scene.add_frame(f"{_ROOT}/views", show_axes=False)
        self._links = scene.add_frame(f"{_ROOT}/references", show_axes=False, visible=False)
        self._target_root = scene.add_frame(f"{_ROOT}/targets", show_axes=False, visible=False)
        self._groups: dict[str, tuple[viser.FrameHandle, viser.FrameHandle]] = {}
        self._target_handles: list[viser.CameraFrustumHandle] = []
        for switch in (self._views_on, self._links_on, self._targets_on):
            switch.on_update(lambda _: self._switch())
        self._group.on_update(lambda _: self._switch())

    def versions(self) -> Mapping[str, int]:
        """Version of what is shown, by key of the view."""
        return {key: version for key, (version, _) in self._shown.items()}

    def show(self, views: Iterable[tuple[ShownView, Sequence[Pinhole]]], gone: Iterable[str] = ()) -> None:
        """Add or replace views, each with the cameras of its references, and take away those of the keys ``gone``."""
        for key in gone:
            for handle in self._shown.pop(key, (0, {}))[1].values():
                handle.remove()
        for view, references in views:
            self._add_group(view.group)
            self._add(view, references)
        # what a system never has needs no switch
        self._links_on.visible = not self._shown or any(len(handles) > 1 for _, handles in self._shown.values())

    def show_targets(self, targets: Sequence[Pinhole]) -> None:
        """Show these poses in the place of earlier ones."""
        if len(targets) == len(self._targets) and all(a is b for a, b in zip(targets, self._targets, strict=True)):
            return
        self._targets = list(targets)
        self._targets_on.visible = bool(self._targets)
        for handle in self._target_handles:
            handle.remove()
        add = self._server.scene.add_camera_frustum
        self._target_handles = [
            add(f"{_ROOT}/targets/{i:03d}", scale=self._scale * 0.6, color=TARGET, **placed(camera))
            for i, camera in enumerate(targets)
        ]

    def _add_group(self, group: str) -> None:
        if group in self._groups:
            return
        add, number = self._server.scene.add_frame, len(self._groups)
        self._groups[group] = (
            add(f"{_ROOT}/views/group_{number}", show_axes=False),
            add(f"{_ROOT}/references/group_{number}", show_axes=False),
        )
        self._group.options = (_ALL, *sorted(filter(None, self._groups), key=natural))
        self._group.visible = len(self._group.options) > 1
        self._switch()

    def _add(self, view: ShownView, references: Sequence[Pinhole]) -> None:
        name = f"group_{list(self._groups).index(view.group)}/{re.sub('[^A-Za-z0-9]', '_', view.key)}"
        frustum = self._server.scene.add_camera_frustum(
            f"{_ROOT}/views/{name}",
            scale=self._scale,
            color=MADE_VIEW,
            image=view.image(),
            **placed(view.camera),
        )

        @frustum.on_click
        def _(event: viser.SceneNodePointerEvent[viser.CameraFrustumHandle]) -> None:
            self._stand_in(event.client, view.key)

        handles: dict[str, viser.SceneNodeHandle] = {f"{_ROOT}/views/{name}": frustum}
        if references:
            line = f"{_ROOT}/references/{name}"
            handles[line] = self._link(line, view, references)
        for old, handle in self._shown.get(view.key, (0, {}))[1].items():
            if old not in handles:  # what has a successor of the same name is gone already
                handle.remove()
        self._shown[view.key] = view.version, handles
        self._refresh(view.key)

    def _stand_in(self, client: viser.ClientHandle, key: str) -> None:
        """Move a tab's camera into a frustum, which is hidden until it leaves: its picture would be all there is."""
        frustum = self._frustum(key)
        if frustum is None:
            return
        known, before = client.client_id in self._inside, self._inside.get(client.client_id)
        self._inside[client.client_id], self._arrived[client.client_id] = key, False
        for each in (before, key):
            self._refresh(each)
        stand_at(client, frustum.position, frustum.wxyz)
        if not known:
            client.camera.on_update(lambda camera: self._follow(client.client_id, np.asarray(camera.position)))

    def _follow(self, tab: int, position: np.ndarray) -> None:
        """Show the frustum again that a tab has left; what was sent before it arrived does not count."""
        key = self._inside.get(tab)
        frustum = None if key is None else self._frustum(key)
        away = frustum is None or np.linalg.norm(position - frustum.position) > self._scale
        if not away:
            self._arrived[tab] = True
        elif self._arrived.get(tab, False):
            self._inside[tab] = None
            self._refresh(key)

    def leave(self, tab: int) -> None:
        """Forget a tab that is gone."""
        self._arrived.pop(tab, None)
        self._refresh(self._inside.pop(tab, None))

    def _frustum(self, key: str) -> viser.SceneNodeHandle | None:
        handles = self._shown.get(key, (0, {}))[1]
        return next(iter(handles.values()), None)

    def _refresh(self, key: str | None) -> None:
        """Hide a frustum in which somebody stands."""
        if key is not None and (frustum := self._frustum(key)) is not None:
            frustum.visible = key not in self._inside.values()

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
        for group, frames in list(self._groups.items()):  # viser calls back in threads of its own
            for frame in frames:
                frame.visible = self._group.value in (_ALL, group)
