"""The plugin's folder in the viewer's control panel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import numpy as np
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl

from difix3d_ns.enhance.enhancer import Enhancer
from difix3d_ns.enhance.enhancer_config import EnhanceMode
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.orbits import converging, look_at_point
from difix3d_ns.geometry.poses import camera_spacing, stack_poses
from difix3d_ns.guidance.base import Guidance
from difix3d_ns.guidance.status import ShownView, Status
from difix3d_ns.io.file_names import natural
from difix3d_ns.meshing.mesh_files import mesh_in
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.model import Outputs
from difix3d_ns.ns.panoramas import is_perspective
from difix3d_ns.ns.patches.closed_tabs import survive_closed_tabs
from difix3d_ns.ns.patches.viewer_ports import correct_address
from difix3d_ns.ns.placed_mesh import mesh_in_splat
from difix3d_ns.ns.rendering import ModelRenderer
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.ns.viewer.enhancer_controls import EnhancerControls
from difix3d_ns.ns.viewer.gallery import Gallery
from difix3d_ns.ns.viewer.guidance_controls import GuidanceControls
from difix3d_ns.ns.viewer.live import LiveEnhancer
from difix3d_ns.ns.viewer.markdown import plain
from difix3d_ns.ns.viewer.shown_mesh import ShownMesh
from difix3d_ns.ns.viewer.still_view import LONG_SIDE, write_still_view
from difix3d_ns.ns.viewer.viewer_cameras import client_pinhole, placed, stand_at
from difix3d_ns.views.folders import DEPTHS_FOLDER, POOL_FOLDER, RECORDS_FOLDER
from difix3d_ns.views.records import LATEST, ViewRecords, newest, thumbnail
from difix3d_ns.views.store import Store
from difix3d_ns.views.view import PackedView

_FRUSTUM = 0.15
"""size of a frustum in spacings of the training cameras: its picture can be seen, and it hides no other"""
_CHECK_EVERY = 50  # steps between checks whether a guidance has something to show


class Panel(ViewerControl):
    """The plugin's part of the viewer; without a viewer, nothing.

    nerfstudio finds it as an attribute of the pipeline and hands it the viewer.

    Args:
        scene: whose cameras references are.
        renderer: of the enhancer, which has to wait for the viewer's lock.
        enhancer: to be controlled.
        mode: how its outputs are called.
    """

    def __init__(self, scene: TrainingScene, renderer: ModelRenderer, enhancer: Enhancer, mode: EnhanceMode) -> None:
        self._scene = scene
        self._renderer = renderer
        self._enhancer = enhancer
        self._mode = mode
        self._guidance: Guidance | None = None
        self._controls: GuidanceControls | None = None
        self._failed = False
        self._viewer: Viewer | None = None
        self._enhancer_controls: EnhancerControls | None = None
        self._depths: Gallery | None = None
        self._mesh: ShownMesh | None = None
        self.live = LiveEnhancer(enhancer.enhance)

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        survive_closed_tabs(viewer)
        correct_address(viewer)
        self._viewer = viewer
        self._renderer.lock = viewer.train_lock or nullcontext()  # in ns-viewer it is the viewer's own
        gui = viewer.viser_server.gui
        # above nerfstudio's tabs, so that it is there whichever tab is open
        self._folder = gui.add_folder(_method_name(viewer), order=viewer.stats_markdown.order + 0.5)
        with self._folder:
            if self._mode == "off":
                gui.add_markdown("The enhancer is off (`--pipeline.enhancer.mode off` or `DIFIX3D_ENHANCE=off`).")
            else:
                self._enhancer_controls = EnhancerControls(viewer, self._enhancer, self.live, self._mode)
            first = gui.add_button("First photo", hint="Look from where the first photo was taken")
            first.on_click(self._stand_at_first_photo)
            still = gui.add_button("Render this view", hint="Keep what this tab shows, and show the command for it")
            still.on_click(self._keep_view)
            self._command = gui.add_markdown("", visible=False)
        if viewer.trainer is None:
            self._offer_mesh(viewer)
            self._show_depths()
            self._show_saved(viewer)

    def _stand_at_first_photo(self, event: Any) -> None:
        if event.client is not None:
            place = placed(self._scene.camera(0))
            stand_at(event.client, place["position"], place["wxyz"])

    def _keep_view(self, event: Any) -> None:
        if event.client is None or self._viewer is None:
            return
        try:
            camera = client_pinhole(event.client, LONG_SIDE)
            command = write_still_view(camera, self._viewer.log_filename.parent.absolute(), self._shown_outputs())
            text = f"In a terminal, once a checkpoint is saved:\n\n```\n{command}\n```"
        except (UserError, OSError) as error:
            text = f"**{plain(error)}**"
        self._command.content, self._command.visible = text, True

    def _shown_outputs(self) -> tuple[str, ...]:
        return {"off": ("rgb",), "rgb": ("raw", "rgb"), "key": ("rgb", "enhanced")}[self._mode]

    def serve(self, tab: RenderStateMachine, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the outputs of a render for a tab: the enhanced picture is shown there once it is ready."""
        if isinstance(outputs, Outputs):
            image = outputs.image
            if is_perspective(outputs.camera):
                camera = to_pinhole(outputs.camera)
                outputs.serve(lambda: self.live.picture(tab, camera, image))
            else:  # previews of the tab Render: six faces would keep it waiting
                outputs.serve(lambda: image)
        if self._enhancer_controls is not None:
            self._enhancer_controls.offer(outputs)
        return outputs

    def attach(self, guidance: Guidance, step: int) -> None:
        """Show a training's guidance, if it has something to show."""
        self._show_depths()
        status = guidance.status(step)
        self._guidance = guidance
        if self._controls is None and status.title:
            self._controls = self._make_controls(status)

    def update(self, step: int, losses: Callable[[], Mapping[str, float]], force: bool = False) -> None:
        """Update the controls, see ``GuidanceControls.update``; what fails there is reported, and training goes on."""
        if self._guidance is None or self._viewer is None:
            return
        try:
            if self._controls is None and not self._failed and step % _CHECK_EVERY == 0:
                self.attach(self._guidance, step)  # it may have something to show by now
            if self._controls is None:
                return
            self._controls.update(self._guidance, step, losses, force)
        except Exception as error:
            title = _method_name(self._viewer)
            CONSOLE.log(f"[yellow]The viewer's folder {title} stands still: {type(error).__name__}: {error}")
            self._controls, self._failed = None, True

    def finish(self) -> None:
        """Show that training has ended."""
        if self._controls is not None:
            self._controls.finish()

    def _make_controls(self, status: Status) -> GuidanceControls | None:
        if self._viewer is None:
            return None
        cameras = dict(zip(self._scene.names(), self._scene.unoptimized_cameras(), strict=True))
        apart = camera_spacing(stack_poses(list(cameras.values()))) * VISER_NERFSTUDIO_SCALE_RATIO
        long_side = max(max(camera.width, camera.height) for camera in cameras.values())
        scale = max(self._viewer.config.camera_frustum_scale, _FRUSTUM * apart)
        with self._folder:
            return GuidanceControls(self._viewer.viser_server, status, cameras, long_side, scale)

    def _offer_mesh(self, viewer: Viewer) -> None:
        """Offer the mesh that lies in the folder of a finished training."""
        file = mesh_in(viewer.log_filename.parent)
        if file is None:
            return
        manager: Any = viewer.pipeline.datamanager
        frame = SplatFrame.of(manager.train_dataparser_outputs)
        cameras = self._scene.unoptimized_cameras()
        point = look_at_point(cameras) if converging(cameras) else None
        with self._folder:
            self._mesh = ShownMesh(viewer.viser_server, file.name, partial(mesh_in_splat, file, frame, point))

    def _show_depths(self) -> None:
        """Show the depth of photographs that a training began with, if it left any."""
        if self._viewer is None or self._depths is not None:
            return
        if latest := ViewRecords(self._viewer.log_filename.parent / DEPTHS_FOLDER).latest(LATEST):
            with self._folder, self._viewer.viser_server.gui.add_folder("Depth of photos", expand_by_default=False):
                self._depths = Gallery(self._viewer.viser_server, "photos")
            self._depths.add(*latest)

    def _show_saved(self, viewer: Viewer) -> None:
        folder = viewer.log_filename.parent
        store, records = Store(folder / POOL_FOLDER), ViewRecords(folder / RECORDS_FOLDER)
        heads = newest(records.heads())
        views = []
        for key, generation in store.newest():
            with suppress(ValueError):  # a damaged file
                view = store.read_view(key, generation)
                head = heads.get(key)
                about = ((), "") if head is None else (head.references, head.group)
                views.append(ShownView(key, generation, view.camera, partial(_picture, view), *about))
        if views or heads:
            groups = Counter(view.group for view in views if view.group)
            each = (f"{group}: {count}" for group, count in sorted(groups.items(), key=lambda item: natural(item[0])))
            lines = [f"{len(views)} views in the pool", plain(", ".join(each))]
            short, latest = records.about.short, records.latest(LATEST)
            self._make_controls(Status(short, list(filter(None, lines)), views, records=latest, plural=short.lower()))


def _method_name(viewer: Viewer) -> str:
    """Return the method of the training that is shown: outputs/EXPERIMENT/METHOD/TIMESTAMP/viewer_log_filename.txt."""
    return str(viewer.log_filename.parents[1].name)


def _picture(view: PackedView) -> np.ndarray:
    return thumbnail(view.unpack().image)
