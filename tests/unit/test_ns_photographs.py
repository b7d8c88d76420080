"""Photographs as references: cameras, masks and pictures after undistortion, at optimised poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image
from scipy.spatial.transform import Rotation

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.ns.cameras import to_cameras, to_pinhole
from difix3d_ns.ns.datamanager import SceneDatamanager
from difix3d_ns.ns.reference_views import MAX_PLANE_BYTES, ReferenceViews
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.views.protocols import Render
from difix3d_ns.views.references import choose_references
from tests.stand_ins import FlatRenderer, ModelOfScene
from tests.unit.tiny_scene import datamanager, write_scene

STRONG = {"k1": -0.35, "k2": 0.12, "p1": 0.01, "p2": -0.02}


class _Views:
    """A scene's photographs as references, and what they are made of."""

    def __init__(self, manager: SceneDatamanager, mode: str = "off", nearest: int = 32) -> None:
        self.model = ModelOfScene(len(manager.train_dataset), mode)
        self.scene = TrainingScene(manager, self.model)
        self.renderer = FlatRenderer()
        self.references = ReferenceViews(self.scene, self.renderer, nearest=nearest)

    def all(self) -> list[PosedImage]:
        self.references.prepare(self.scene.cameras(), 1000)
        return [self.references.view(index) for index in range(len(self.scene.cameras()))]

    def select(self, camera: Pinhole, count: int) -> list[int]:
        return self.references.select(camera, RENDER, count)


RENDER = Render(torch.full((30, 40, 3), 0.5), torch.ones(30, 40, 1), torch.full((30, 40, 1), 2.0))


@pytest.mark.parametrize("seed", range(5))
def test_cameras_to_pinhole_and_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    pose = torch.eye(4)
    pose[:3, :3] = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    pose[:3, 3] = torch.from_numpy(random.normal(0, 3, 3))
    k = torch.tensor([[50.5, 0, 11.25], [0, 61.5, 40.75], [0, 0, 1]])
    pinhole = Pinhole(pose, k, 64, 48)
    cameras = to_cameras(pinhole)
    assert cameras.shape == (1,) and (cameras.metadata is None or "cam_idx" not in cameras.metadata)
    back = to_pinhole(cameras)
    assert torch.allclose(back.camera_to_world, pose, atol=1e-6)
    assert torch.equal(back.intrinsics, k)
    assert (back.width, back.height) == (64, 48)


@pytest.mark.parametrize("seed", range(3))
def test_a_point_falls_on_the_pixel_nerfstudio_shoots_it_through(seed: int) -> None:
    random = np.random.default_rng(seed)
    pose = torch.eye(4)[:3]
    pose[:, :3] = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    pose[:, 3] = torch.from_numpy(random.normal(0, 1, 3))
    camera = Cameras(pose[None], 40.0, 42.0, 13.5, 19.25, 32, 24, camera_type=CameraType.PERSPECTIVE)
    row, column = 5, 21
    rays = camera.generate_rays(camera_indices=0, coords=torch.tensor([row + 0.5, column + 0.5]))
    point = rays.origins + 2.5 * rays.directions
    pinhole = to_pinhole(camera)
    seen = pinhole.intrinsics @ (pinhole.world_to_camera[:3, :3] @ point + pinhole.world_to_camera[:3, 3])
    assert seen[2] > 0
    assert torch.allclose(seen[:2] / seen[2], torch.tensor([column + 0.5, row + 0.5]), atol=1e-3)


def test_a_single_camera_without_batch_dimension() -> None:
    camera = Cameras(torch.eye(4)[None, :3], 40.0, 42.0, 13.5, 19.25, 32, 24)
    assert torch.equal(to_pinhole(camera[0]).intrinsics, to_pinhole(camera).intrinsics)


def test_strong_distortion_is_undone(tmp_path: Path) -> None:
    size = (120, 90)
    manager = datamanager(write_scene(tmp_path / "scene", size=size, **STRONG))
    before = manager.train_dataset.lenses.get_intrinsics_matrices().clone()
    views = _Views(manager)
    for index, reference in enumerate(views.all()):
        original = np.array(Image.open(manager.train_dataset.image_filenames[index]))
        k = before[index].double().numpy()
        k[:2, 2] -= 0.5
        coefficients = np.array([STRONG["k1"], STRONG["k2"], STRONG["p1"], STRONG["p2"], 0.0])
        new, (x, y, w, h) = cv2.getOptimalNewCameraMatrix(k, coefficients, size, 0)
        truth = cv2.undistort(original, k, coefficients, None, new)[y : y + h, x : x + w]
        expected = new.copy()
        expected[0, 2] += 0.5 - x
        expected[1, 2] += 0.5 - y
        assert (reference.camera.width, reference.camera.height) == (w, h)
        assert torch.allclose(reference.camera.intrinsics, torch.from_numpy(expected).float(), atol=1e-3)
        assert not torch.allclose(reference.camera.intrinsics, before[index], atol=0.5)
        assert reference.image.shape == (h, w, 3)
        assert (reference.image * 255 - torch.from_numpy(truth)).abs().max() < 1.01
        seen = views.renderer.rendered[index]
        assert torch.equal(seen.intrinsics, reference.pose.intrinsics)
        assert (seen.width, seen.height) == (w, h)


