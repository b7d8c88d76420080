"""Equirectangular and fisheye pictures of a splat, against renders that look along the ray of each pixel."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras import camera_paths
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.panorama import HALF_FACE, Panorama, ray_lengths
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.ns.panoramas import panorama_of
from difix3d_ns.ns.patches import camera_paths as patch
from tests.unit.tiny_splat import tiny_model

WIDTH, HEIGHT = 128, 64
FOCAL = WIDTH / 2 / math.pi  # pixels per radian
DISTANCE = 2.0  # of everything from the camera
PLACE = (0.3, -0.2, 0.5)


@pytest.fixture(scope="module")
def splat() -> SplatModel:
    """Smooth colours all around a place, at one distance, without gaps."""
    count = 4000
    model = tiny_model(count)
    steps = torch.arange(count) + 0.5
    height, turn = 1 - 2 * steps / count, steps * math.pi * (1 + 5**0.5)
    across = (1 - height**2).sqrt()
    directions = torch.stack([across * turn.cos(), across * turn.sin(), height], 1)
    model.gauss_params["means"].data = directions * DISTANCE + torch.tensor(PLACE)
    model.gauss_params["scales"].data.fill_(math.log(0.07))
    model.gauss_params["opacities"].data.fill_(2.0)
    model.gauss_params["features_dc"].data = torch.sin(2 * directions + torch.tensor([0.0, 1.0, 2.0]))
    model.gauss_params["features_rest"].data.zero_()
    model.step = 10**6
    del model.optimizers  # as of a finished training
    return model.eval()


def camera_of(kind: CameraType, width: int = WIDTH, height: int = HEIGHT, focal: float = FOCAL) -> Cameras:
    """Camera at the place, turned so that no axis of a face is one of the world's."""
    turned = torch.linalg.qr(torch.tensor([[1.0, 0.4, -0.3], [0.2, 1.0, 0.5], [0.1, -0.6, 1.0]]))[0]
    turned = turned * torch.linalg.det(turned).sign()
    pose = torch.cat([turned, torch.tensor(PLACE)[:, None]], 1)
    fx, fy = (width / 2, float(height)) if kind is CameraType.EQUIRECTANGULAR else (focal, focal)
    return Cameras(pose[None], fx, fy, width / 2, height / 2, width, height, camera_type=kind)


