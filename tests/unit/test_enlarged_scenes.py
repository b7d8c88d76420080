"""Scenes with a true larger size: photos reduced and cropped, cameras that fit them, exact depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.enlarged_scenes import nearer_by_turns, reduced_size, turned, write_capture, write_procedural
from difix3d_ns.data.procedural.trajectories import arc
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.warp import in_view, project
from difix3d_ns.io.images import read_stored
from difix3d_ns.metrics.agreement import agreement
from difix3d_ns.ns.cameras import to_pinhole
from tests.unit.known_scenes import camera_at
from tests.unit.tiny_scene import datamanager, write_scene


def test_sides_are_multiples_of_16_in_the_middle() -> None:
    assert reduced_size(960, 721, 480) == ((480, 360), (0, 4, 480, 356))
    assert reduced_size(540, 960, 480) == ((270, 480), (7, 0, 263, 480))
    for size in ((400, 300, 480), (960, 20, 480)):
        with pytest.raises(ValueError, match="cannot be reduced"):
            reduced_size(*size)


@pytest.mark.parametrize("lens", [{}, {"k1": -0.1, "p2": 0.01}], ids=["pinhole", "distorted"])
def test_a_capture_keeps_what_it_shows_where(lens: dict[str, Any], tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", size=(160, 110), masks=True, **lens)
    written = write_capture(scene, tmp_path / "out" / "scene", 80)
    before, after = datamanager(scene), datamanager(written)
    assert [len(d) for d in (after.train_dataset, after.eval_dataset)] == [5, 1]
    assert [path.name for path in after.eval_dataset.image_filenames] == ["frame_00005.png"]
    file = Image.open(before.train_dataset.image_filenames[2]).resize((80, 55), Image.Resampling.BICUBIC)
    kept = np.array(file.crop((0, 3, 80, 51)))
    assert (read_stored(after.train_dataset.image_filenames[2]) == kept).all()
    data = after.train_dataset.get_data(2)
    assert data["mask"].shape[:2] == data["image"].shape[:2] and 0.3 < data["mask"].float().mean() < 0.7
    # a point of the scene is where it was, half as far from the corner, less what was cropped
    point = torch.tensor([[0.1, -0.05, 0.2]])
    pixels = []
    for manager in (before, after):
        lenses = manager.train_dataset.lenses[2:3]
        pixels.append(project(point, to_pinhole(lenses))[0][0])
    assert torch.allclose(pixels[1], pixels[0] / 2 - torch.tensor([0.0, 3.0]), atol=1e-3)
    given = [manager.train_dataparser_outputs.metadata["points3D_xyz"] for manager in (before, after)]
    assert torch.allclose(*given, atol=1e-6)
    assert torch.equal(before.train_dataset.cameras.camera_to_worlds, after.train_dataset.cameras.camera_to_worlds)


def test_nothing_is_enlarged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"frame_000\.png: 40 x 30 px cannot be reduced .* smaller --long-side"):
        write_capture(write_scene(tmp_path / "scene"), tmp_path / "out", 80)


@pytest.mark.slow
def test_a_procedural_scene_has_exact_depth(tmp_path: Path) -> None:
    scene = write_procedural(1, tmp_path / "procedural-1", 100, photos=4, held_out=2, label=None)
    meta = json.loads((scene / "transforms.json").read_text())
    assert [len(meta[f"{kind}_filenames"]) for kind in ("train", "val")] == [4, 2]
    manager = datamanager(scene)
    dataset, scale = manager.train_dataset, manager.train_dataparser_outputs.dataparser_scale
    assert dataset.stored_size(0) == (96, 64)
    pictures = [dataset.get_image_float32(index) for index in range(4)]
    depths = [
        torch.from_numpy(np.load(scene / "depths" / f"{path.stem}.npy"))[..., None] * scale
        for path in dataset.image_filenames
    ]
    cameras = [to_pinhole(dataset.cameras[index : index + 1]) for index in range(4)]
    found = agreement(pictures, cameras, depths, 2.0)
    shuffled = agreement(pictures[::-1], cameras, depths, 2.0)
    assert found > 0.5 > abs(shuffled)


def test_wrong_poses_move_the_middle_of_the_picture() -> None:
    rng, camera = np.random.default_rng(0), camera_at(0.3, width=64, height=48)
    middle = camera.position.double() + 2 * camera.camera_to_world[:3, 2].double()
    shifts = []
    for _ in range(400):
        other = turned(camera, 0.5, rng)
        assert torch.equal(other.position, camera.position)
        (here,), (there,) = (in_view(middle[None], one)[1] for one in (camera, other))
        shifts.append(there - here)
    spread = torch.stack(shifts).std(0)
    assert spread.tolist() == pytest.approx([0.5, 0.5], rel=0.15)


@pytest.mark.parametrize("end", [1.5, 2 * np.pi], ids=["arc", "circle"])
def test_every_second_photo_is_nearer(end: float) -> None:
    photos = 6
    path = nearer_by_turns(arc((1.0, 2.0, 0.5), 3.0, 0.0, end, 0.5), 0.5, photos)
    places = np.linspace(0, 1, photos, endpoint=not path.closed)
    distances = [np.linalg.norm(path.position(s + 0.02) - path.target(s)) for s in places]  # as a hand is off
    assert distances == pytest.approx([3.0, 1.5] * 3)
