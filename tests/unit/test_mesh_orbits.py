"""Meshes as captures: cameras, sizes, masks and depth of an orbit, and what curation does with a folder of them."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from rich.console import Console

from difix3d_ns.data.capture import UnusableScene
from difix3d_ns.data.curate import curate
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.data.scene_names import expand
from difix3d_ns.data.shards import find_shards, read_shards
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.meshing.mesh_orbits import ELEVATIONS, mesh_capture
from difix3d_ns.ns.capture_reader import read_dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def write_box(file: Path, colour: tuple[int, int, int] | None = (200, 40, 40)) -> Path:
    """A box of 4 x 2 x 1 away from the origin, z up."""
    box = trimesh.creation.box((4, 2, 1), trimesh.transformations.translation_matrix((7, -3, 2)))
    if colour is not None:
        box.visual.vertex_colors = np.tile(np.array([*colour, 255], np.uint8), (len(box.vertices), 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    box.export(file)
    return file


def write_textured(file: Path) -> Path:
    """A tile of 1 x 1 that stands upright, red on its left half and blue on its right one, seen from +x."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, 0] = pixels[:, 32:, 2] = 255
    corners = np.array([[0, -0.5, -0.5], [0, 0.5, -0.5], [0, 0.5, 0.5], [0, -0.5, 0.5]])
    tile = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    tile.visual = trimesh.visual.TextureVisuals(
        np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]), image=Image.fromarray(pixels)
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    tile.export(file)
    return file


def test_cameras_are_those_of_the_paper(tmp_path: Path) -> None:
    capture = mesh_capture(write_box(tmp_path / "box.ply"), "box", 64)
    assert len(capture.test) == 16 and 6 <= len(capture.train) <= 12 and not {*capture.test} & {*capture.train}
    above = capture.about["elevation"]
    assert above in ELEVATIONS
    for number, index in enumerate(capture.test):
        camera = capture.cameras[index]
        turn = math.radians(capture.about["azimuth"] + 22.5 * number)
        level = math.cos(math.radians(above))
        way = torch.tensor([level * math.cos(turn), level * math.sin(turn), math.sin(math.radians(above))])
        torch.testing.assert_close(camera.position, 1.5 * way, atol=1e-5, rtol=0)
        torch.testing.assert_close(camera.forward, -way, atol=1e-5, rtol=0)
        field = 2 * math.degrees(math.atan(camera.width / 2 / float(camera.intrinsics[0, 0])))
        assert (camera.width, camera.height) == (64, 64) and field == pytest.approx(49.13, abs=0.01)
        if number:  # to the right of the one before
            before = capture.cameras[index - 1]
            assert float((camera.position - before.position) @ before.camera_to_world[:3, 0]) > 0
    again = mesh_capture(tmp_path / "box.ply", "box", 64)
    assert all(torch.equal(a, b) for a, b in zip(capture.images, again.images, strict=True))
    assert mesh_capture(tmp_path / "box.ply", "box", 64, elevation=35).about["elevation"] == 35


def test_size_mask_and_depth_are_exact(tmp_path: Path) -> None:
    """Of a box of 1 x .5 x .25, whose surfaces are planes."""
    capture = mesh_capture(write_box(tmp_path / "box.ply"), "box", 96, elevation=20)
    assert capture.masks is not None and capture.depths is not None
    half = torch.tensor([0.5, 0.25, 0.125])
    for index in capture.test[::3]:
        image, mask, depth = capture.images[index], capture.masks[index], capture.depths[index]
        camera = capture.cameras[index]
        inside = depth[..., 0] > 0
        points = unproject(depth, camera)[inside]
        off = (points.abs() - half).amax(-1)  # of the box's surface
        assert off.abs().max() < 1e-4
        corners = torch.cartesian_prod(*(torch.tensor([-float(side), float(side)]) for side in half))
        seen = (corners - camera.position) @ camera.camera_to_world[:3, :3]
        pixels = (seen[:, :2] / seen[:, 2:]) @ camera.intrinsics[:2, :2].T + camera.intrinsics[:2, 2]
        rows, columns = torch.nonzero(mask[..., 0] > 0).T
        for low, high, extent in zip(pixels.amin(0), pixels.amax(0), (columns, rows), strict=True):
            assert abs(float(extent.min()) - float(low)) < 1 and abs(float(extent.max()) + 1 - float(high)) < 1
        assert (mask[inside] > 0).all() and ((mask == 0) | (mask == 1)).float().mean() > 0.9
        red = torch.tensor([200, 40, 40]) / 255
        torch.testing.assert_close(image, 1 + mask * (red - 1), atol=1e-5, rtol=0)
    extent = capture.points.abs().quantile(0.97, 0)  # a few are false matches
    assert len(capture.points) >= 200 and (extent < 1.2 * half + 0.02).all() and (extent > 0.8 * half).all()


