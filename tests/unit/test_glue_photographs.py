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
from difix3d_ns.ns.datamanager import SceneDatamanager
from difix3d_ns.ns.reference_views import ReferenceViews, to_cameras, to_pinhole
from tests.stand_ins import FlatSplat
from tests.unit.tiny_scene import datamanager, write_scene

STRONG = {"k1": -0.35, "k2": 0.12, "p1": 0.01, "p2": -0.02}


def _photographs(manager: SceneDatamanager, mode: str = "off") -> tuple[ReferenceViews, FlatSplat]:
    model = FlatSplat(len(manager.train_dataset), mode)
    return ReferenceViews(manager, model), model  # type: ignore[arg-type]


def _all(photographs: ReferenceViews) -> list[PosedImage]:
    photographs.prepare(photographs.cameras(), 1000)
    return [photographs.reference(index) for index in range(len(photographs.cameras()))]


@pytest.mark.parametrize("seed", range(5))
def test_cameras_to_pinhole_and_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    pose = torch.eye(4)
    pose[:3, :3] = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    pose[:3, 3] = torch.from_numpy(random.normal(0, 3, 3))
    k = torch.tensor([[50.5, 0, 11.25], [0, 61.5, 40.75], [0, 0, 1]])
    pinhole = Pinhole(pose, k, 64, 48)
    cameras = to_cameras(pinhole, "cpu")
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
    before = manager.train_dataset.cameras.get_intrinsics_matrices().clone()
    photographs, model = _photographs(manager)
    references = _all(photographs)
    for index, reference in enumerate(references):
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
        assert torch.equal(model.rendered[index][1], reference.camera.intrinsics)
        assert model.rendered[index][2:] == (w, h)


def test_fisheye_is_undone(tmp_path: Path) -> None:
    scene = write_scene(
        tmp_path / "scene", size=(120, 90), camera_model="OPENCV_FISHEYE", k1=0.08, k2=-0.02, k3=0.01, k4=-0.002
    )
    manager = datamanager(scene)
    before = manager.train_dataset.cameras.get_intrinsics_matrices().clone()
    photographs, _ = _photographs(manager)
    references = _all(photographs)
    cameras = photographs.cameras()
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
    before = manager.train_dataset.cameras.get_intrinsics_matrices().clone()
    camera = _photographs(manager)[0].cameras()[0]
    assert not torch.allclose(camera.intrinsics, before[0], atol=0.5)
    training, _ = manager.next_train(0)
    index = training.metadata["cam_idx"]
    assert torch.allclose(_photographs(manager)[0].cameras()[index].intrinsics, to_pinhole(training).intrinsics)


