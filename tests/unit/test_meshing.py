"""Meshes: depth of a splat's surface, fusing, what is left out, colours, textures, files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import trimesh
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.meshing import cleaning, splat_mesh
from difix3d_ns.meshing.depth_view import DepthView, depth_view
from difix3d_ns.meshing.extent import pixel_size, seen_box
from difix3d_ns.meshing.mesh_files import read_mesh, write_mesh
from difix3d_ns.meshing.mesh_pictures import MeshPictures
from difix3d_ns.meshing.painting import Occlusion, Points, colours
from difix3d_ns.meshing.splat_mesh import MeshOptions, SplatMesh, mesh_of_splat
from difix3d_ns.meshing.texture import painted, unwrapped
from difix3d_ns.meshing.volume import Box, Volume
from difix3d_ns.rasterization import median_depth, surface_depth
from tests.unit.ball_scene import RADIUS, Ball, BallScene, camera_at, colour_of

ALL_AROUND = [camera_at(2 * math.pi * n / 12, 0.5 if n % 2 else -0.4) for n in range(12)]
HALF_AROUND = [camera_at(math.pi * n / 7) for n in range(8)]
BOX = Box(np.full(3, -1.2), np.full(3, 1.2))


def views_of_ball(cameras: list[Pinhole]) -> list:
    return [depth_view(camera, *Ball().surface_depth(camera)) for camera in cameras]


def fused(views: list[DepthView], voxels: int) -> trimesh.Trimesh:
    volume = Volume(BOX, voxels)
    for view in views:
        volume.add(view)
    return volume.surface()


def made(cameras: list[Pinhole], options: MeshOptions | None = None) -> SplatMesh:
    options = options or MeshOptions(between=4, voxels=64)
    return mesh_of_splat(BallScene(cameras), Ball(), options, lambda what, done, total: None)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- depth of a splat's surface


def gaussian(scales: list[float], quat: list[float], opacity: float) -> tuple[Tensor, ...]:
    lens = torch.tensor([[[200.0, 0, 20], [0, 200.0, 20], [0, 0, 1]]])
    return (
        torch.tensor([[0.0, 0.0, 4.0]]),
        torch.tensor([quat]).float(),
        torch.tensor([scales]),
        torch.tensor([opacity]),
        torch.eye(4)[None],
        lens,
    )


def test_half_of_the_opacity_is_reached_before_a_gaussians_centre() -> None:
    ball = gaussian([0.3, 0.3, 0.3], [1, 0, 0, 0], 0.9)
    depth, alpha = surface_depth(*ball, 40, 40)
    expected = 4 - 0.3 * math.sqrt(2 * math.log(float(alpha[0, 20, 20, 0]) / 0.5))
    assert float(depth[0, 20, 20, 0]) == pytest.approx(expected, abs=2e-3)
    assert float(median_depth(*ball, 40, 40)[0][0, 20, 20, 0]) == 4.0
    # of a Gaussian that is barely half opaque the densest point itself
    faint, _ = surface_depth(*gaussian([0.3, 0.3, 0.3], [1, 0, 0, 0], 0.502), 40, 40)
    assert float(faint[0, 20, 20, 0]) == pytest.approx(4, abs=0.03)
    assert not surface_depth(*gaussian([0.3, 0.3, 0.3], [1, 0, 0, 0], 0.4), 40, 40)[0].any()


def test_a_tilted_disc_is_a_tilted_plane() -> None:
    half = math.radians(30) / 2  # about the y axis
    disc = gaussian([0.4, 0.4, 1e-4], [math.cos(half), 0, math.sin(half), 0], 0.95)
    depth, _ = surface_depth(*disc, 40, 40)
    columns = torch.arange(14, 27)
    x = (columns + 0.5 - 20) / 200
    plane = 4 / (1 + x * math.tan(math.radians(30)))
    assert torch.allclose(depth[0, 20, columns, 0], plane, atol=6e-3)
    assert float((depth[0, 20, 26, 0] - depth[0, 20, 14, 0]).abs()) > 0.1  # where centres alone give none


# ---------------------------------------------------------------------- fusing


def test_a_depth_view_leaves_steps_out() -> None:
    camera = camera_at(0.0, side=32)
    depth = torch.full((32, 32, 1), 3.0)
    depth[:, 16:] = 4.0
    depth[:4] = 0.0
    view = depth_view(camera, depth, torch.ones(32, 32, 1))
    assert not view.weight[:, 15:17].any() and not view.weight[:4].any()
    assert view.weight[10, 8] == 1 and view.weight[10, 24] == 1
    assert view.slope[10, 8] == pytest.approx(1, abs=1e-4)  # a wall straight ahead
    masked = depth_view(camera, depth, torch.ones(32, 32, 1), torch.zeros(32, 32, 1), 0.5)
    assert not masked.weight.any()


def test_a_ball_is_found_to_a_tenth_of_a_voxel() -> None:
    mesh = fused(views_of_ball(ALL_AROUND), 64)
    away = np.linalg.norm(mesh.vertices, axis=1) - RADIUS
    assert np.abs(away).mean() < 0.1 * BOX.voxel(64)
    outward = (np.asarray(mesh.face_normals) * mesh.triangles_center).sum(1)
    assert (outward > 0).mean() > 0.99


def test_what_nobody_saw_stays_open() -> None:
    mesh = fused(views_of_ball([camera_at(0.0, 0.0)]), 48)
    assert mesh.vertices[:, 0].min() > -0.1 and not mesh.is_watertight
    assert Volume(BOX, 16).surface().is_empty


def test_views_weigh() -> None:
    camera = camera_at(0.0, 0.0)
    depth, alpha = Ball().surface_depth(camera)
    far = depth_view(camera, depth + 0.1 * (depth > 0), alpha, confidence=0.25)
    both = fused([depth_view(camera, depth, alpha), far], 64)
    at_front = both.vertices[np.abs(both.vertices[:, 1:]).max(1) < 0.2]
    assert np.linalg.norm(at_front, axis=1).mean() == pytest.approx(RADIUS - 0.02, abs=0.006)


def test_the_box_is_what_three_photos_see() -> None:
    cameras = [*HALF_AROUND[:4], camera_at(math.pi)]  # the last one alone sees its side
    box = seen_box(views_of_ball(cameras))
    assert box is not None and box.high[0] > 0.9 and box.low[0] > -0.9
    whole = seen_box(views_of_ball(cameras), photos=1)
    assert whole is not None and whole.low[0] < -0.95
    size = pixel_size(views_of_ball(HALF_AROUND), BOX)
    assert size == pytest.approx(3.1 / (1.6 * 96), rel=0.05)
    assert seen_box([replace(view, weight=view.weight * 0) for view in views_of_ball(HALF_AROUND)]) is None


# ---------------------------------------------------------------------- what is left out


def test_parts() -> None:
    ball, speck = trimesh.creation.icosphere(3), trimesh.creation.icosphere(1, radius=0.02)
    speck.apply_translation([2, 0, 0])
    both = trimesh.util.concatenate([ball, speck])
    kept, parts = cleaning.without_specks(both)
    assert parts == 1 and len(kept.faces) == len(ball.faces) and len(kept.vertices) == len(ball.vertices)
    assert cleaning.without_specks(both, 0.0)[1] == 2
    assert cleaning.without_specks(trimesh.Trimesh())[1] == 0
    half = cleaning.inside(ball, Box(np.array([0.0, -2, -2]), np.full(3, 2.0)))
    assert half.vertices[:, 0].min() >= 0 and len(half.faces) < 0.6 * len(ball.faces)
    assert cleaning.closed(half).is_watertight and not half.is_watertight
    assert 90 <= len(cleaning.simplified(ball, 100).faces) <= 100 and cleaning.simplified(ball, 10_000) is ball
    noisy = trimesh.Trimesh(
        ball.vertices * (1 + np.random.default_rng(0).normal(0, 0.02, (len(ball.vertices), 1))), ball.faces
    )
    smooth = cleaning.smoothed(noisy)
    spread = [np.linalg.norm(mesh.vertices, axis=1) for mesh in (noisy, smooth)]
    assert spread[1].std() < 0.7 * spread[0].std() and spread[1].mean() == pytest.approx(spread[0].mean(), abs=0.01)


# ---------------------------------------------------------------------- colours


def test_photos_that_see_a_point_are_counted() -> None:
    ball = trimesh.creation.icosphere(4)
    points = Points(np.asarray(ball.vertices), np.asarray(ball.vertex_normals))
    photos = [BallScene(HALF_AROUND).photo(index) for index in range(len(HALF_AROUND))]
    counts = Occlusion(ball).count(points, photos)
    rays = np.stack([camera.position.numpy() for camera in HALF_AROUND])[:, None] - points.positions
    cosines = (rays * points.normals).sum(-1) / np.linalg.norm(rays, axis=-1)
    assert (counts == (cosines > 0.15).sum(0)).mean() > 0.99
    wall = trimesh.creation.box((0.1, 6, 6))
    wall.apply_translation([2, 0, 0])
    hidden = Occlusion(trimesh.util.concatenate([ball, wall]))
    assert not hidden.count(points, [BallScene([camera_at(0.0, 0.0)]).photo(0)]).any()
    masked = BallScene([camera_at(0.0)], [torch.zeros(96, 96, 1)]).photo(0)
    assert not Occlusion(ball).count(points, [masked]).any()


def test_colours_are_those_of_photos_in_one_exposure() -> None:
    ball = trimesh.creation.icosphere(4)
    points = Points(np.asarray(ball.vertices), np.asarray(ball.vertex_normals))
    truth = colour_of(torch.from_numpy(points.positions)).numpy()
    photos = [BallScene(ALL_AROUND).photo(index) for index in range(12)]
    dark = [PosedImage(one.image * (0.7 if number % 2 else 1.0), one.camera) for number, one in enumerate(photos)]
    found, weight = colours(points, photos, Occlusion(ball))
    assert (weight > 0).mean() > 0.95 and np.abs(found - truth)[weight > 0].mean() < 0.02
    plain, _ = colours(points, dark, Occlusion(ball))
    matched, _ = colours(points, dark, Occlusion(ball), truth)
    assert np.abs(matched - truth)[weight > 0].mean() < 0.25 * np.abs(plain - truth)[weight > 0].mean()
    blurred = [PosedImage(torch.full_like(one.image, 0.5), one.camera) for one in photos[:1]] + photos[1:]
    sharp, _ = colours(points, blurred, Occlusion(ball))
    assert np.abs(sharp - truth)[weight > 0].mean() < 0.06


def test_a_texture_holds_the_colours_of_its_places() -> None:
    ball = trimesh.creation.icosphere(3)
    charts = unwrapped(ball, 256)
    assert np.linalg.norm(charts.points.positions, axis=1) == pytest.approx(np.ones(len(charts.pixels)), abs=0.02)
    picture = painted(charts, colour_of(torch.from_numpy(charts.points.positions)).numpy())
    assert picture.shape == (256, 256, 3) and picture.min() > 0  # what no face shows goes on as its neighbours
    mesh = charts.mesh.copy()
    from PIL import Image

    mesh.visual = trimesh.visual.TextureVisuals(charts.places, image=Image.fromarray(picture))
    camera = camera_at(1.0)
    shown, truth = MeshPictures(mesh, (0.0, 0.0, 0.0)).render(camera), Ball().render(camera)
    inside = truth.alpha[..., 0] > 0
    assert float((shown - truth.image)[inside].abs().mean()) < 0.02


# ---------------------------------------------------------------------- all together


def test_the_hidden_side_is_marked() -> None:
    found = made(HALF_AROUND, MeshOptions(between=16, voxels=64, smoothing=0))
    points, _ = trimesh.sample.sample_surface(found.mesh, 20_000, seed=0)
    outward = points / np.linalg.norm(points, axis=1, keepdims=True)
    rays = np.stack([camera.position.numpy() for camera in HALF_AROUND])[:, None] - outward
    cosines = (rays * outward).sum(-1) / np.linalg.norm(rays, axis=-1)
    truth = float((cosines < 0.15).all(0).mean())
    assert found.unseen == pytest.approx(truth, abs=0.02)
    assert found.parts == 1 and len(found.counts) == len(found.colours) == len(found.mesh.vertices)


def test_made_frames_are_not_counted_as_photos() -> None:
    scene = BallScene(ALL_AROUND)
    scene.made = set(range(1, len(ALL_AROUND)))
    options = MeshOptions(between=0, voxels=48, smoothing=0)
    found = mesh_of_splat(scene, Ball(), options, lambda *_: None)  # type: ignore[arg-type]
    assert found.counts.max() == 1 and 0.5 < found.unseen < 0.8 < 1 - made(ALL_AROUND, options).unseen


def test_a_textured_mesh_looks_like_the_scene() -> None:
    found = made(ALL_AROUND, MeshOptions(between=0, voxels=48, faces=2000, texture=256))
    assert found.picture is not None and found.places is not None and len(found.mesh.faces) <= 2000
    assert len(found.counts) == len(found.mesh.vertices) == len(found.places)
    truth = colour_of(torch.from_numpy(np.asarray(found.mesh.vertices))).numpy()
    assert np.abs(found.colours / 255 - truth).mean() < 0.03


def test_a_turned_box() -> None:
    turn = trimesh.transformations.rotation_matrix(math.pi / 4, [0, 0, 1])
    half = MeshOptions(4, 48, Box(np.array([0.0, -2, -2]), np.full(3, 2.0)), turn)
    mesh = made(ALL_AROUND, half).mesh
    assert trimesh.transform_points(mesh.vertices, turn)[:, 0].min() > -0.01


def test_what_cannot_be_meshed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Box(np.full(3, 5.0), np.full(3, 6.0))
    with pytest.raises(UserError, match="--crop holds no surface"):
        made(ALL_AROUND, MeshOptions(4, 32, nowhere))
    with pytest.raises(UserError, match="by 99 photos; give --seen-by 1"):
        made(ALL_AROUND, MeshOptions(4, 32, seen_by=99))
    nothing = [torch.zeros(96, 96, 1)] * 3
    with pytest.raises(UserError, match="give --crop"):
        mesh_of_splat(
            BallScene(ALL_AROUND[:3], nothing),
            Ball(),
            MeshOptions(0),
            lambda what, done, total: None,  # type: ignore[arg-type]
        )
    memory = psutil.virtual_memory()._replace(available=2_000_000)
    monkeypatch.setattr(splat_mesh.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(UserError, match=r"--voxels 64 needs .* give --voxels \d+"):
        made(ALL_AROUND)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("ending", ["glb", "obj", "ply"])
@pytest.mark.parametrize("textured", [False, True])
def test_files_are_read_by_others(tmp_path: Path, ending: str, textured: bool) -> None:
    box = trimesh.creation.box((1.0, 2.0, 3.0))
    picture, places, shade = None, None, np.tile(np.array([[200, 100, 50]], np.uint8), (8, 1))
    if textured:
        charts = unwrapped(box, 64)
        picture = painted(charts, np.tile(shade[:1] / 255, (len(charts.pixels), 1)))
        box, places, shade = charts.mesh, charts.places, shade[charts.origin]
    counts = np.arange(len(box.vertices), dtype=np.int32)
    files = write_mesh(tmp_path / f"a mesh.{ending}", box, shade, counts, picture, places)
    assert all(file.is_file() for file in files) and len(files) == (3 if ending == "obj" and textured else 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in files)
    found = read_mesh(files[0])
    assert found.extents == pytest.approx([1, 2, 3], abs=1e-5)
    raw = trimesh.load(files[0], force="mesh", process=False)
    assert raw.extents == pytest.approx([1, 3, 2] if ending == "glb" else [1, 2, 3], abs=1e-5)  # y up in glTF
    front = MeshPictures(found, (0.0, 0.0, 0.0)).render(camera_at(0.3))
    shown = front[front.sum(-1) > 0.5]
    assert torch.allclose(shown.median(0).values, torch.tensor([200, 100, 50]) / 255, atol=0.01)
    if ending != "obj" and not textured:  # linear in glTF: 255 ((v / 255 + .055) / 1.055)^2.4
        expected = [147, 32, 8] if ending == "glb" else [200, 100, 50]
        assert raw.visual.vertex_colors[0, :3].tolist() == expected
    if ending != "obj":
        name = "_PHOTOS" if ending == "glb" else "photos"
        kept = raw.vertex_attributes[name] if ending == "glb" else raw.metadata["_ply_raw"]["vertex"]["data"][name]
        assert sorted(np.asarray(kept).ravel().tolist()) == counts.tolist()


def test_what_is_no_mesh_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.glb"
    broken.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken\.glb"):
        read_mesh(broken)