def test_fisheye_is_undone(tmp_path: Path) -> None:
    scene = write_scene(
        tmp_path / "scene", size=(120, 90), camera_model="OPENCV_FISHEYE", k1=0.08, k2=-0.02, k3=0.01, k4=-0.002
    )
    manager = datamanager(scene)
    before = manager.train_dataset.lenses.get_intrinsics_matrices().clone()
    views = _Views(manager)
    references, cameras = views.all(), views.scene.cameras()
    for index, reference in enumerate(references):
        k = before[index].double().numpy()
        k[:2, 2] -= 0.5
        new = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
            k, np.array([0.08, -0.02, 0.01, -0.002]), (120, 90), np.eye(3), balance=0
        )
        new[:2, 2] += 0.5
        assert torch.allclose(reference.camera.intrinsics, torch.from_numpy(new).float(), atol=1e-2)
        assert not torch.allclose(reference.camera.intrinsics, before[index], atol=0.5)
        assert torch.equal(cameras[index].intrinsics, reference.camera.intrinsics)
        assert reference.image.shape == (90, 120, 3)


def test_cameras_alone_are_undistorted_too(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", size=(120, 90), **STRONG))
    before = manager.train_dataset.lenses.get_intrinsics_matrices().clone()
    camera = _Views(manager).scene.cameras()[0]
    assert not torch.allclose(camera.intrinsics, before[0], atol=0.5)
    training, _ = manager.next_train(0)
    index = training.metadata["cam_idx"]
    assert torch.allclose(_Views(manager).scene.cameras()[index].intrinsics, to_pinhole(training).intrinsics)


@pytest.mark.parametrize("distortion", [{}, STRONG])
def test_masks_are_those_of_the_cache(tmp_path: Path, distortion: dict[str, Any]) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", size=(120, 90), masks=True, **distortion))
    for reference in _Views(manager).all():
        assert reference.mask is not None
        assert reference.mask.shape == (*reference.image.shape[:2], 1)
        assert reference.mask.dtype == torch.float32
        width = reference.mask.shape[1]
        assert reference.mask[:, : width // 2 - 4].max() == 0 and reference.mask[:, width // 2 + 4 :].min() == 1


def test_pictures_without_masks_have_none(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    assert all(reference.mask is None for reference in _Views(manager).all())


def test_alpha_becomes_a_mask(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", mode="RGBA"))
    views = _Views(manager)
    model, reference = views.model, views.references.view(0)
    rgba = manager.cached_train[0]["image"].float() / 255
    assert reference.mask is not None and torch.allclose(reference.mask, rgba[..., 3:])
    assert torch.allclose(reference.image, model.composite_with_background(rgba, model.background_color))


def test_portrait_and_landscape(tmp_path: Path) -> None:
    sizes = [(60, 40), (40, 60), (50, 50), (60, 40), (60, 40), (40, 60)]
    manager = datamanager(write_scene(tmp_path / "scene", size=(60, 40), sizes=sizes))
    references = _Views(manager).all()
    shapes = [(r.pose.width, r.pose.height) for r in references]
    assert shapes == [sizes[i] for i in (0, 1, 2, 3, 5)]
    for reference in references:
        assert reference.image.shape == (reference.camera.height, reference.camera.width, 3)
        assert reference.depth is not None and reference.depth.shape[:2] == reference.image.shape[:2]
        assert reference.camera.intrinsics[0, 2] == pytest.approx(reference.camera.width / 2 + 1.25)


def test_poses_are_the_optimised_ones(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    views = _Views(manager, mode="SO3xR3")
    scene, model = views.scene, views.model
    plain = [camera.camera_to_world for camera in _Views(manager).scene.cameras()]
    assert all(torch.allclose(a.camera_to_world, b, atol=1e-6) for a, b in zip(scene.cameras(), plain, strict=True))
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[2] = torch.tensor([0.1, -0.2, 0.3, 0.02, 0.0, 0.0])
    moved = scene.cameras()
    assert torch.allclose(moved[2].position, plain[2][:3, 3] + torch.tensor([0.1, -0.2, 0.3]), atol=1e-6)
    assert torch.linalg.norm(moved[2].forward - plain[2][:3, 2]) > 1e-3
    assert torch.allclose(moved[1].camera_to_world, plain[1], atol=1e-6)
    assert torch.allclose(views.references.view(2).pose.camera_to_world, moved[2].camera_to_world)
    camera = manager.train_cameras[2:3]
    camera.metadata = {"cam_idx": 2}
    trained = model.camera_optimizer.apply_to_camera(camera)[0]
    assert torch.allclose(moved[2].position, trained[:, 3]) and not moved[2].camera_to_world.requires_grad


def test_the_splat_is_rendered_again_when_outdated(tmp_path: Path) -> None:
    views = _Views(datamanager(write_scene(tmp_path / "scene")))
    for step, rendered in ((0, 5), (150, 5), (500, 10), (10, 15)):  # the last: a resumed or another training
        views.renderer.step = step
        views.all()
        assert len(views.renderer.rendered) == rendered
    views.references.forget()
    views.all()
    assert len(views.renderer.rendered) == 20


def test_rendering_is_spread_over_steps(tmp_path: Path) -> None:
    views = _Views(datamanager(write_scene(tmp_path / "scene", count=9)))
    cameras = views.scene.cameras()[:2]
    counts = []
    while not views.references.prepare(cameras, budget=3):
        counts.append(len(views.renderer.rendered))
    assert counts == [3, 6, 8]
    assert len(views.select(cameras[0], 3)) == 3
    assert len(views.renderer.rendered) == 8


def test_only_near_photographs_are_rendered(tmp_path: Path) -> None:
    views = _Views(datamanager(write_scene(tmp_path / "scene", count=9)), nearest=4)
    cameras = views.scene.cameras()
    assert sorted(views.select(cameras[6], 8)) == [4, 5, 6, 7]
    rendered = {tuple(camera.position.tolist()) for camera in views.renderer.rendered}
    assert rendered == {tuple(camera.position.tolist()) for camera in cameras[4:]}


def test_no_references_need_no_rendering(tmp_path: Path) -> None:
    views = _Views(datamanager(write_scene(tmp_path / "scene")))
    assert views.select(views.scene.cameras()[0], 0) == []
    assert views.renderer.rendered == []


def _bytes_held(references: ReferenceViews) -> int:
    kept = [*references._seen.values(), *references._planes.values()]
    values = [getattr(views, name) for views in kept for name in ("depth", "alpha", "mask") if hasattr(views, name)]
    return sum(value.untyped_storage().nbytes() for value in values if value is not None)


def test_pictures_are_held_once_and_planes_in_half_precision(tmp_path: Path) -> None:
    """Beyond the 8-bit cache, which training needs anyway, four bytes a pixel, and the same thinned."""
    manager = datamanager(write_scene(tmp_path / "scene"))
    views = _Views(manager)
    for camera in views.scene.cameras():
        views.select(camera, 3)
    assert manager.cached_train[0]["image"].dtype == torch.uint8
    assert sum(planes.nbytes for planes in views.references._planes.values()) == 5 * 40 * 30 * 4
    assert _bytes_held(views.references) == 2 * 5 * 40 * 30 * 4


class _LargeRenderer(FlatRenderer):
    """A slanted plane seen by 0.3 megapixels, whatever the camera's size."""

    DEPTH = torch.linspace(1.5, 2.5, 640)[None, :, None].expand(480, 640, 1)
    ALPHA = torch.ones(1, 1, 1).expand(480, 640, 1)

    def median_depth(self, camera: Pinhole) -> tuple[torch.Tensor, torch.Tensor]:
        self.rendered.append(camera)
        return self.DEPTH, self.ALPHA


class _ManyPhotographs(TrainingScene):
    """300 photographs at the poses of a few."""

    def cameras(self) -> list[Pinhole]:
        few = super().cameras()
        return [few[index % len(few)] for index in range(300)]

    def camera(self, index: int) -> Pinhole:
        return super().camera(index % len(self))

    def mask(self, index: int) -> torch.Tensor | None:
        return None

    def photo(self, index: int) -> PosedImage:
        return super().photo(index % len(self))


def test_planes_of_many_large_photographs_are_bounded(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    scene, renderer = _ManyPhotographs(manager, ModelOfScene(len(manager.train_dataset))), _LargeRenderer()
    references = ReferenceViews(scene, renderer, nearest=1000)
    cameras = scene.cameras()
    references.prepare(cameras[:1], 1000)
    size = 480 * 640 * 4
    assert len(renderer.rendered) == 300 and 300 * size > MAX_PLANE_BYTES
    assert len(references._planes) == MAX_PLANE_BYTES // size
    assert _bytes_held(references) < MAX_PLANE_BYTES + 300 * 100_000
    depth, alpha = renderer.DEPTH.half(), renderer.ALPHA.half()
    whole = [PosedImage(torch.zeros(1), camera, depth, alpha) for camera in cameras]
    for camera in cameras[:3]:
        assert references.select(camera, RENDER, 3) == choose_references(camera, RENDER.depth, RENDER.alpha, whole, 3)
    rendered = len(renderer.rendered)
    kept = next(iter(references._planes))  # the next to go, were it not used
    for index in (kept, 0, kept, 1, kept):
        assert torch.equal(references.view(index).depth, depth.float())
    assert len(renderer.rendered) == rendered + 2 and len(references._planes) == MAX_PLANE_BYTES // size


def test_the_dataset_is_left_as_it_is(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    before = manager.cached_train[0]["image"].clone()
    _Views(manager, mode="SO3xR3").references.view(0).image.zero_()
    assert torch.equal(manager.cached_train[0]["image"], before)
