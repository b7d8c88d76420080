"""Panoramas and fisheye pictures from perspective faces, and camera paths of nerfstudio that ask for them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.panorama import Panorama
from difix3d_ns.io.images import read_stored
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.ns.panoramas import panorama_of
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import write_scene
from tests.unit.tiny_splat import tiny_model

Kind = Literal["equirectangular", "fisheye"]
SIZES: dict[Kind, tuple[int, int]] = {"equirectangular": (160, 80), "fisheye": (96, 96)}


def _camera(kind: Kind, fov: float = 170.0) -> Cameras:
    """As nerfstudio makes it of a camera path; from the middle of a tiny splat."""
    width, height = SIZES[kind]
    focal = height / 2 if kind == "equirectangular" else height / 2 / math.radians(fov / 2)
    fx = width / 2 if kind == "equirectangular" else focal
    pose = torch.eye(4)[:3]
    pose[:, 3] = torch.tensor([0.05, -0.1, 0.1])
    return Cameras(pose[None], fx, focal, width / 2, height / 2, width, height, camera_type=CameraType[kind.upper()])


def _colours(rays: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.4 * torch.sin(torch.stack([5 * rays[..., 0], 4 * rays[..., 1] + 1, 6 * rays[..., 2]], -1))


@pytest.mark.parametrize("kind", SIZES)
def test_rays_are_those_of_nerfstudio(kind: Kind) -> None:
    camera = _camera(kind)
    panorama = panorama_of(camera)
    assert panorama is not None
    rays = camera.generate_rays(camera_indices=0).directions
    ours = panorama.directions() @ panorama.camera_to_world[:3, :3].T
    inside = torch.ones(rays.shape[:2], dtype=torch.bool)
    if kind == "fisheye":  # nerfstudio's end at 180 degrees
        grid = torch.meshgrid(*(torch.arange(s) + 0.5 - s / 2 for s in SIZES[kind][::-1]), indexing="ij")
        inside = torch.hypot(*grid) / float(camera.fx) < math.radians(89)
    assert (ours - rays).abs()[inside].max() < 1e-4


@pytest.mark.parametrize("kind", SIZES)
def test_faces_show_everything_without_a_seam(kind: Kind) -> None:
    panorama = panorama_of(_camera(kind))
    assert panorama is not None
    faces = panorama.faces()
    pictures = []
    for face in faces:
        camera = face.camera
        rows, columns = torch.meshgrid(
            torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij"
        )
        local = torch.stack([columns, rows, torch.ones_like(rows)], -1) @ camera.intrinsics.inverse().T
        rays = torch.nn.functional.normalize(local @ camera.camera_to_world[:3, :3].T, dim=-1)
        pictures.append(_colours(rays))
    blended = panorama.blend(faces, pictures)
    exact = _colours(panorama.directions() @ panorama.camera_to_world[:3, :3].T)
    assert (blended - exact).abs().max() < 0.01  # at the faces' borders and the poles as inside


def _single(model: SplatModel, panorama: Panorama, ray: torch.Tensor) -> torch.Tensor:
    """The colour [3] along a ray of a panorama, by a perspective camera that looks along it."""
    forward = torch.nn.functional.normalize(panorama.camera_to_world[:3, :3] @ ray, dim=0)
    up = torch.tensor([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.9 else torch.tensor([1.0, 0.0, 0.0])
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
    pose = torch.stack([right, torch.linalg.cross(right, forward), -forward, panorama.camera_to_world[:3, 3]], 1)
    focal = panorama.height / math.pi if panorama.kind == "equirectangular" else panorama.fx
    camera = Cameras(pose[None], focal, focal, 4.5, 4.5, 9, 9, camera_type=CameraType.PERSPECTIVE)
    return model.get_outputs_for_camera(camera)["rgb"][4, 4]


@pytest.mark.parametrize("kind", SIZES)
@torch.no_grad()
def test_a_splat_is_rendered_as_it_is_seen_along_each_ray(kind: Kind) -> None:
    model = tiny_model(400, background_color="black").eval()
    means = model.gauss_params["means"]
    means.data = 2 * torch.nn.functional.normalize(means.data, dim=-1) + 0.3 * means.data  # all around
    model.gauss_params["scales"].data[:] = math.log(0.06)
    model.gauss_params["opacities"].data[:] = 1.0
    camera = _camera(kind)
    outputs = model.get_outputs_for_camera(camera)
    width, height = SIZES[kind]
    assert {key: tuple(outputs[key].shape) for key in ("rgb", "depth", "accumulation")} == {
        "rgb": (height, width, 3),
        "depth": (height, width, 1),
        "accumulation": (height, width, 1),
    }
    panorama = panorama_of(camera)
    assert panorama is not None
    directions = panorama.directions()
    places = np.random.default_rng(0).integers(4, min(SIZES[kind]) - 4, (40, 2))
    errors = [
        float((outputs["rgb"][row, column] - _single(model, panorama, directions[row, column])).abs().max())
        for row, column in places.tolist()
    ]
    assert float(outputs["accumulation"].mean()) > 0.1
    assert np.median(errors) < 0.02 and np.mean(errors) < 0.04, sorted(errors)


@torch.no_grad()
def test_the_enhanced_picture_is_made_of_enhanced_faces() -> None:
    model = tiny_model(40).eval()
    del model.optimizers  # training is over
    asked = []

    def negative(camera: Cameras, image: torch.Tensor, face: Any = None) -> torch.Tensor:
        asked.append(face)
        assert int(camera.camera_type) == CameraType.PERSPECTIVE.value
        return 1 - image

    model.enhancer = negative
    outputs = model.get_outputs_for_camera(_camera("equirectangular"))
    assert asked == []  # nobody has read it
    assert (outputs["enhanced"] - (1 - outputs["rgb"])).abs().max() < 0.02
    assert asked == list(range(6))


def _path(camera_type: str, **more: Any) -> dict[str, Any]:
    pose = torch.eye(4)
    pose[2, 3] = 0.2
    key = {"camera_to_world": pose.flatten().tolist(), "fov": 90.0, "aspect": 2.0}
    return {
        "camera_type": camera_type,
        "render_height": 40,
        "render_width": 80,
        "fps": 2,
        "seconds": 1,
        "camera_path": [key, key],
        **more,
    }


@pytest.mark.parametrize("camera_type", ["vr180", "omnidirectional", "VR180", "orthophoto", "panorama"])
def test_other_camera_types_are_refused(camera_type: str) -> None:
    from nerfstudio.cameras import camera_paths

    with pytest.raises(UserError, match=r"cannot be rendered.*'equirectangular'"):
        camera_paths.get_path_from_json(_path(camera_type))
    known = camera_paths.get_path_from_json(_path("Equirectangular"))
    assert int(known.camera_type[0]) == CameraType.EQUIRECTANGULAR.value


@pytest.mark.slow
def test_a_360_degree_path_is_rendered_from_a_file(tmp_path: Path) -> None:
    import json
    import shutil

    from nerfstudio.scripts.render import RenderCameraPath

    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is missing: apt-get install ffmpeg")
    config = short_config(write_scene(tmp_path / "scene", count=3), steps=2)
    pipeline = train(config).pipeline
    file = tmp_path / "path.json"
    file.write_text(json.dumps(_path("equirectangular")))
    RenderCameraPath(
        config.get_base_dir() / "config.yml",
        camera_path_filename=file,
        output_path=tmp_path / "frames",
        output_format="images",
        image_format="png",
    ).main()
    frames = sorted((tmp_path / "frames").glob("*.png"))
    assert len(frames) == 2
    from nerfstudio.cameras import camera_paths

    pipeline.eval()
    with torch.no_grad():
        camera = camera_paths.get_path_from_json(_path("equirectangular"))[:1]
        expected = pipeline.model.get_outputs_for_camera(camera)["rgb"].numpy()
    assert np.abs(read_stored(frames[0]) / 255 - expected).max() < 1.01 / 255
