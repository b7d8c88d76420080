"""ns-viewer on a finished training, looked at through its websocket as a browser does."""

from __future__ import annotations

import io
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.conftest import command_line

PORT = 7431
CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": (1.0, 0.0, 0.0, 0.0),
    "position": (0.0, 0.0, 0.0),
    "fov": 1.2,
    "aspect": 4 / 3,
    "look_at": (0.0, 0.0, 1.0),
    "up_direction": (0.0, 0.0, 1.0),
}


def _camera_of_a_photograph(config: Path) -> dict[str, Any]:
    """The first training camera as the browser would report it (viser's scene is ten times nerfstudio's)."""
    import yaml
    from viser.transforms import SO3

    from difix3d_ns.photographs import to_pinhole

    settings = yaml.load(config.read_text(), Loader=yaml.Loader)
    manager = settings.pipeline.datamanager.setup(device="cpu", test_mode="inference")
    pinhole = to_pinhole(manager.train_dataset.cameras[:1])
    pose = pinhole.camera_to_world.numpy()
    position, forward = pose[:3, 3] * 10, pose[:3, 2]
    return CAMERA | {
        "wxyz": tuple(map(float, SO3.from_matrix(pose[:3, :3]).wxyz)),
        "position": tuple(map(float, position)),
        "look_at": tuple(map(float, position + forward)),
        "up_direction": tuple(map(float, -pose[:3, 1])),
    }


def _receive(client: ClientConnection, seconds: float) -> list[dict[str, Any]]:
    messages, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            window = msgspec.msgpack.decode(client.recv(timeout=deadline - time.monotonic()))
            messages += window if isinstance(window, list) else [window]
        except TimeoutError:
            break
    return messages


def _last_picture(messages: list[dict[str, Any]]) -> np.ndarray:
    pictures = [m for m in messages if m["type"] == "BackgroundImageMessage"]
    assert pictures, "the viewer sent no picture"
    return np.asarray(Image.open(io.BytesIO(pictures[-1]["rgb_bytes"])), float)


@pytest.fixture(scope="module")
def viewer(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("viewer") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command_line(
                "ns-viewer", "--load-config", trained, "--viewer.websocket-port", PORT, "--viewer.image-format", "png"
            ),
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200"},
        )
        try:
            deadline = time.monotonic() + 180
            client = None
            while client is None:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                try:
                    client = connect(f"ws://localhost:{PORT}", max_size=None)
                except OSError:
                    time.sleep(0.5)
            with client:
                yield client, log
        finally:
            process.terminate()
            process.wait(30)


def test_enhanced_output_and_its_switch(viewer: tuple[ClientConnection, Path], trained: Path) -> None:
    client, log = viewer
    camera = _camera_of_a_photograph(trained)
    client.send(msgspec.msgpack.encode(camera))
    messages = _receive(client, 15)
    plain = _last_picture(messages)
    controls = {m["label"]: m for m in messages if "label" in m and "id" in m}
    assert {"Enhancer", "Enhancer strength"} <= set(controls)
    output = next(m for label, m in controls.items() if re.search("Output", label) and "options" in m)
    options = [
        m["updates"]["options"] for m in messages if m["type"] == "GuiUpdateMessage" and "options" in m["updates"]
    ]
    assert any("enhanced" in names for names in [*options, output["options"]])

    def choose(control: dict[str, Any], value: object) -> np.ndarray:
        update = {"type": "GuiUpdateMessage", "id": control["id"], "updates": {"value": value}}
        client.send(msgspec.msgpack.encode(update))
        return _last_picture(_receive(client, 8))

    enhanced = choose(output, "enhanced")
    assert enhanced.shape == plain.shape
    assert np.abs(enhanced - plain).mean() > 0.2
    switched_off = choose(controls["Enhancer"], False)
    assert np.abs(switched_off - plain).mean() < 0.05
    assert "Traceback" not in log.read_text()
