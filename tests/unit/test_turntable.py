"""``difix3d turntable`` of a training, with its mesh beside, and of a mesh alone; frames are decoded again."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import mediapy
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from difix3d_ns.apps.export_splat import export
from difix3d_ns.apps.turntable import turntable
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.orbits import look_at_point
from difix3d_ns.meshing.mesh_files import frame_file, write_mesh
from difix3d_ns.ns.placed_mesh import mesh_in_splat
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.unit.ball_scene import colour_of
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import look_at, write_scene

pytestmark = pytest.mark.usefixtures("one_thread")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is missing: apt-get install ffmpeg")


def trained(folder: Path, scene: Path, name: str = "run") -> GuidedTrainer:
    """A splat that is opaque at the scene's points; its training is a step long."""
    config = short_config(scene, steps=1, name=name)
    config.output_dir = folder
    trainer = train(config)
    with torch.no_grad():
        trainer.pipeline.model.gauss_params["opacities"].fill_(4.0)
    trainer.save_checkpoint(1)
    return trainer


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> GuidedTrainer:
    """Eight photos all around the origin."""
    folder = tmp_path_factory.mktemp("around")
    turns = [2 * math.pi * number / 8 for number in range(8)]
    poses = [look_at((2 * math.cos(a), 2 * math.sin(a), 0.6)) for a in turns]
    return trained(folder / "outputs", write_scene(folder / "scene", count=8, poses=poses))


def frame_of(training: GuidedTrainer) -> SplatFrame:
    return SplatFrame.of(training.pipeline.datamanager.train_dataparser_outputs)


def write_ball(path: Path, training: GuidedTrainer, capture: bool = False) -> Path:
    """A ball of many colours where the photos look, as ``difix3d mesh`` writes it."""
    ball = trimesh.creation.icosphere(2, 0.2)
    shades = (colour_of(torch.from_numpy(np.array(ball.vertices)) / 0.2).numpy() * 255).astype(np.uint8)
    ball.apply_translation(look_at_point(training.pipeline.scene.cameras()).numpy())
    if capture:
        ball.apply_transform(frame_of(training).to_original)
    write_mesh(path, ball, shades, np.ones(len(shades), np.int32), z_up=not capture)
    if not capture:
        frame_of(training).write(frame_file(path))
    return path


def apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


@needs_ffmpeg
def test_a_training_and_its_mesh_side_by_side(training: GuidedTrainer, tmp_path: Path) -> None:
    mesh = write_ball(training.base_dir / "mesh.glb", training)
    try:
        made = turntable(
            training.base_dir, tmp_path / "a.mp4", ("rgb", "enhanced", "mesh"), seconds=1, frames=4, long_side=64
        )
    finally:
        mesh.unlink()
    frames = np.asarray(mediapy.read_video(made.file))
    assert frames.shape == (4, 48, 192, 3) and (made.width, made.height) == (192, 48)
    assert "4 frames of 192 x 48, 1 s, once around" in made.describe()
    for panel in np.split(frames, 3, axis=2):
        assert apart(panel[0, 18:], panel[2, 18:]) > 2  # below the label
        assert apart(panel[0, 18:], panel[3, 18:]) > 0.5  # the last one is not the first again
    row = frames[0, 26, 128:]  # the ball is in the middle of its picture
    assert apart(row[32], row[2]) > 20


def test_an_animation_needs_no_ffmpeg(training: GuidedTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"ffmpeg, which is missing: .*; --output .*a\.gif is written without it"):
        turntable(training.base_dir, tmp_path / "a.mp4")
    made = turntable(training.base_dir / "config.yml", tmp_path / "a.gif", seconds=0.5)
    with Image.open(made.file) as file:
        assert file.n_frames == 10 and file.size == (40, 30) == (made.width, made.height)
        assert file.info["duration"] == 50 and file.info["loop"] == 0
        shown = []
        for number in range(file.n_frames):
            file.seek(number)
            shown.append(np.asarray(file.convert("RGB")))
    assert apart(shown[0], shown[5]) > 2 and apart(shown[0], shown[9]) > 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("ending", ["glb", "obj", "ply"])
