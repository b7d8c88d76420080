"""Does the enhancer make the viewer slower? Frames while the camera moves, and how soon the first one comes.

    python benchmarks/viewer.py --config outputs/SCENE/METHOD/TIME/config.yml

Starts ns-viewer on a finished training and looks at it through its websocket, as a browser does, without drawing.
In turns: the render alone, and with the enhancer. Each turn rests (in which the fixer works), then moves.
"""

from __future__ import annotations

import argparse
import math
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from websockets.sync.client import connect

RATE = 20  # moves per second


class Tab:
    """A browser tab that only notes when pictures come."""

    def __init__(self, port: int, start: dict[str, Any]) -> None:
        self._client = connect(f"ws://localhost:{port}", max_size=None)
        self._start = start
        self.controls: dict[str, str] = {}
        self.pictures: queue.Queue[tuple[float, int]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.move(0.0)

    def _read(self) -> None:
        for message in self._client:
            window = msgspec.msgpack.decode(message)
            for part in window if isinstance(window, list) else [window]:
                if part["type"] == "BackgroundImageMessage":
                    self.pictures.put((time.perf_counter(), len(part["rgb_bytes"])))
                elif "label" in part and "id" in part:
                    self.controls[part["label"]] = part["id"]

    def move(self, sideways: float) -> None:
        """Shift the camera, viser's units."""
        position = np.add(self._start["position"], [sideways, 0, 0])
        look_at = np.add(self._start["look_at"], [sideways, 0, 0])
        where = {"position": tuple(map(float, position)), "look_at": tuple(map(float, look_at))}
        self._send(self._start | where)

    def set(self, label: str, value: object) -> None:
        """Set a control."""
        self._send({"type": "GuiUpdateMessage", "id": self.controls[label], "updates": {"value": value}})

    def _send(self, message: dict[str, Any]) -> None:
        self._client.send(msgspec.msgpack.encode(message))

    def drain(self) -> list[float]:
        """Times of pictures since the last call."""
        times = []
        while not self.pictures.empty():
            times.append(self.pictures.get()[0])
        return times


def _first_camera(config: Path) -> dict[str, Any]:
    from difix3d_ns.ns.cameras import to_pinhole
    from difix3d_ns.ns.viewer.viewer_cameras import placed

    settings = yaml.load(config.read_text(), Loader=yaml.Loader)
    manager = settings.pipeline.datamanager.setup(device="cpu", test_mode="inference")
    pinhole = to_pinhole(manager.train_dataset.cameras[:1])
    where, pose = placed(pinhole), pinhole.camera_to_world.numpy()
    return {
        "type": "ViewerCameraMessage",
        "wxyz": tuple(map(float, where["wxyz"])),
        "position": tuple(map(float, where["position"])),
        "look_at": tuple(map(float, where["position"] + pose[:3, 2])),
        "up_direction": tuple(map(float, -pose[:3, 1])),
        "fov": where["fov"],
        "aspect": where["aspect"],
    }


def _turn(tab: Tab, rests: int, seconds: float) -> dict[str, list[float]]:
    """Rest and move several times."""
    delays, rates = [], []
    for index in range(rests):
        time.sleep(0.6 + 0.9 * (index % 5) / 5)  # so that the move comes at various moments of the fixer's work
        tab.drain()
        started = time.perf_counter()
        tab.move(0.001)
        delays.append(tab.pictures.get(timeout=60)[0] - started)
        tab.drain()
        began = time.perf_counter()
        for step in range(int(seconds * RATE)):
            tab.move(0.3 * math.sin(step / 5))
            time.sleep(max(0.0, began + (step + 1) / RATE - time.perf_counter()))
        rates.append(len(tab.drain()) / (time.perf_counter() - began))
    return {"delay": delays, "rate": rates}


def _enhanced_after(tab: Tab) -> float:
    """Seconds from rest until the last picture came, which is the enhanced one."""
    tab.drain()
    started = time.perf_counter()
    tab.move(0.0)
    last = started
    while time.perf_counter() - last < 8:
        times = tab.drain()
        last = times[-1] if times else last
        time.sleep(0.05)
    return last - started


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="config.yml of a finished training")
    parser.add_argument("--port", type=int, default=7439)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rests", type=int, default=5, help="per turn")
    parser.add_argument("--seconds", type=float, default=2.0, help="of moving after each rest")
    options = parser.parse_args()
    command = [sys.executable, "-m", "nerfstudio.scripts.viewer.run_viewer", "--load-config", str(options.config)]
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    with subprocess.Popen(
        [*command, "--viewer.websocket-port", str(options.port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        try:
            start = _first_camera(options.config)
            while True:
                try:
                    tab = Tab(options.port, start)
                    break
                except OSError:
                    if process.poll() is not None:
                        sys.exit("ns-viewer ended")
                    time.sleep(0.5)
            tab.pictures.get(timeout=120)
            time.sleep(5)
            found: dict[bool, dict[str, list[float]]] = {
                on: {"delay": [], "rate": [], "after": []} for on in (False, True)
            }
            for turn in range(-1, options.turns):  # the first loads the fixer and is not counted
                for on in (False, True):
                    tab.set("Enhance", on)
                    time.sleep(3)
                    times = _turn(tab, options.rests, options.seconds) | {"after": [_enhanced_after(tab)]}
                    if turn >= 0:
                        for name, values in times.items():
                            found[on][name] += values
        finally:
            process.terminate()
    print("| | frames per second while moving | first frame after a rest, median (worst) | last frame after rest |")
    print("|---|---|---|---|")
    for on, name in ((False, "render alone"), (True, "with the enhancer, when still")):
        delay, rate, after = (1000 * np.array(found[on]["delay"]), found[on]["rate"], found[on]["after"])
        print(
            f"| {name} | {np.mean(rate):.1f} | {np.median(delay):.0f} ms ({delay.max():.0f} ms) "
            f"| {1000 * np.median(after):.0f} ms |"
        )


if __name__ == "__main__":
    main()
