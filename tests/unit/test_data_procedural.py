"""Procedural scenes: exact geometry, honest datasets, and a wall between demo and training."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from difix3d_ns.data.procedural import (
    demo_scene,
    demo_world,
    photograph_world,
    photographs,
    training_world,
    write_views,
)
from difix3d_ns.data.procedural.dataset import View, structure_points
from difix3d_ns.data.procedural.ray_caster import render, to_photograph
from difix3d_ns.data.procedural.ray_scene import SceneBuilder
from difix3d_ns.data.procedural.sample_pictures import PICTURES, load_picture, picture_names
from difix3d_ns.data.procedural.textures import DEMO_ONLY, SHARED, make_texture
from difix3d_ns.data.procedural.trajectories import arc, look_at, pinhole, views_along
from difix3d_ns.geometry.warp import project, unproject

pytestmark = pytest.mark.slow


def _ball_before_wall():
    b = SceneBuilder(np.random.default_rng(0), "train")
    wall = b.texture("bricks")
    b.quad((-4, 5, 4), (8, 0, 0), (0, 0, -8), wall, metres=1.0)
    b.sphere((0, 3, 0), 0.5, wall)
    b.cylinder((1.2, 3, -1), (1.2, 3, 1), 0.2, wall, capped=False)
    return b.finish(
        light=(0, -1, 1), light_colour=(1, 1, 1), lamp=False, light_size=0.01, ambient=[[0.4] * 3, [0.4] * 3]
    )


@pytest.fixture(scope="module")
def frontal():
    camera = pinhole(look_at(np.zeros(3), np.array([0, 1.0, 0])), 96, 64, 1.0)
    colour, depth = render(_ball_before_wall(), camera)
    return camera, colour, depth


def test_depth_is_exact(frontal):
    camera, _, depth = frontal
    assert depth[5, 5, 0] == pytest.approx(5.0, abs=1e-5)  # the wall: z-depth, not distance
    focal = float(camera.intrinsics[0, 0])
    ray = np.array([0.5 / focal, 0.5 / focal, 1.0])  # through the centre of pixel (48, 32)
    a, b, c = ray @ ray, -2 * 3.0, 9 - 0.25
    assert depth[32, 48, 0] == pytest.approx((-b - math.sqrt(b * b - 4 * a * c)) / (2 * a), abs=1e-4)
    column = round(48 + 1.2 / 2.8 * focal)
    assert depth[32, column, 0] == pytest.approx(2.8, abs=0.02)  # the cylinder's front


def test_every_ray_agrees_with_brute_force(frontal):
    """The hierarchy must not lose primitives: the unprojected surface lies on one of the three shapes."""
    camera, _, depth = frontal
    p = unproject(depth.double(), camera).reshape(-1, 3)
    wall = (p[:, 1] - 5).abs()
    ball = ((p - torch.tensor([0.0, 3, 0])).norm(dim=1) - 0.5).abs()
    tube = ((p[:, :2] - torch.tensor([1.2, 3])).norm(dim=1) - 0.2).abs()
    assert torch.stack([wall, ball, tube]).min(0).values.max() < 1e-3
    assert (ball < 1e-3).any()
    assert (tube < 1e-3).any()


def test_two_views_agree_where_both_see_the_surface():
    world = training_world(3)
    first = pinhole(world.path.pose(0.4), 96, 64, world.field_of_view)
    second = pinhole(world.path.pose(0.5), 96, 64, world.field_of_view)
    (a, depth_a), (b, depth_b) = (render(world.scene, c) for c in (first, second))
    pixels, z = project(unproject(depth_a, first), second)
    u, v = pixels[..., 0].long(), pixels[..., 1].long()
    seen = (depth_a[..., 0] > 0) & (u >= 0) & (u < 96) & (v >= 0) & (v < 64)
    there = depth_b[v[seen], u[seen], 0]
    visible = (there / z[seen] - 1).abs() < 0.01
    assert visible.float().mean() > 0.5
    difference = (a[seen][visible] - b[v[seen], u[seen]][visible]).abs().mean()
    shuffled = (a[seen][visible] - b[v[seen], u[seen]][visible].flip(0)).abs().mean()
    assert difference < 0.5 * shuffled


def test_sky_has_no_depth():
    b = SceneBuilder(np.random.default_rng(0), "train")
    b.quad((-1, 2, 0), (2, 0, 0), (0, 0, -2), b.texture("paint"))
    scene = b.finish(light=(0, -1, 1), light_colour=(1, 1, 1), lamp=False, light_size=0.01, ambient=[[1] * 3, [1] * 3])
    colour, depth = render(scene, pinhole(look_at(np.zeros(3), np.array([0, 1.0, 0])), 32, 32, 1.2))
    assert (depth[:15] == 0).all()
    assert (depth[18:, 10:22] > 0).all()
    assert (colour[:15] > 0).all()


def test_photograph_curve_is_monotonic_and_bounded():
    light = torch.linspace(0, 20, 500)[:, None, None].expand(-1, 1, 3)
    photo = to_photograph(light)
    assert (photo.diff(dim=0) >= 0).all()
    assert photo.min() == 0
    assert photo.max() <= 1
    assert to_photograph(torch.full((1, 1, 3), 0.2))[0, 0, 0] == pytest.approx(0.4845, abs=1e-3)  # the sRGB curve


def test_views_lie_between_and_beyond():
    path = arc((0, 0, 0), 2.0, 0.0, 1.0, 0.5)
    views = views_along(path, 5, 10, np.random.default_rng(0), 0.01)
    assert [t for _, t in views].count(True) == 5
    assert len(views) == 15
    azimuth = [math.atan2(pose[1, 3], pose[0, 3]) for pose, _ in views]
    training = [a for a, (_, t) in zip(azimuth, views, strict=True) if t]
    held_out = [a for a, (_, t) in zip(azimuth, views, strict=True) if not t]
    assert min(held_out) < min(training) - 0.05
    assert max(held_out) > max(training) + 0.05
    assert min(min(abs(h - t) for t in training) for h in held_out) > 0.04  # never on a training view
    for pose, _ in views:
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)


@pytest.fixture(scope="module")
def small_views() -> list[View]:
    return photograph_world(
        training_world(3), np.random.default_rng(0), width=96, height=64, train_views=4, test_views=3, label=None
    )


def test_dataset_round_trip(small_views, tmp_path):
    write_views(small_views, tmp_path, np.random.default_rng(0), points=300, image_format="png", depths=True)
    transforms = json.loads((tmp_path / "transforms.json").read_text())
    assert len(transforms["frames"]) == len(small_views)
    assert len(transforms["train_filenames"]) == sum(v.training for v in small_views)
    assert not set(transforms["train_filenames"]) & set(transforms["test_filenames"])
    for frame, view in zip(transforms["frames"], small_views, strict=True):
        with Image.open(tmp_path / frame["file_path"]) as image:
            assert image.size == (frame["w"], frame["h"]) == (96, 64)
            np.testing.assert_allclose(np.asarray(image) / 255, view.image.numpy(), atol=0.003)
        opengl = np.array(frame["transform_matrix"])
        np.testing.assert_allclose(-opengl[:3, 2], view.camera.forward.numpy(), atol=1e-6)  # OpenGL looks along -z
        depth = np.load(tmp_path / "depths" / f"{frame['file_path'][7:-4]}.npy")
        np.testing.assert_array_equal(depth, view.depth[..., 0].numpy())
    vertex = PlyData.read(str(tmp_path / "sparse_pc.ply"))["vertex"]
    assert {p.name for p in vertex.properties} == {"x", "y", "z", "red", "green", "blue"}
    assert 50 < vertex.count <= 300


def test_points_lie_on_surfaces_that_two_training_views_see(small_views):
    xyz, rgb = structure_points(small_views, np.random.default_rng(0), 300)
    points = torch.from_numpy(xyz)
    seen = torch.zeros(len(points), dtype=torch.long)
    for view in small_views:
        if not view.training:
            continue
        pixels, z = project(points, view.camera)
        u, v = pixels[:, 0].long(), pixels[:, 1].long()
        inside = (z > 0) & (u >= 0) & (u < 96) & (v >= 0) & (v < 64)
        there = view.depth[v.clamp(0, 63), u.clamp(0, 95), 0]
        seen += inside & ((there / z - 1).abs() < 0.06)
    assert (seen >= 2).float().mean() > 0.8  # the rest is noise, as it should be
    assert rgb.dtype == np.uint8


def test_too_few_training_views_is_an_error(small_views, tmp_path):
    with pytest.raises(ValueError, match="at least 2 training views"):
        write_views([v for v in small_views if not v.training], tmp_path, np.random.default_rng(0))


def test_training_never_uses_what_the_demo_shows():
    for kind in DEMO_ONLY:
        with pytest.raises(ValueError, match="reserved"):
            make_texture(kind, np.random.default_rng(0), "train")
    for name in picture_names("demo"):
        with pytest.raises(ValueError, match="reserved"):
            load_picture(name, "train")
    assert not set(picture_names("demo")) & set(picture_names("train"))
    training = {t.tobytes() for seed in (0, 4) for t in training_world(seed).scene.textures}
    demo = {t.tobytes() for seed in (0, 1) for t in demo_world(seed).scene.textures}
    assert not training & demo
    assert training_world(7).scene.split == "train"


def test_training_worlds_open_no_reserved_picture(monkeypatch):
    opened = []
    monkeypatch.setattr(
        "difix3d_ns.data.procedural.textures.load_picture",
        lambda name, split: opened.append(name) or load_picture(name, split),
    )
    for seed in (1, 2, 3, 8):
        training_world(seed)
    assert opened
    assert all(PICTURES[name][2] == "train" for name in opened)


def test_seeds_repeat_and_differ():
    first, again, other = (training_world(s).scene for s in (4, 4, 9))  # 4 and 9 are of one kind
    np.testing.assert_array_equal(first.shapes, again.shapes)
    np.testing.assert_array_equal(first.textures, again.textures)
    assert first.shapes.shape != other.shapes.shape or not np.array_equal(first.shapes, other.shapes)


@pytest.mark.parametrize("kind", [*SHARED, *DEMO_ONLY])
def test_textures_are_pictures_with_contrast_where_expected(kind):
    texture = make_texture(kind, np.random.default_rng(1), "demo")
    assert texture.shape == (512, 512, 3)
    assert texture.dtype == np.uint8
    assert texture.std() > (1 if kind == "paint" else 8)
    assert 5 < texture.mean() < 250


def test_unknown_texture_is_named():
    with pytest.raises(ValueError, match="no texture 'velvet'"):
        make_texture("velvet", np.random.default_rng(0), "train")


def test_credits_name_every_picture():
    from pathlib import Path

    credits = (Path(__file__).parents[2] / "docs" / "credits.md").read_text()
    for name, (_, file, _, licence) in PICTURES.items():
        assert Path(file).name in credits, name
        assert licence.partition(",")[2].strip().split("/")[0] in credits, name


def test_demo_scene_is_a_dataset_and_photographs_are_a_folder(tmp_path):
    demo_scene(tmp_path / "demo", width=96, height=64, train_views=4, test_views=5)
    transforms = json.loads((tmp_path / "demo/transforms.json").read_text())
    assert (len(transforms["train_filenames"]), len(transforms["test_filenames"])) == (4, 5)
    photographs(tmp_path / "photos", count=3, width=96, height=64)
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == [f"IMG_000{i}.jpg" for i in (1, 2, 3)]
    with Image.open(tmp_path / "photos/IMG_0001.jpg") as photo:
        assert not photo.getexif()
        assert np.asarray(photo).std() > 30
    with pytest.raises(ValueError, match="at least 3 photos"):
        photographs(tmp_path / "none", count=2)
