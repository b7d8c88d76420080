"""The mesh of a finished training in the viewer's scene."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import trimesh
import viser
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

from difix3d_ns.errors import UserError
from difix3d_ns.meshing.mesh_files import with_linear_colours
from difix3d_ns.ns.viewer.markdown import plain

NODE = "/difix3d/mesh"
_UNLIT = "KHR_materials_unlit"  # of glTF: colours as they are, as photographs have their light in them


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
        self._on = server.gui.add_checkbox(
            "Show mesh", False, hint=f"{name}; what the splat hides of it shows without Composite depth"
        )
        self._problem = server.gui.add_markdown("", visible=False)
        self._on.on_update(lambda _: self._switch())

    def _switch(self) -> None:
        with self._lock:
            on = bool(self._on.value)
            if on and self._handle is None:
                try:
                    content = unlit_glb(self._read())
                    self._handle = self._server.scene.add_glb(NODE, content, scale=VISER_NERFSTUDIO_SCALE_RATIO)
                except (UserError, OSError) as error:
                    self._problem.content = f"**{plain(str(error))}**"
            self._problem.visible = on and self._handle is None
            if self._handle is not None:
                self._handle.visible = on


def unlit_glb(mesh: trimesh.Trimesh) -> bytes:
    """Return a mesh as a .glb that viewers show from both sides and without light of their own."""

    def without_light(tree: dict[str, Any]) -> None:
        tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), _UNLIT]
        materials = tree.setdefault("materials", [{}])
        for each in tree["meshes"]:
            for part in each["primitives"]:
                part.setdefault("material", 0)
        for material in materials:
            material["doubleSided"] = True
            material.setdefault("extensions", {})[_UNLIT] = {}

    content: bytes = trimesh.exchange.gltf.export_glb(
        with_linear_colours(mesh).scene(), tree_postprocessor=without_light
    )
    return content
