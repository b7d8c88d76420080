"""Depth of a scene's photos from the command line."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from difix3d_ns import cli
from difix3d_ns.apps.depth_maps import coloured, write_depths
from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.initialization.estimated_depths import estimate_depths
from difix3d_ns.io.depth_files import read_confidence, read_depth
from difix3d_ns.ns.capture_reader import read_dataset
from difix3d_ns.priors.registry import load_depth
from tests.unit import ground_depth
from tests.unit.tiny_scene import ring, write_scene

PRIOR = ground_depth.__name__


def test_what_is_written_trains_and_is_the_depth(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=4, masks=True)
    files = write_depths(scene, tmp_path / "out", PRIOR, device="cpu")
    before = read_dataset(scene, "before", 10_000, own_frame=True)
    after = read_dataset(tmp_path / "out", "after", 10_000, own_frame=True)
    assert len(files) == len(after.train) == len(before.train) == 3 and len(after.test) == len(before.test) == 1
    assert after.names is not None and before.names is not None
    frames = {
        frame["file_path"]: frame for frame in json.loads((tmp_path / "out/transforms.json").read_text())["frames"]
    }
    for one, other in zip(before.train + before.test, after.train + after.test, strict=True):
        assert torch.allclose(before.cameras[one].camera_to_world, after.cameras[other].camera_to_world, atol=1e-6)
        assert torch.allclose(before.cameras[one].intrinsics, after.cameras[other].intrinsics, atol=1e-4)
        assert float((before.images[one] - after.images[other]).abs().max()) < 1 / 255
        assert before.masks is not None and after.masks is not None
        assert torch.equal(before.masks[one], after.masks[other])
        frame = frames[f"images/{after.names[other]}"]
        assert ("depth_file_path" in frame) == (other in after.train)  # nothing of what is held out
        if other in after.test:
            continue
        depth = torch.from_numpy(read_depth(tmp_path / "out" / frame["depth_file_path"], unit=1.0))[..., None]
        points = unproject(depth, after.cameras[other])[depth[..., 0] > 0]
        assert len(points) and float((points[:, 2] - ground_depth.HEIGHT).abs().max()) < 1e-4
        confidence = read_confidence(tmp_path / "out" / frame["depth_confidence_path"])
        chances = [1 - math.exp(-0.02 * math.sqrt(2) / (ground_depth.BLUR * factor)) for factor in (1, 2)]
        assert np.unique(confidence.round(4)).tolist() == pytest.approx([0, chances[1], chances[0]], abs=1e-4)
    assert torch.allclose(before.points, after.points, atol=1e-4) and not after.random_points
    cloud = PlyData.read(str(tmp_path / "out/points.ply"))["vertex"]
    assert len(cloud) and np.abs(cloud["z"] - ground_depth.HEIGHT).max() < 1e-4
    assert len(list((tmp_path / "out/pictures").rglob("*.png"))) == 3


def test_the_prior_is_shown_training_photos_and_points(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=4)
    write_depths(scene, tmp_path / "out", PRIOR, device="cpu")
    assert len(ground_depth.shown) == 3
    assert all(one.depth is not None and bool((one.depth > 0).any()) for one in ground_depth.shown)
    poses = torch.stack([torch.as_tensor(pose, dtype=torch.float32) for pose in ring(4)])
    held_out = poses[2, :3, 3]
    assert all(float((one.pose.position - held_out).norm()) > 0.1 for one in ground_depth.shown)
    write_depths(write_scene(tmp_path / "bare", count=4, points=False), tmp_path / "no-points", PRIOR, device="cpu")
    assert all(one.depth is None for one in ground_depth.shown)


def test_maps_are_no_larger_than_asked_for(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=3, size=(64, 48))
    files = write_depths(scene, tmp_path / "out", PRIOR, long_side=32, device="cpu")
    assert {read_depth(file, 1.0).shape for file in files} == {(24, 32)}
    assert Image.open(next((tmp_path / "out/images").rglob("*.png"))).size == (32, 24)


def test_errors_name_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_scene(tmp_path / "scene", count=3)
    with pytest.raises(UserError, match="--prior nonsense: one of multiview"):
        write_depths(scene, tmp_path / "out", "nonsense")
    with pytest.raises(UserError, match=r"--weights .*nowhere"):
        write_depths(scene, tmp_path / "out", weights=str(tmp_path / "nowhere"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/transforms.json").write_text("mine")
    with pytest.raises(UserError, match=r"--output .*--force"):
        write_depths(scene, tmp_path / "out", PRIOR)
    assert (tmp_path / "out/transforms.json").read_text() == "mine"
    words = ["difix3d", "depth", str(scene), "--output", str(tmp_path / "out"), "--prior", PRIOR, "--force"]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    assert "Depth of 2 photos" in capsys.readouterr().out


def test_near_is_bright_and_unknown_is_black() -> None:
    depth = torch.tensor([[[1.0], [2.0], [4.0], [0.0]]])
    brightness = coloured(depth).sum(-1)[0]
    assert brightness[0] > brightness[1] > brightness[2] > brightness[3] == 0
    assert float(coloured(torch.zeros(2, 2, 1)).max()) == 0


def test_the_weights_of_the_package_know_depth() -> None:
    capture = procedural_capture(1002, 128)
    shown = capture.train[:4]
    photographs = [PosedImage(capture.images[index], capture.cameras[index]) for index in shown]
    maps = estimate_depths(photographs, capture.points, load_depth())
    assert capture.depths is not None
    errors = torch.cat(
        [
            (one.depth / capture.depths[index]).log().abs()[capture.depths[index] > 0]
            for one, index in zip(maps, shown, strict=True)
        ]
    )
    assert float(errors.median()) < 0.05