def along_rays(model: SplatModel, camera: Cameras, pixels: list[tuple[int, int]], size: int = 5) -> dict[str, Tensor]:
    """Outputs at pixels (row, column), each from a narrow perspective picture about its ray as nerfstudio has it."""
    rays = camera.generate_rays(camera_indices=0)
    found: dict[str, list[Tensor]] = {"rgb": [], "depth": [], "accumulation": []}
    for row, column in pixels:
        forward = rays.directions[row, column]
        beside = torch.eye(3)[int(forward.abs().argmin())]
        right = torch.nn.functional.normalize(torch.linalg.cross(beside, forward), dim=0)
        pose = torch.eye(4)
        pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
        pose[:3, 3] = rays.origins[row, column]
        intrinsics = torch.tensor([[FOCAL, 0, size / 2], [0, FOCAL, size / 2], [0, 0, 1]])
        outputs = model.get_outputs_for_camera(to_cameras(Pinhole(pose, intrinsics, size, size)))
        for name, values in found.items():
            values.append(outputs[name][size // 2, size // 2])
    return {name: torch.stack(values) for name, values in found.items()}


def borders(camera: Cameras) -> Tensor:  # [H, W] bool
    """Pixels within the blended parts between faces."""
    panorama = panorama_of(camera)
    assert panorama is not None
    rays = panorama.directions().abs().sort(-1).values
    return torch.atan2(rays[..., 1], rays[..., 2]) > math.pi / 2 - HALF_FACE


@pytest.mark.parametrize("kind", [CameraType.EQUIRECTANGULAR, CameraType.FISHEYE])
def test_pixels_are_what_is_seen_along_their_rays(splat: SplatModel, kind: CameraType) -> None:
    camera = camera_of(kind)
    outputs = splat.get_outputs_for_camera(camera)
    assert outputs["rgb"].shape == outputs["background"].shape == (HEIGHT, WIDTH, 3)
    assert outputs["depth"].shape == outputs["accumulation"].shape == (HEIGHT, WIDTH, 1)
    near = borders(camera)
    random = np.random.default_rng(0)
    at_borders = random.permutation(near.nonzero().numpy())[:40].tolist()
    inside = random.permutation((~near).nonzero().numpy())[:40].tolist()
    poles = [(0, 5), (0, 90), (HEIGHT - 1, 40)]
    pixels = [(int(row), int(column)) for row, column in [*at_borders, *inside, *poles]]
    expected = along_rays(splat, camera, pixels)
    errors = torch.stack([outputs["rgb"][pixel] for pixel in pixels]) - expected["rgb"]
    assert errors.abs().max() < 0.04  # perspective pictures differ among themselves by as much
    assert expected["rgb"].std() > 0.15
    assert errors[:40].square().mean().sqrt() < 1.5 * errors[40:80].square().mean().sqrt() + 0.002
    depth = torch.stack([outputs["depth"][pixel] for pixel in pixels])
    apart = depth / DISTANCE - 1  # that of the centres of Gaussians; along z it would fall to 0.58
    assert apart.abs().max() < 0.08
    assert apart.abs().mean() < 0.04
    opacity = torch.stack([outputs["accumulation"][pixel] for pixel in pixels])
    torch.testing.assert_close(opacity, expected["accumulation"], rtol=0, atol=0.03)


def test_rays_are_nerfstudios() -> None:
    for kind in (CameraType.EQUIRECTANGULAR, CameraType.FISHEYE):
        camera = camera_of(kind)
        panorama = panorama_of(camera)
        assert panorama is not None
        rays = panorama.directions() @ panorama.camera_to_world[:3, :3].T
        torch.testing.assert_close(rays, camera.generate_rays(camera_indices=0).directions, atol=2e-6, rtol=0)


def test_a_narrow_fisheye_needs_one_face_and_a_part_of_it() -> None:
    camera = camera_of(CameraType.FISHEYE, 60, 40, focal=100.0)
    panorama = panorama_of(camera)
    assert panorama is not None
    (face,) = panorama.faces()
    assert 60 < face.camera.width < 75
    assert 40 < face.camera.height < 50
    assert float(ray_lengths(face.camera)[face.camera.height // 2, face.camera.width // 2]) < 1.001


def test_blending_keeps_detail() -> None:
    panorama = Panorama("equirectangular", torch.eye(4), 64.0, 64.0, 64.0, 32.0, 128, 64)
    faces = panorama.faces()
    assert len(faces) == 6

    def pattern(rays: Tensor) -> Tensor:  # five pixels to a wave
        return torch.sin(25 * torch.nn.functional.normalize(rays, dim=-1))

    pictures = []
    for face in faces:
        rows, columns = torch.meshgrid(
            torch.arange(face.camera.height) + 0.5, torch.arange(face.camera.width) + 0.5, indexing="ij"
        )
        pixels = torch.stack([columns, rows, torch.ones_like(rows)], -1)
        pictures.append(
            pattern(pixels @ torch.linalg.inv(face.camera.intrinsics).T @ face.camera.camera_to_world[:3, :3].T)
        )
    errors = panorama.blend(faces, pictures) - pattern(panorama.directions())
    assert errors.square().mean().sqrt() < 0.02
    assert errors.abs().max() < 0.15


def test_what_is_too_near_is_left_out_of_all_faces(splat: SplatModel) -> None:
    camera = camera_of(CameraType.EQUIRECTANGULAR)
    before = splat.get_outputs_for_camera(camera)["accumulation"]
    assert before.min() > 0.9
    splat.near_plane = 1.01 * DISTANCE
    try:
        outputs = splat.get_outputs_for_camera(camera)
        splat.near_plane = 0.99 * DISTANCE  # by depth a face would lose its corners
        kept = splat.get_outputs_for_camera(camera)["accumulation"]
    finally:
        splat.near_plane = 0.01
    assert outputs["accumulation"].max() == 0
    torch.testing.assert_close(outputs["rgb"], outputs["background"])
    torch.testing.assert_close(kept, before, atol=1e-4, rtol=0)


def test_enhanced_faces_are_blended_and_each_is_a_sequence(splat: SplatModel) -> None:
    camera = camera_of(CameraType.EQUIRECTANGULAR)
    seen: list[int] = []

    def enhance(face_camera: Cameras, image: Tensor, face: int) -> Tensor:
        assert panorama_of(face_camera) is None
        assert image.shape == (int(face_camera.height), int(face_camera.width), 3)
        seen.append(face)
        return 1 - image

    splat.enhancer = enhance
    try:
        outputs = splat.get_outputs_for_camera(camera)
        assert not seen  # nobody has read it yet
        torch.testing.assert_close(outputs["enhanced"], 1 - outputs["rgb"], atol=2e-5, rtol=0)
    finally:
        splat.enhancer = None
    assert seen == [0, 1, 2, 3, 4, 5]


def path_file(kind: str | None, size: tuple[int, int] = (WIDTH, HEIGHT)) -> dict[str, Any]:
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor(PLACE)
    camera = {"camera_to_world": pose.flatten().tolist(), "fov": 60.0, "aspect": 2.0}
    content = {"render_width": size[0], "render_height": size[1], "seconds": 1, "camera_path": [camera, camera]}
    return content | ({"camera_type": kind} if kind is not None else {})


@pytest.mark.parametrize("kind", ["equirectangular", "Fisheye", None])
def test_a_path_is_rendered_as_it_says(splat: SplatModel, tmp_path: Path, kind: str | None) -> None:
    from nerfstudio.scripts import render

    class Pipeline:
        device, model = "cpu", splat

    cameras = render.get_path_from_json(path_file(kind))
    expected = {"equirectangular": "EQUIRECTANGULAR", "Fisheye": "FISHEYE", None: "PERSPECTIVE"}[kind]
    assert {CameraType(int(value)).name for value in cameras.camera_type} == {expected}
    names = ["rgb", "depth", "accumulation"]
    options: Any = {"output_format": "images", "image_format": "png"}
    render._render_trajectory_video(Pipeline(), cameras, tmp_path / "walk.mp4", names, **options)  # type: ignore[arg-type]
    files = sorted((tmp_path / "walk").iterdir())
    assert len(files) == 2
    picture = np.asarray(Image.open(files[0]))
    assert picture.shape == (HEIGHT, 3 * WIDTH, 3)
    rgb = splat.get_outputs_for_camera(cameras[:1])["rgb"].numpy() * 255
    assert np.abs(picture[:, :WIDTH] - rgb).max() <= 1


def test_a_wide_fisheye_path_shows_its_field_of_view() -> None:
    """nerfstudio takes a pinhole's focal length, which is 0 at 180 degrees."""
    entry = {"camera_to_world": torch.eye(4).flatten().tolist(), "aspect": 1.0}
    path = {"camera_type": "fisheye", "render_height": 90, "render_width": 90}
    fovs = [90.0, 180.0, 220.0]
    cameras = camera_paths.get_path_from_json({**path, "camera_path": [{**entry, "fov": fov} for fov in fovs]})
    assert cameras.fx.flatten().tolist() == pytest.approx([45.0, 90 / math.pi, 90 / math.radians(220)], rel=1e-5)
    panorama = panorama_of(cameras[1:2])
    assert panorama is not None
    edge = panorama.directions()[45, 0]  # the middle of the left rim
    assert math.degrees(math.acos(float(edge[2]))) == pytest.approx(89, abs=0.6)


def test_other_methods_render_stereo_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "_splats", [])
    monkeypatch.setattr(patch, "_get_path_from_json", lambda path: path["camera_type"])
    assert patch._path_from_json({"camera_type": "vr180"}) == "vr180"
    with pytest.raises(UserError, match="orthophoto"):
        patch._path_from_json({"camera_type": "orthophoto"})


@pytest.mark.parametrize("kind", ["omnidirectional", "VR180", "orthophoto", "fisheye624"])
def test_other_camera_types_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "_splats", [])
    patch.expect_splats()
    with pytest.raises(UserError, match=f"camera_type '{kind.lower()}' .*--camera-path-filename to 'equirectangular'"):
        camera_paths.get_path_from_json(path_file(kind))


def test_cameras_of_other_types_are_refused(splat: SplatModel) -> None:
    for kind in (CameraType.VR180_L, CameraType.OMNIDIRECTIONALSTEREO_R, CameraType.ORTHOPHOTO):
        with pytest.raises(UserError, match="cannot be rendered"):
            splat.get_outputs_for_camera(camera_of(kind))
