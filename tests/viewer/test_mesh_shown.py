"""The mesh of a finished training in ns-viewer, in a real browser."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from difix3d_ns.geometry.orbits import look_at_point
from difix3d_ns.meshing.mesh_files import frame_file, write_mesh
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.splat_frame import SplatFrame
from tests.browser import SLOW_SCREEN, Tab, chromium, open_tab
from tests.commands import forked
from tests.conftest import command_line
from tests.unit.short_training import short_config, train

PORT = 7437
MAGENTA = np.array([255, 0, 255])


@pytest.fixture(scope="module")
def tab(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """ns-viewer on a training of three steps, with a magenta box between the first photo and what all look at."""
    chromium()
    config = short_config(tiny_scene, steps=3)
    config.output_dir = tmp_path_factory.mktemp("shown")
    trainer = train(config)
    manager = trainer.pipeline.datamanager
    cameras = [to_pinhole(manager.train_dataset.cameras[i : i + 1]) for i in range(len(manager.train_dataset))]
    target, eye = look_at_point(cameras).double().numpy(), cameras[0].position.double().numpy()
    box = trimesh.creation.box(extents=[0.3 * np.linalg.norm(target - eye)] * 3)
    box.apply_translation((target + eye) / 2)
    file = trainer.base_dir / "mesh.glb"
    write_mesh(file, box, np.tile(MAGENTA, (len(box.vertices), 1)).astype(np.uint8), np.ones(len(box.vertices), int))
    SplatFrame.of(manager.train_dataparser_outputs).write(frame_file(file))
    log = tmp_path_factory.mktemp("viewer") / "log"
    flags = ("--load-config", trainer.base_dir / "config.yml", "--viewer.websocket-port", PORT)
    with forked(command_line("ns-viewer", *flags), log) as process, open_tab(900, 700) as tab:
        tab.page.add_init_script(SLOW_SCREEN)
        tab.page.set_default_timeout(120_000)
        deadline = time.monotonic() + 240
        while not _listening():
            assert process.is_alive() and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        tab.page.goto(f"http://localhost:{PORT}")
        tab.page.get_by_label("Show mesh", exact=True).wait_for()
        yield tab


def _listening() -> bool:
    with socket.socket() as there:
        return there.connect_ex(("localhost", PORT)) == 0


def _magenta(tab: Tab) -> float:
    """Share of the canvas beside the panel that has the mesh's colour."""
    tab.page.mouse.move(2, 2)  # over a label a hint would lie on the picture
    box = tab.page.locator("canvas").last.bounding_box()
    content = tab.page.screenshot(clip={key: int(value) for key, value in box.items()})
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    return float((np.abs(pixels - MAGENTA).max(-1) < 40).mean())


def _until(tab: Tab, low: float, high: float) -> float:
    deadline = time.monotonic() + 180
    while not low <= (share := _magenta(tab)) <= high:
        assert time.monotonic() < deadline, f"{share:.3f} of the picture has the mesh's colour"
        time.sleep(0.5)
    return share


def test_the_switch_shows_the_mesh_and_hides_it(tab: Tab) -> None:
    page = tab.page
    page.get_by_role("button", name="First photo").click()
    switch = page.get_by_label("Show mesh", exact=True)
    _until(tab, 0, 0)
    switch.click()
    shown = _until(tab, 0.03, 0.9)
    switch.click()
    _until(tab, 0, shown / 20)
    switch.click()
    _until(tab, shown / 2, 0.9)
    assert page.get_by_text("does not lie where the photos look").count() == 0