@pytest.mark.parametrize("distortion", [{}, STRONG])
def test_masks_are_those_of_the_cache(tmp_path: Path, distortion: dict[str, Any]) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", size=(120, 90), masks=True, **distortion))
    for reference in _all(_photographs(manager)[0]):
        assert reference.mask is not None
        assert reference.mask.shape == (*reference.image.shape[:2], 1)
        assert reference.mask.dtype == torch.float32
        width = reference.mask.shape[1]
        assert reference.mask[:, : width // 2 - 4].max() == 0 and reference.mask[:, width // 2 + 4 :].min() == 1


def test_pictures_without_masks_have_none(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    assert all(reference.mask is None for reference in _all(_photographs(manager)[0]))


def test_alpha_becomes_a_mask(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", mode="RGBA"))
    photographs, model = _photographs(manager)
    reference = photographs.reference(0)
    rgba = manager.cached_train[0]["image"].float() / 255
    assert reference.mask is not None and torch.allclose(reference.mask, rgba[..., 3:])
    assert torch.allclose(reference.image, model.composite_with_background(rgba, model.background_color))


def test_portrait_and_landscape(tmp_path: Path) -> None:
    sizes = [(60, 40), (40, 60), (50, 50), (60, 40), (60, 40), (40, 60)]
    manager = datamanager(write_scene(tmp_path / "scene", size=(60, 40), sizes=sizes))
    photographs, _ = _photographs(manager)
    shapes = [(r.camera.width, r.camera.height) for r in _all(photographs)]
    assert shapes == [sizes[i] for i in (0, 1, 2, 3, 5)]
    for reference in _all(photographs):
        assert reference.image.shape == (reference.camera.height, reference.camera.width, 3)
        assert reference.depth is not None and reference.depth.shape[:2] == reference.image.shape[:2]
        assert reference.camera.intrinsics[0, 2] == pytest.approx(reference.camera.width / 2 + 1.25)


def test_poses_are_the_optimised_ones(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    photographs, model = _photographs(manager, mode="SO3xR3")
    plain = [camera.camera_to_world for camera in _photographs(manager)[0].cameras()]
    assert all(
        torch.allclose(a.camera_to_world, b, atol=1e-6) for a, b in zip(photographs.cameras(), plain, strict=True)
    )
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[2] = torch.tensor([0.1, -0.2, 0.3, 0.02, 0.0, 0.0])
    moved = photographs.cameras()
    assert torch.allclose(moved[2].position, plain[2][:3, 3] + torch.tensor([0.1, -0.2, 0.3]), atol=1e-6)
    assert torch.linalg.norm(moved[2].forward - plain[2][:3, 2]) > 1e-3
    assert torch.allclose(moved[1].camera_to_world, plain[1], atol=1e-6)
    assert torch.allclose(photographs.reference(2).camera.camera_to_world, moved[2].camera_to_world)
    camera = manager.train_cameras[2:3]
    camera.metadata = {"cam_idx": 2}
    trained = model.camera_optimizer.apply_to_camera(camera)[0]
    assert torch.allclose(moved[2].position, trained[:, 3]) and not moved[2].camera_to_world.requires_grad


def test_the_splat_is_rendered_again_when_outdated(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    photographs, model = _photographs(manager)
    _all(photographs)
    assert len(model.rendered) == 5
    model.step = 150
    _all(photographs)
    assert len(model.rendered) == 5
    model.step = 500
    _all(photographs)
    assert len(model.rendered) == 10
    model.step = 10  # a resumed or another training
    _all(photographs)
    assert len(model.rendered) == 15
    photographs.forget()
    _all(photographs)
    assert len(model.rendered) == 20


def test_rendering_is_spread_over_steps(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", count=9))
    photographs, model = _photographs(manager)
    views = photographs.cameras()[:2]
    counts = []
    while not photographs.prepare(views, most=3):
        counts.append(len(model.rendered))
    assert counts == [3, 6, 8]
    depth, alpha = torch.full((30, 40, 1), 2.0), torch.ones(30, 40, 1)
    assert len(photographs.choose(views[0], depth, alpha, 3)) == 3
    assert len(model.rendered) == 8


def test_only_near_photographs_are_looked_at(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", count=9))
    model = FlatSplat(8)
    photographs = ReferenceViews(manager, model, nearest=4)  # type: ignore[arg-type]
    view = photographs.cameras()[6]
    held: list[int] = []

    class Lock:
        def __enter__(self) -> None:
            held.append(len(model.rendered))

        def __exit__(self, *_: Any) -> None:
            assert len(model.rendered) == held[-1] + 1  # one rendering each, so that training goes on in between

    depth, alpha = torch.full((30, 40, 1), 2.0), torch.ones(30, 40, 1)
    chosen = photographs.choose(view, depth, alpha, 8, Lock())  # type: ignore[arg-type]
    assert held == [0, 1, 2, 3]
    positions = {tuple(reference.camera.position.tolist()) for reference in chosen if reference.camera}
    assert positions == {tuple(camera.position.tolist()) for camera in photographs.cameras()[4:]}
    assert tuple(view.position.tolist()) in positions


def test_no_references_need_no_rendering(tmp_path: Path) -> None:
    photographs, model = _photographs(datamanager(write_scene(tmp_path / "scene")))
    view = photographs.cameras()[0]
    assert photographs.choose(view, torch.ones(30, 40, 1), torch.ones(30, 40, 1), 0) == []
    assert model.rendered == []


def test_pictures_are_held_once_and_planes_in_half_precision(tmp_path: Path) -> None:
    """Beyond the 8-bit cache, which training needs anyway, four bytes a pixel."""
    manager = datamanager(write_scene(tmp_path / "scene"))
    photographs, _ = _photographs(manager)
    for camera in photographs.cameras():
        photographs.choose(camera, torch.full((30, 40, 1), 2.0), torch.ones(30, 40, 1), 3)
    assert manager.cached_train[0]["image"].dtype == torch.uint8
    held = [value for seen in photographs._seen.values() for value in vars(seen).values()]
    held = [tensor for tensor in held if isinstance(tensor, torch.Tensor)]
    assert sum(t.nbytes for t in held) == 5 * 40 * 30 * 4


def test_the_dataset_is_left_as_it_is(tmp_path: Path) -> None:
    manager = datamanager(write_scene(tmp_path / "scene"))
    photographs, _ = _photographs(manager, mode="SO3xR3")
    before = manager.cached_train[0]["image"].clone()
    photographs.reference(0).image.zero_()
    assert torch.equal(manager.cached_train[0]["image"], before)
