"""The folder "Difix3D" in the viewer's control panel."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerControl

from difix3d_ns.geometry.poses import spacing, stack_poses
from difix3d_ns.ns.environment import Enhance
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.views.folders import POOL_FOLDER, RECORDS_FOLDER
from difix3d_ns.views.records import FixRecord, FixRecords

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

    from difix3d_ns.enhance.enhancer import Enhancer
    from difix3d_ns.guidance.rounds import FixRounds
    from difix3d_ns.ns.viewer.loop_controls import LoopControls

_FRUSTUM = 0.15
"""size of a frustum in spacings of the training cameras: its picture can be seen, and it hides no other"""


class Panel(ViewerControl):
    """What the plugin shows in the viewer; without a viewer, nothing.

    nerfstudio finds it as an attribute of the pipeline and hands it the viewer.

    Args:
        enhancer: to be controlled.
        mode: how its outputs are called.
        photographs: whose cameras references are.
    """

    def __init__(self, enhancer: Enhancer, mode: Enhance, photographs: ReferenceViews) -> None:
        from difix3d_ns.ns.viewer.camera_path import remember_camera_paths

        self._enhancer = enhancer
        self._mode = mode
        self._photographs = photographs
        self._loop: LoopControls | None = None
        self._viewer: Viewer | None = None
        remember_camera_paths()

    def _setup(self, viewer: Viewer) -> None:
        from difix3d_ns.ns.viewer.enhancer_controls import EnhancerControls

        super()._setup(viewer)
        self._viewer = viewer
        self._enhancer.training_lock = viewer.train_lock or nullcontext()  # in ns-viewer it is the viewer's own
        gui = viewer.viser_server.gui
        # above nerfstudio's tabs, so that it is there whichever tab is open
        self._folder = gui.add_folder("Difix3D", order=viewer.stats_markdown.order + 0.5)
        with self._folder:
            if self._mode == "off":
                gui.add_markdown("The enhancer is off (DIFIX3D_ENHANCE=off).")
            else:
                EnhancerControls(viewer, self._enhancer, self._mode)
        if viewer.trainer is None:
            self._show_saved(viewer)

    def attach(self, rounds: FixRounds, count: int) -> None:
        """Show a training's loop.

        Args:
            rounds: the loop.
            count: of targets along a camera path.
        """
        self._loop = self._loop_controls(rounds, count)

    def remember(self, record: FixRecord) -> None:
        """Of a view that was repaired."""
        if self._loop is not None:
            self._loop.remember(record)

    def recall(self, records: FixRecords) -> None:
        """Of the views that a training goes on with."""
        if self._loop is not None:
            self._loop.recall(records)

    @property
    def has_news(self) -> bool:
        """Whether views were repaired that are not shown yet."""
        return self._loop is not None and self._loop.has_news

    def update(self, step: int, losses: Mapping[str, float], force: bool = False) -> None:
        """See ``LoopControls.update``; what fails there is told, and training goes on without."""
        if self._loop is None:
            return
        try:
            self._loop.update(step, losses, force)
        except Exception as error:
            CONSOLE.log(f"[yellow]The viewer's folder Difix3D stands still: {type(error).__name__}: {error}")
            self._loop = None

    def finish(self) -> None:
        """Training has ended."""
        if self._loop is not None:
            self._loop.finish()

    def _loop_controls(self, rounds: FixRounds | None, count: int) -> LoopControls | None:
        if self._viewer is None:
            return None
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        from difix3d_ns.ns.viewer.loop_controls import LoopControls

        cameras = self._photographs.standpoints()
        apart = spacing(stack_poses(list(cameras.values()))) * VISER_NERFSTUDIO_SCALE_RATIO
        long_side = max(max(camera.width, camera.height) for camera in cameras.values())
        with self._folder:
            return LoopControls(
                *(self._viewer.viser_server, rounds, cameras, long_side),
                scale=max(self._viewer.config.camera_frustum_scale, _FRUSTUM * apart),
                count=count,
            )

    def _show_saved(self, viewer: Viewer) -> None:
        from difix3d_ns.ns.viewer.frusta import ShownView, thumbnail
        from difix3d_ns.views.store import Store

        folder = viewer.log_filename.parent
        store, records = Store(folder / POOL_FOLDER), FixRecords(folder / RECORDS_FOLDER)
        views = []
        with suppress(ValueError):  # a training without pseudo-views, or whose pool was deleted
            for entry in store.read_index()["views"]:
                with suppress(ValueError):  # a damaged file
                    view = store.read_view(int(entry[1])).unpack()
                    picture = thumbnail((view.image * 255).byte().numpy())
                    views.append(ShownView(view.round, view.target, view.generation, view.camera, picture))
        if views or records.references():
            loop = self._loop_controls(None, 0)
            assert loop is not None  # there is a viewer
            loop.show_saved(views, records)
