"""Depth of a scene's photos from the command line."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from difix3d_ns import cli
from difix3d_ns.apps.depth_maps import write_depths
from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.initialization.depth_records import coloured
from difix3d_ns.initialization.estimated_depths import estimate_depths
from difix3d_ns.io.depth_files import read_confidence, read_depth
from difix3d_ns.ns.capture_reader import read_dataset
from difix3d_ns.priors.registry import load_depth
from tests.unit import ground_depth
from tests.unit.tiny_scene import write_scene

PRIOR = ground_depth.__name__


def _frames(scene: Path) -> dict[str, dict[str, Any]]:
    frames = json.loads((scene / "transforms.json").read_text())["frames"]
    return {Path(frame["file_path"]).stem: frame for frame in frames}


def _points(frame: dict[str, Any], depth: np.ndarray) -> np.ndarray:
    """Points [P, 3] of known depth [H, W], in the coordinates of transforms.json."""
    rows, columns = depth.nonzero()
    z = depth[rows, columns].astype(float)
    x = (columns + 0.5 - frame["cx"]) / frame["fl_x"] * z
    y = (rows + 0.5 - frame["cy"]) / frame["fl_y"] * z
    return np.stack([x, -y, -z, np.ones_like(z)], 1) @ np.array(frame["transform_matrix"]).T[:, :3]


def test_what_is_written_trains_and_is_the_depth(tmp_path: Path) -> None:
    scene, output = write_scene(tmp_path / "scene", count=4, masks=True), tmp_path / "out"
    files = write_depths(scene, output, PRIOR, device="cpu")
    before, after = (read_dataset(path, "scene", 10_000, hold_out=0) for path in (scene, output))
    assert len(files) == len(after.train) == len(before.train) == 3 and len(after.test) == len(before.test) == 1
    assert before.to_original is not None
    to_splat = np.linalg.inv(before.to_original)  # where the prior knows the plane
    given, written = _frames(scene), _frames(output)
    assert given.keys() == written.keys() and after.files is not None
    trained = {after.files[index].stem for index in after.train}
    for name, frame in written.items():
        assert np.allclose(frame["transform_matrix"], given[name]["transform_matrix"], atol=1e-5)
        assert Image.open(output / frame["mask_path"]).mode == "L"
        assert ("depth_file_path" in frame) == (name in trained)  # nothing of what is held out
        if name not in trained:
            continue
        points = _points(frame, read_depth(output / frame["depth_file_path"], unit=1.0))
        assert len(points) and np.abs(points @ to_splat[2, :3] + to_splat[2, 3] - ground_depth.HEIGHT).max() < 1e-3
        confidence = read_confidence(output / frame["depth_confidence_path"])
        chances = [1 - math.exp(-0.02 * math.sqrt(2) / (ground_depth.BLUR * factor)) for factor in (1, 2)]
        expected = [0, chances[1] ** 2, chances[0] ** 2]
        assert np.unique(confidence.round(4)).tolist() == pytest.approx(expected, abs=1e-4)
    for one, other in zip(before.train + before.test, after.train + after.test, strict=True):
        assert float((before.images[one] - after.images[other]).abs().max()) < 1 / 255
        assert before.masks is not None and after.masks is not None
        assert torch.equal(before.masks[one], after.masks[other])
    assert torch.allclose(before.points, after.points, atol=1e-4) and not after.random_points
    cloud = PlyData.read(str(output / "points.ply"))["vertex"]
    places = np.stack([cloud[axis] for axis in "xyz"], 1) @ to_splat[2, :3] + to_splat[2, 3]
    assert len(cloud) and np.abs(places - ground_depth.HEIGHT).max() < 1e-3
    assert len(list((output / "pictures").rglob("*.png"))) == 3


def test_half_a_depth_map_is_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, values: np.ndarray) -> None:
        if isinstance(file, Path):
            file.write_bytes(b"half")
        else:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"--output .* cannot be written: .*No space left"):
        write_depths(write_scene(tmp_path / "scene", count=4), tmp_path / "out", PRIOR, device="cpu")
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_positions_as_large_as_a_maps_stay(tmp_path: Path) -> None:
    def far(meta: dict[str, Any]) -> None:
        del meta["ply_file_path"]
        for frame in meta["frames"]:
            for row, offset in enumerate((4.5e5, 5.4e6, 300.0)):
                frame["transform_matrix"][row][3] += offset

    scene = write_scene(tmp_path / "scene", count=4, change=far)
    write_depths(scene, tmp_path / "out", PRIOR, device="cpu")
    given, written = _frames(scene), _frames(tmp_path / "out")
    for name, frame in written.items():
        assert np.allclose(frame["transform_matrix"], given[name]["transform_matrix"], rtol=0, atol=1e-5)


def test_cut_out_photos_stay_cut_out(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=4, mode="RGBA")
    write_depths(scene, tmp_path / "out", PRIOR, device="cpu")
    given, written = _frames(scene), _frames(tmp_path / "out")
    for name, frame in written.items():
        one, other = (
            np.array(Image.open(path)).astype(float)
            for path in (scene / given[name]["file_path"], tmp_path / "out" / frame["file_path"])
        )
        assert other.shape[2] == 4 and np.abs(one[..., 3] - other[..., 3]).max() <= 1
        solid = one[..., 3] > 128
        assert np.abs(one - other)[solid].max() <= 2 and "mask_path" not in frame


def test_photos_are_never_overwritten(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=3)
    before = {path: path.read_bytes() for path in scene.rglob("*") if path.is_file()}
    for output in (scene, tmp_path):
        with pytest.raises(UserError, match=r"--output .* another folder"):
            write_depths(scene, output, PRIOR, device="cpu", force=True)
    assert before == {path: path.read_bytes() for path in scene.rglob("*") if path.is_file()}


def test_the_prior_is_shown_training_photos_and_points(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=4)
    write_depths(scene, tmp_path / "out", PRIOR, device="cpu")
    assert len(ground_depth.shown) == 3
    assert all(one.depth is not None and bool((one.depth > 0).any()) for one in ground_depth.shown)
    capture = read_dataset(scene, "scene", 10_000)
    held_out = capture.cameras[capture.test[0]].position
    assert all(float((one.pose.position - held_out).norm()) > 1e-3 for one in ground_depth.shown)
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
    with pytest.raises(UserError, match="--prior nonsense: no depth prior has this name; there are multiview"):
        write_depths(scene, tmp_path / "out", "nonsense")
    with pytest.raises(UserError, match=r"'multiview' cannot be loaded \(--prior, --weights\): .*nowhere"):
        write_depths(scene, tmp_path / "out", weights=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--long-side 0: at least 32"):
        write_depths(scene, tmp_path / "out", PRIOR, long_side=0)
    with pytest.raises(UserError, match="nowhere does not exist: give a folder"):
        write_depths(tmp_path / "nowhere", tmp_path / "out", PRIOR)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output .*file is no folder"):
        write_depths(scene, tmp_path / "file", PRIOR)
    (tmp_path / "out").mkdir(exist_ok=True)
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
