"""The switch "Show mesh" in a real browser: a mesh as ``difix3d mesh`` writes it, in viser's scene."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import numpy as np
import pytest
import trimesh
import viser
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from PIL import Image

from difix3d_ns.meshing.mesh_files import frame_file, write_mesh
from difix3d_ns.ns.placed_mesh import mesh_in_splat
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.viewer.shown_mesh import ShownMesh
from tests.browser import SLOW_SCREEN, Tab, chromium, open_tab

PORT = 7439
MAGENTA = np.array([255, 0, 255])
CENTRE = np.array([0.3, -0.2, 0.1])
"""of a box of 0.4, in the coordinates of training; the frame of its capture is another"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    chromium()
    file = tmp_path_factory.mktemp("shown") / "mesh.glb"
    box = trimesh.creation.box(extents=[0.4] * 3)
    box.apply_translation(CENTRE)
    shades = np.tile(MAGENTA, (len(box.vertices), 1)).astype(np.uint8)
    write_mesh(file, box, shades, np.ones(len(box.vertices), np.int32))
    frame = SplatFrame(np.hstack([np.eye(3), np.array([[1.0], [2.0], [3.0]])]), 0.5)
    frame.write(frame_file(file))
    server = viser.ViserServer(port=PORT)
    try:
        ShownMesh(server, file.name, lambda: mesh_in_splat(file, frame))

        @server.on_client_connect
        def _stand(client: viser.ClientHandle) -> None:  # as nerfstudio does, whose scene is ten times the splat's
            client.camera.position = VISER_NERFSTUDIO_SCALE_RATIO * (CENTRE + np.array([0.0, -1.5, 0.5]))
            client.camera.look_at = VISER_NERFSTUDIO_SCALE_RATIO * CENTRE

        with open_tab(700, 500) as tab:
            tab.page.add_init_script(SLOW_SCREEN)
            tab.page.set_default_timeout(120_000)
            tab.page.goto(f"http://localhost:{server.get_port()}")
            tab.page.get_by_label("Show mesh", exact=True).wait_for()
            yield tab
    finally:
        server.stop()


def _magenta(tab: Tab) -> float:
    """Share of the page that has the mesh's colour."""
    pixels = np.asarray(Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")).astype(int)
    return float((np.abs(pixels - MAGENTA).max(-1) < 80).mean())  # the viewer maps tones: it is (246, 40, 230) there


def _until(tab: Tab, low: float, high: float) -> float:
    deadline = time.monotonic() + 90
    while not low <= (share := _magenta(tab)) <= high:
        assert time.monotonic() < deadline, f"{share:.3f} of the page has the mesh's colour; {tab.errors}"
        time.sleep(0.5)
    return share


def test_the_switch_shows_the_mesh_and_hides_it(tab: Tab) -> None:
    switch = tab.page.get_by_label("Show mesh", exact=True)
    assert _magenta(tab) == 0 and not switch.is_checked()
    switch.click()
    shown = _until(tab, 0.01, 0.6)
    assert switch.is_checked()
    switch.click()
    _until(tab, 0, 0)
    switch.click()
    assert _until(tab, 0.01, 0.6) == pytest.approx(shown, rel=0.1)
