"""ns-viewer on a finished training, looked at through its websocket as a browser does."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.commands import forked
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

    from difix3d_ns.ns.cameras import to_pinhole

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


def _receive(client: ClientConnection, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Messages until ``enough`` of them have come; fails after two minutes."""
    messages: list[dict[str, Any]] = []
    deadline = time.monotonic() + 120
    while not enough(messages):
        left = deadline - time.monotonic()
        assert left > 0, f"the viewer did not answer; last came {[m['type'] for m in messages[-10:]]}"
        try:
            window = msgspec.msgpack.decode(client.recv(timeout=left))
        except TimeoutError:
            continue
        messages += window if isinstance(window, list) else [window]
    return messages


def _pictures(messages: list[dict[str, Any]]) -> list[np.ndarray]:
    found = [m["rgb_bytes"] for m in messages if m["type"] == "BackgroundImageMessage"]
    return [np.asarray(Image.open(io.BytesIO(content)), float) for content in found]


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean()) if a.shape == b.shape else np.inf


@pytest.fixture(scope="module")
def viewer(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("viewer") / "log"
    flags = ("--load-config", trained, "--viewer.websocket-port", PORT, "--viewer.image-format", "png")
    with forked(command_line("ns-viewer", *flags), log) as process:
        deadline = time.monotonic() + 180
        client = None
        while client is None:
            assert process.is_alive() and time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                client = connect(f"ws://localhost:{PORT}", max_size=None)
            except OSError:
                time.sleep(0.5)
        with client:
            yield client, log


def test_enhanced_output_and_its_switch(viewer: tuple[ClientConnection, Path], trained: Path) -> None:
    client, log = viewer
    camera = _camera_of_a_photograph(trained)
    client.send(msgspec.msgpack.encode(camera))

    def at_rest(messages: list[dict[str, Any]]) -> bool:
        # while the camera moves pictures are smaller; the full size comes when it stands still
        shapes = {picture.shape for picture in _pictures(messages)}
        return any(shape[0] >= 384 for shape in shapes) and any("label" in m and "options" in m for m in messages)

    messages = _receive(client, at_rest)
    plain = _pictures(messages)[-1]
    controls = {m["label"]: m for m in messages if "label" in m and "id" in m}
    assert {"difix3d-splatfacto", "Enhance", "Strength, %", "Show pseudo-views"} <= set(controls)
    assert "Run a fix round now" not in controls  # training is over
    frusta = [m["name"] for m in messages if m["type"] == "CameraFrustumMessage" and "/difix3d/views/" in m["name"]]
    assert len(set(frusta)) == 8

    def choose(control: str, value: object, shown: Callable[[np.ndarray], bool]) -> None:
        """Set a control; fails unless a picture comes that is as expected."""
        update = {"type": "GuiUpdateMessage", "id": controls[control]["id"], "updates": {"value": value}}
        client.send(msgspec.msgpack.encode(update))
        _receive(client, lambda messages: any(map(shown, _pictures(messages))))

    choose("Enhance", True, lambda picture: picture.shape == plain.shape and _difference(picture, plain) > 0.2)
    choose("Enhance", False, lambda picture: _difference(picture, plain) < 0.05)
    choose("Output type", "enhanced", lambda p: p.shape == plain.shape and _difference(p, plain) > 0.2)
    assert "Traceback" not in log.read_text()
