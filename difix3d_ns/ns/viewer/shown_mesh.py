"""The mesh of a finished training in the viewer's scene."""

from __future__ import annotations

import threading
from collections.abc import Callable

import trimesh
import viser
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

from difix3d_ns.errors import UserError
from difix3d_ns.ns.viewer.markdown import plain

NODE = "/difix3d/mesh"


class ShownMesh:
    """A switch that shows a mesh, which is read when it is first switched on.

    Args:
        server: in whose current container the switch is made.
        name: of its file.
        read: returns it in the splat's coordinates.
    """

    def __init__(self, server: viser.ViserServer, name: str, read: Callable[[], trimesh.Trimesh]) -> None:
        self._server = server
        self._read = read
        self._handle: viser.GlbHandle | None = None
        self._lock = threading.Lock()  # viser calls back in threads of its own
        self._on = server.gui.add_checkbox("Show mesh", False, hint=f"{name}, over the splat")
        self._problem = server.gui.add_markdown("", visible=False)
        self._on.on_update(lambda _: self._switch())

    def _switch(self) -> None:
        with self._lock:
            on = bool(self._on.value)
            if on and self._handle is None:
                try:
                    self._handle = self._server.scene.add_mesh_trimesh(
                        NODE, self._read(), scale=VISER_NERFSTUDIO_SCALE_RATIO
                    )
                except (UserError, OSError) as error:
                    self._problem.content = f"**{plain(str(error))}**"
            self._problem.visible = on and self._handle is None
            if self._handle is not None:
                self._handle.visible = on
