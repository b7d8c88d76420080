"""ns-render with the enhancer on a finished training: pictures and videos, render and enhanced side by side."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from unittest.mock import MagicMock

import mediapy
import numpy as np
import pytest
import torch
import viser
import yaml
from nerfstudio.viewer.render_panel import populate_render_tab
from PIL import Image
from viser.transforms import SO3

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.viewer.still_view import write_still_view
from difix3d_ns.views.targets import camera_path_targets
from difix3d_ns.views.view import decode
from tests.conftest import Command
from tests.integration.conftest import SMALL

BOTH = ("--rendered-output-names", "rgb", "enhanced")
PORTRAIT = (60, 80)  # of the path, pixels
FRAMES = 6

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is missing: apt-get install ffmpeg")


def _training_cameras(config: Path) -> list[Pinhole]:
    settings = yaml.load(config.read_text(), Loader=yaml.Loader)
    manager = settings.pipeline.datamanager.setup(device="cpu", test_mode="inference")
    cameras = manager.train_dataset.cameras
    return [to_pinhole(cameras[i : i + 1]) for i in range(len(cameras))]


@pytest.fixture(scope="module")
def saved_path(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path between two photographs, written by nerfstudio's Render tab itself; only the browser is a stand-in."""
    folder = tmp_path_factory.mktemp("paths")
    camera = SimpleNamespace(fov=1.2, aspect=4 / 3)  # of the browser
    event: Any = SimpleNamespace(client_id=0, client=MagicMock())
    server = viser.ViserServer(port=7449)
    try:
        populate_render_tab(server, trained, folder)
        inputs: Any = {handle._impl.label: handle for handle in server.gui._gui_input_handle_from_id.values()}

        def click(label: str) -> None:
            for callback in inputs[label]._impl.update_cb:
                callback(event)

        inputs["Resolution"].value = PORTRAIT
        inputs["FPS"].value = FRAMES / 2  # from one keyframe to the next it takes two seconds
        inputs["Render name"].value = "walk"
        with mock.patch.object(server, "get_clients", return_value={0: SimpleNamespace(camera=camera)}):
            for pinhole in _training_cameras(trained)[1:3]:
                pose = pinhole.camera_to_world.double().numpy()
                camera.position = pose[:3, 3] * 10  # viser's scene is ten times nerfstudio's
                camera.wxyz = SO3.from_matrix(pose[:3, :3]).wxyz
                click("Add Keyframe")
        click("Generate Command")
    finally:
        server.stop()
    return folder / "camera_paths" / "walk.json"


def _pictures(output: Path, kind: str) -> list[np.ndarray]:  # [H, W, 3] each, 0 to 255
    if kind == "video":
        return [np.asarray(frame, float) for frame in mediapy.read_video(output)]
    return [np.asarray(Image.open(path), float) for path in sorted(output.with_suffix("").iterdir())]


def _check_side_by_side(pictures: list[np.ndarray], width: int, height: int) -> None:
    """Both halves show the same scene, and the right one is repaired."""
    for picture in pictures:
        assert picture.shape == (height, 2 * width, 3)
        plain, enhanced = picture[:, :width], picture[:, width:]
        assert plain.std() > 10
        difference = np.abs(plain - enhanced).mean()
        assert 0.3 < difference < np.abs(plain - enhanced[:, ::-1]).mean()


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["images", "video"])
def test_camera_path(run: Command, trained: Path, saved_path: Path, tmp_path: Path, kind: str) -> None:
    run(
        "ns-render",
        *("camera-path", "--load-config", trained, "--camera-path-filename", saved_path),
        *("--output-path", tmp_path / "walk.mp4", "--output-format", kind, *BOTH),
    )
    pictures = _pictures(tmp_path / "walk.mp4", kind)
    assert len(pictures) == FRAMES
    _check_side_by_side(pictures, *PORTRAIT)


@needs_ffmpeg
def test_a_view_of_the_viewer_is_rendered_by_the_command_it_shows(
    run: Command, trained: Path, tiny_scene: Path
) -> None:
    camera = _training_cameras(trained)[1]
    words = shlex.split(write_still_view(camera, trained.parent, ("rgb", "enhanced")))
    run(*words)
    (picture,) = _pictures(trained.parent / "still_views" / "view_1", "images")
    _check_side_by_side([picture], camera.width, camera.height)
    photos = [np.asarray(Image.open(path), float) for path in sorted((tiny_scene / "images").iterdir())]
    errors = [np.abs(picture[:, : camera.width] - photo).mean() for photo in photos]
    assert min(errors) < 0.6 * np.median(errors)  # of one photo the camera is


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["images", "video"])
def test_interpolate(run: Command, trained: Path, tmp_path: Path, kind: str) -> None:
    run(
        "ns-render",
        *("interpolate", "--load-config", trained, "--output-path", tmp_path / "walk.mp4", "--output-format", kind),
        *("--interpolation-steps", 3, "--pose-source", "eval", *BOTH),
    )
    pictures = _pictures(tmp_path / "walk.mp4", kind)
    assert len(pictures) == 2 * 3  # between three views
    _check_side_by_side(pictures, 128, 96)


