"""An exported splat in a public web viewer: right way up, right colours, as we render it."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import math
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.apps.export_splat import load_pipeline
from difix3d_ns.metrics.psnr import psnr
from difix3d_ns.ns.cameras import to_cameras, to_pinhole
from tests.browser import open_tab
from tests.conftest import Command

PACKAGES = {
    "spark": (
        "https://registry.npmjs.org/@sparkjsdev/spark/-/spark-2.2.0.tgz",
        "c66fce63e112d9b099da87b70b36db45b822436bcf1f4b68c62f669627475231",
    ),
    "three": (
        "https://registry.npmjs.org/three/-/three-0.180.0.tgz",
        "ad66d724565ee29a2467277fa84daa5ed0211d6b8d446e9ef29f6bae0cd14144",
    ),
}
"""of npm, with their SHA-256; both MIT"""
SIDE = (256, 192)  # pixels
ENDINGS = (".ply", ".compressed.ply", ".spz")
PAGE = """<!doctype html><style>body { margin: 0; background: black } canvas { display: block }</style>
<script type="importmap">{"imports": {
  "three": "./three/build/three.module.js", "three/addons/": "./three/examples/jsm/",
  "spark": "./spark/dist/spark.module.js"
}}</script>
<script type="module">
import * as THREE from "three";
import { SparkRenderer, SplatMesh } from "spark";
const view = VIEW;
const renderer = new THREE.WebGLRenderer({antialias: false, preserveDrawingBuffer: true});
renderer.setSize(view.width, view.height);
document.body.appendChild(renderer.domElement);
const camera = new THREE.PerspectiveCamera(view.fov, view.width / view.height, 0.01, 1000);
camera.matrix.fromArray(view.matrix);
camera.matrix.decompose(camera.position, camera.quaternion, camera.scale);
const scene = new THREE.Scene();
scene.add(new SparkRenderer({renderer, preBlurAmount: 0.3, blurAmount: 0}));  // as gsplat blurs what is small
const splat = new SplatMesh({url: view.file});
await splat.initialized;
scene.add(splat);
let frames = 0;
renderer.setAnimationLoop(() => {
  renderer.render(scene, camera);
  document.title = "frame " + ++frames;
});
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the viewer's modules; skips where npm's registry cannot be reached."""
    folder = tmp_path_factory.mktemp("site")
    for name, (address, digest) in PACKAGES.items():
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                content = answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            pytest.skip(f"{address} cannot be reached: {error}")
        assert hashlib.sha256(content).hexdigest() == digest
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder / "packed", filter="data")
        (folder / "packed" / "package").rename(folder / name)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the folder is served."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_public_viewer_shows_what_we_render(
    run: Command, trained: Path, site: Path, address: str, ending: str
) -> None:
    name = f"splat{ending}"
    run("difix3d", "export", trained, "--output", site / name, "--force")
    pipeline: Any = load_pipeline(trained)
    photo = to_pinhole(pipeline.datamanager.train_dataset.cameras[:1])
    camera = photo.resized(*SIDE)
    pose = to_cameras(camera).camera_to_worlds[0].double().numpy()  # OpenGL's axes, as three.js has them
    view = {
        "file": name,
        "width": SIDE[0],
        "height": SIDE[1],
        "fov": math.degrees(2 * math.atan(SIDE[1] / 2 / float(camera.intrinsics[1, 1]))),
        "matrix": np.vstack([pose, [0.0, 0.0, 0.0, 1.0]]).T.ravel().tolist(),
    }
    (site / "index.html").write_text(PAGE.replace("VIEW", json.dumps(view)))
    with open_tab(*SIDE) as tab:
        tab.page.goto(f"{address}/index.html")
        tab.page.wait_for_function("Number(document.title.split(' ')[1]) > 20", timeout=120_000)
        shown = np.asarray(Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB"))
    with torch.no_grad():
        outputs = pipeline.model.get_outputs_for_camera(to_cameras(camera))
        black = outputs["rgb"] - (1 - outputs["accumulation"]) * outputs["background"]
    ours = black.clamp(0, 1)
    picture = torch.from_numpy(shown.astype(np.float32) / 255)
    assert picture.shape == ours.shape
    alike = psnr(picture, ours)
    assert alike > 30, alike
    for other in (picture.flip(0), picture.flip(1), picture.flip(-1)):  # upside down, mirrored, red for blue
        assert alike > psnr(other, ours) + 6