def test_a_mesh_alone(tmp_path: Path, ending: str) -> None:
    """An egg that stands, its top bright: y points up in a .glb and in an .obj of another program."""
    egg = trimesh.creation.icosphere(2, 1.0)
    egg.apply_scale((0.5, 0.5, 1.5))
    heights = np.asarray(egg.vertices)[:, 2:]
    shades = np.where(heights > 0, 230, 20).astype(np.uint8) * np.ones((1, 3), np.uint8)
    shades[:, 0] = np.where(np.asarray(egg.vertices)[:, 0] > 0, 255, 0)
    file = tmp_path / f"egg.{ending}"
    if ending == "obj":
        egg.apply_transform(trimesh.transformations.rotation_matrix(-math.pi / 2, (1, 0, 0)))
    write_mesh(file, egg, shades, np.ones(len(heights), np.int32))
    made = turntable(file, tmp_path / "egg.gif", frames=12, seconds=1, long_side=60)
    with Image.open(made.file) as read:
        assert read.n_frames == 12 and read.size == (60, 60)
        first = np.asarray(read.convert("RGB")).astype(int)
        read.seek(6)
        opposite = np.asarray(read.convert("RGB")).astype(int)
    inside = first[..., 1] < 250
    rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
    assert 20 < np.ptp(rows) < 60 and np.ptp(rows) > 1.8 * np.ptp(columns)  # it stands, and all of it is seen
    assert first[20, 30, 1] > 200 and first[42, 30, 1] < 60  # upright
    assert abs(first[30, 30, 0] - opposite[30, 30, 0]) > 200


def test_a_mesh_is_found_in_the_coordinates_of_the_splat(training: GuidedTrainer, tmp_path: Path) -> None:
    point = look_at_point(training.pipeline.scene.cameras())
    for name, capture in (("a.glb", False), ("b.glb", True), ("c.ply", False), ("d.obj", True)):
        file = write_ball(tmp_path / name, training, capture)
        placed = mesh_in_splat(file, frame_of(training), point)
        assert placed.bounds.mean(0) == pytest.approx(point.numpy(), abs=1e-3), name
        assert placed.extents.max() == pytest.approx(0.4, rel=0.05), name
    placed.apply_translation((50, 0, 0))
    write_mesh(
        tmp_path / "e.ply", placed, np.zeros((len(placed.vertices), 3), np.uint8), np.zeros(len(placed.vertices))
    )
    with pytest.raises(UserError, match="does not lie where the photos look"):
        mesh_in_splat(tmp_path / "e.ply", frame_of(training), point)


def test_what_is_wrong_is_said(training: GuidedTrainer, tmp_path: Path) -> None:
    folder, out = training.base_dir, tmp_path / "a.gif"
    mesh = write_ball(tmp_path / "ball.ply", training)
    splat = export(folder, tmp_path / "splat.ply", keep_all=True).file
    (tmp_path / "there.gif").touch()
    before = sorted(tmp_path.iterdir())
    for match, arguments in {
        r"must end in one of \.mp4, \.gif": {"output": tmp_path / "a.webm"},
        "--force overwrites": {"output": tmp_path / "there.gif"},
        "--seconds 0": {"seconds": 0.0},
        "1 frames: at least 2": {"frames": 1},
        "at most 50 frames a second": {"frames": 301},
        "--long-side 5": {"long_side": 5},
        "nowhere does not exist": {"source": tmp_path / "nowhere"},
        "has no mesh; first make one: difix3d mesh": {"show": ("mesh",)},
        "--mesh .* does not exist": {"mesh": tmp_path / "none.glb"},
        "add mesh to --show": {"mesh": mesh, "show": ("rgb",)},
        "is a mesh, which is shown alone": {"source": mesh, "show": ("rgb",)},
        "give --data": {"source": splat},
        "leave it out": {"data": tmp_path},
    }.items():
        with pytest.raises(UserError, match=match):
            turntable(**{"source": folder, "output": out, **arguments})  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before


def test_the_enhancer_has_to_be_on(training: GuidedTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFIX3D_ENHANCE", "off")
    with pytest.raises(UserError, match="DIFIX3D_ENHANCE=key before the command"):
        turntable(training.base_dir, tmp_path / "a.gif", ("enhanced",))


def test_a_room_is_refused_and_photos_on_one_side_are_swung_past(tmp_path: Path) -> None:
    outward = [np.array(look_at((0.1 * math.cos(a), 0.1 * math.sin(a), 0.0))) for a in (0.0, 1.5, 3.0, 4.5)]
    for pose in outward:
        pose[:3, [0, 2]] *= -1  # backs to each other
    room = trained(tmp_path / "outputs", write_scene(tmp_path / "room", count=4, poses=outward), "room")
    with pytest.raises(UserError, match=r"do not stand around something.*ns-render interpolate.*difix3d compare"):
        turntable(room.base_dir, tmp_path / "a.gif")
    arc = trained(tmp_path / "outputs", write_scene(tmp_path / "arc", count=5), "arc")
    made = turntable(arc.base_dir, tmp_path / "b.gif", seconds=0.5)
    assert not made.whole and "there and back" in made.describe()
    with Image.open(made.file) as file:
        first = np.asarray(file.convert("RGB"))
        file.seek(5)
        assert apart(first, np.asarray(file.convert("RGB"))) > 2