def test_glb_is_turned_upright_and_keeps_its_texture(tmp_path: Path) -> None:
    upright = trimesh.transformations.rotation_matrix(-math.pi / 2, (1, 0, 0))  # as .glb has it: y up
    tile = trimesh.load(write_textured(tmp_path / "source.obj"), force="mesh", process=False)
    tile.apply_transform(upright)
    tile.export(tmp_path / "tile.glb")
    for file in (tmp_path / "source.obj", tmp_path / "tile.glb"):
        capture = mesh_capture(file, "tile", 64, elevation=0)
        front = max(capture.test, key=lambda index: float(capture.cameras[index].position[0]))
        assert capture.masks is not None
        image, mask = capture.images[front], capture.masks[front]
        inside = mask[..., 0] == 1
        share = float(mask.mean())
        assert 0.4 < share < 0.58  # (1.094 / 1.5)^2 of the picture, seen from up to 11 degrees aside
        left, right = image[:, :28][inside[:, :28]], image[:, 36:][inside[:, 36:]]
        assert left[:, 0].mean() > 0.95 and left[:, 2].mean() < 0.05
        assert right[:, 2].mean() > 0.95 and right[:, 0].mean() < 0.05


def test_a_mesh_without_colours_is_grey(tmp_path: Path) -> None:
    capture = mesh_capture(write_box(tmp_path / "plain.obj", None), "plain", 48)
    assert capture.masks is not None
    shown = capture.images[0][capture.masks[0][..., 0] == 1]
    assert (shown - shown[0]).abs().max() < 1e-6 and 0.2 < float(shown.mean()) < 0.9


def test_what_cannot_be_rendered_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.glb").write_bytes(b"nothing")
    with pytest.raises(UnusableScene, match=r"bad\.glb is no mesh that can be read"):
        mesh_capture(tmp_path / "bad.glb", "bad", 32)
    (tmp_path / "point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    with pytest.raises(UnusableScene, match=r"point\.obj has no extent"):
        mesh_capture(tmp_path / "point.obj", "point", 32)


def test_names_of_meshes(tmp_path: Path) -> None:
    write_box(tmp_path / "shelf" / "box.obj")
    write_box(tmp_path / "cup" / "meshes" / "model.ply")
    (tmp_path / "read.me").write_text("")
    scenes = expand([f"meshes:{tmp_path}"])
    assert [scene.name for scene in scenes] == ["cup_meshes_model", "shelf_box"]
    assert scenes[1].source == f"mesh:{tmp_path / 'shelf' / 'box.obj'}"
    (one,) = expand([f"meshes@-5:{tmp_path / 'shelf' / 'box.obj'}"])
    assert one == ("box", f"mesh@-5:{tmp_path / 'shelf' / 'box.obj'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"meshes:\S+empty: holds no mesh \(\.glb, \.obj or \.ply\); give a folder"):
        expand([f"meshes:{tmp_path / 'empty'}"])
    with pytest.raises(UserError, match="no such folder"):
        expand([f"meshes:{tmp_path / 'none'}"])


def test_curation_makes_orbits_and_leaves_out_what_it_cannot_read(tmp_path: Path) -> None:
    write_box(tmp_path / "meshes" / "box.ply")
    (tmp_path / "meshes" / "bad.obj").write_text("not a mesh")
    options = CurationOptions(("orbit",), "train", long_side=48, steps=20, max_gaussians=400)
    said = Console(file=io.StringIO(), width=400)
    reports = curate([f"meshes@30:{tmp_path / 'meshes'}"], tmp_path / "out", options, console=said, read=read_dataset)
    assert reports["box"].samples == {"orbit": 1} and "bad" not in reports
    text = said.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("left out: ") == 1 and "bad.obj" in text
    (sample,) = read_shards(find_shards(tmp_path / "out", "train"))
    assert sample.truth.shape == sample.request.image.shape == (16 * 48, 48, 3)
    assert sample.provenance["frames"] == 16 and sample.provenance["elevation"] == 30
    truth = mesh_capture(tmp_path / "meshes" / "box.ply", "box", 48, 30)
    assert truth.depths is not None and sample.true_depth is not None
    frames = torch.cat([truth.images[index] for index in truth.test])
    assert (sample.truth - frames).abs().max() < 3e-3
    depths = torch.cat([truth.depths[index] for index in truth.test])
    torch.testing.assert_close(sample.true_depth, depths, atol=1e-3, rtol=1e-3)
    with pytest.raises(UserError, match=r"nothing was made: .*bad\.obj"):
        curate(
            [f"meshes:{tmp_path / 'meshes' / 'bad.obj'}"], tmp_path / "none", options, console=said, read=read_dataset
        )