def test_dataset(run: Command, trained: Path, tmp_path: Path) -> None:
    run(
        "ns-render",
        *("dataset", "--load-config", trained, "--output-path", tmp_path, "--split", "test", *BOTH),
        *("--image-format", "png"),
        env={"PATH": str(tmp_path)},  # pictures need no ffmpeg
    )
    plain, enhanced = (sorted((tmp_path / "test" / name).glob("*.png")) for name in ("rgb", "enhanced"))
    assert [p.name for p in plain] == [p.name for p in enhanced]
    assert len(plain) == 3
    pairs = zip(plain, enhanced, strict=True)
    pictures = [np.concatenate([np.asarray(Image.open(p), float) for p in pair], 1) for pair in pairs]
    _check_side_by_side(pictures, 128, 96)


def test_all_outputs_and_transparency(run: Command, trained: Path, tmp_path: Path) -> None:
    run(
        "ns-render",
        *("dataset", "--load-config", trained, "--output-path", tmp_path, "--split", "test"),
        *("--rendered-output-names", "all", "rgba", "--image-format", "png"),
    )
    folders = {folder.name for folder in (tmp_path / "test").iterdir()}
    assert folders == {"rgb", "depth", "accumulation", "background", "enhanced", "rgba"}
    for path in (tmp_path / "test" / "rgba").glob("*.png"):
        picture = np.asarray(Image.open(path))
        assert picture.shape == (96, 128, 4)
        assert picture[..., 3].min() < picture[..., 3].max()


@pytest.mark.parametrize("command", ["interpolate", "camera-path"])
def test_without_ffmpeg_the_message_says_how_to_get_it(
    run: Command, trained: Path, saved_path: Path, tmp_path: Path, command: str
) -> None:
    path = ("--camera-path-filename", saved_path) if command == "camera-path" else ()
    flags = ("--load-config", trained, *path, "--output-path", tmp_path / "a.mp4")
    result = run("ns-render", command, *flags, env={"PATH": str(tmp_path)}, status=1)
    message = result.stdout[result.stdout.index("Error: ") :]
    assert all(word in message for word in ("ffmpeg", "apt-get install", "conda install", "brew install"))
    assert len(message.strip().splitlines()) == 1
    assert "Traceback" not in result.stdout


def test_a_path_saved_in_the_viewer_is_what_is_trained_for(
    run: Command, trained: Path, tiny_scene: Path, saved_path: Path, tmp_path: Path
) -> None:
    content = json.loads(saved_path.read_text())
    assert (content["render_width"], content["render_height"]) == PORTRAIT
    assert len(content["camera_path"]) == FRAMES
    targets = camera_path_targets(saved_path)
    # it starts at the first keyframe
    start = _training_cameras(trained)[1]
    torch.testing.assert_close(targets[0].camera_to_world, start.camera_to_world, atol=1e-4, rtol=0)

    run(
        "ns-train",
        *("difix3d-splatfacto", "--data", tiny_scene, "--output-dir", tmp_path, "--experiment-name", "scene"),
        *("--timestamp", "run", *SMALL),
        *("--pipeline.guidance.targets.kind", "camera-path", "--pipeline.guidance.targets.camera-path", saved_path),
    )
    folder = tmp_path / "scene" / "difix3d-splatfacto" / "run" / "pseudo_views"
    views = [decode(file.read_bytes()).camera for file in folder.glob("view_*.safetensors")]
    assert all((camera.width, camera.height) == PORTRAIT for camera in views)
    places = torch.stack([camera.camera_to_world for camera in views])
    chosen = camera_path_targets(saved_path, 4)
    for target in chosen:  # the last round is there
        distance = (places - target.camera_to_world).abs().amax((1, 2))
        assert distance.min() < 1e-4
    expected = torch.stack([camera.intrinsics for camera in chosen])
    assert torch.allclose(views[0].intrinsics, expected[0], atol=1e-3)
