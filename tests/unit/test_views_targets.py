"""Targets, progressive poses and the choice of references, on cameras whose geometry is known."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.poses import ANGLE_UNIT, camera_spacing, pose_distances, rotation_angles, slerp, stack_poses
from difix3d_ns.guidance.progressive import interpolate_toward
from difix3d_ns.views.references import choose_references
from difix3d_ns.views.targets import auto_targets, camera_path_targets
from tests.unit.known_scenes import look_at, straight, wall_reference


def ring(count, radius=4.0, scale=1.0, arc=2 * math.pi, **options) -> list[Pinhole]:
    angles = [arc * i / count for i in range(count)]
    return [look_at((scale * radius * math.cos(a), scale * radius * math.sin(a), scale), **options) for a in angles]


def ball(scale=1.0) -> torch.Tensor:
    return torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 0.5 * scale


def similar(first, second, tolerance=1e-5):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.camera_to_world, b.camera_to_world, atol=tolerance, rtol=tolerance)


def proper(cameras):
    for camera in cameras:
        rotation = camera.camera_to_world[:3, :3].double()
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double(), atol=1e-5, rtol=0)
        assert torch.linalg.det(rotation) > 0
        torch.testing.assert_close(camera.camera_to_world[3], torch.tensor([0.0, 0, 0, 1]))


def test_a_quarter_beyond_and_the_rest_between_neighbours():
    cameras = ring(9)
    targets = auto_targets(cameras, ball(), 12)
    assert len(targets) == 12
    proper(targets)
    # Between means on the ring; beyond leaves it by more than the way around the scene bends.
    heights = torch.stack([t.position for t in targets])[:, 2]
    radii = torch.stack([t.position for t in targets])[:, :2].norm(dim=1)
    assert ((heights[:9] - 1).abs() < 0.1).all()
    assert (torch.hypot(radii - 4, heights - 1)[9:] > 0.15).all()
    assert (radii[:9] > 3.9).all()  # the chord's middle is at 3.76
    for target in targets:
        to_scene = torch.nn.functional.normalize(-target.position, dim=0)
        assert to_scene @ target.forward > math.cos(math.radians(6))


def test_every_gap_of_a_ring_gets_its_target():
    cameras = ring(8)
    targets = auto_targets(cameras, ball(), 8, beyond=0)
    angles = sorted(math.degrees(math.atan2(t.position[1], t.position[0])) % 360 for t in targets)
    assert angles == pytest.approx([22.5 + 45 * i for i in range(8)], abs=0.5)


def test_wider_gaps_get_more_targets():
    cameras = [look_at((x, -6.0, 0.0), (x, 0.0, 0.0)) for x in (0.0, 0.5, 1.0, 3.0)]
    targets = auto_targets(cameras, None, 4, beyond=0)
    x = torch.tensor([t.position[0] for t in targets])
    assert ((x > 1.0) & (x < 3.0)).sum() >= 2


def test_targets_do_not_depend_on_the_scale_of_the_scene():
    small, large = (auto_targets(ring(7, scale=s), ball(s), 20, seed=3) for s in (0.01, 100.0))
    for a, b in zip(small, large, strict=True):
        torch.testing.assert_close(a.position * 1e4, b.position, rtol=1e-3, atol=1e-1)
        torch.testing.assert_close(a.camera_to_world[:3, :3], b.camera_to_world[:3, :3], atol=1e-4, rtol=0)


def test_targets_are_deterministic_and_the_seed_matters():
    cameras = ring(6)
    similar(auto_targets(cameras, ball(), 12, seed=5), auto_targets(cameras, ball(), 12, seed=5), 0)
    first, second = auto_targets(cameras, ball(), 12, seed=5), auto_targets(cameras, ball(), 12, seed=6)
    assert any(not torch.equal(a.camera_to_world, b.camera_to_world) for a, b in zip(first, second, strict=True))


def test_no_target_repeats_a_training_pose_for_many_shapes_and_counts():
    generator = torch.Generator().manual_seed(1)
    for trial in range(25):
        number = int(torch.randint(2, 14, (), generator=generator))
        where = torch.randn(number, 3, generator=generator) * torch.tensor([3.0, 3.0, 0.5])
        cameras = [look_at(tuple((p + torch.tensor([0.0, -8.0, 0.0])).tolist())) for p in where]
        cameras.append(cameras[0])  # a doubled frame
        count = int(torch.randint(1, 60, (), generator=generator))
        targets = auto_targets(cameras, ball() if trial % 2 else None, count, beyond=0.4, seed=trial)
        assert 1 <= len(targets) <= count
        assert len(targets) >= min(count, 8)
        proper(targets)
        poses = stack_poses(cameras)
        assert pose_distances(stack_poses(targets), poses, camera_spacing(poses)).min() > 0.03
        # Never far away from where photographs were taken.
        assert pose_distances(stack_poses(targets), poses, camera_spacing(poses)).amin(1).max() < 6


def test_beyond_leaves_the_ends_of_a_path_outward_by_the_given_distance():
    cameras = [look_at((float(x), -8.0, 0.0), (float(x), 0.0, 0.0)) for x in range(6)]
    targets = auto_targets(cameras, None, 8, beyond=0.5)
    shifted = torch.stack([t.position for t in targets])[6:]
    assert ((shifted[:, 0] < 0) | (shifted[:, 0] > 5)).all()
    distance = torch.cdist(shifted, torch.stack([c.position for c in cameras])).amin(1)
    assert (distance > 0.25).all()
    assert (distance < 0.55).all()


def test_intrinsics_and_size_come_from_the_nearer_camera_and_roll_is_never_halved():
    landscape = look_at((0.0, -6.0, 0.0), width=96, height=64, focal=80.0)
    portrait = look_at((2.0, -6.0, 0.0), width=64, height=96, focal=70.0, roll=math.pi / 2)
    targets = auto_targets([landscape, portrait], ball(), 4, beyond=0)
    assert {(t.width, t.height) for t in targets} == {(96, 64), (64, 96)}
    for target in targets:
        near = landscape if target.position[0] <= 1.0 else portrait
        assert (target.width, target.height) == (near.width, near.height)
        assert torch.equal(target.intrinsics, near.intrinsics)
        # The picture's horizontal axis stays level or upright as in the nearer camera.
        assert target.camera_to_world[:3, 0] @ near.camera_to_world[:3, 0] > 0.9


def test_no_target_between_cameras_that_look_at_each_other():
    cameras = [look_at((0.0, -5.0, 0.0)), look_at((0.5, -5.0, 0.0)), look_at((0.0, 5.0, 0.0)), look_at((0.5, 5.0, 0.0))]
    for target in auto_targets(cameras, ball(), 10):
        assert abs(float(target.position[1])) > 4.5


def test_cameras_turning_at_one_place_give_rotations_only():
    here = (1.0, 2.0, 3.0)
    cameras = [look_at(here, (1 + math.cos(a), 2 + math.sin(a), 3.0)) for a in torch.linspace(0, 2, 5).tolist()]
    targets = auto_targets(cameras, None, 10)
    assert len(targets) == 10
    proper(targets)
    for target in targets:
        torch.testing.assert_close(target.position, torch.tensor(here), atol=1e-4, rtol=0)
    assert pose_distances(stack_poses(targets), stack_poses(cameras), 0).min() * ANGLE_UNIT > math.radians(1)


@pytest.mark.parametrize("cameras", [[], [look_at((0.0, -5.0, 0.0))], [look_at((0.0, -5.0, 0.0))] * 4])
def test_cameras_that_leave_nothing_between_say_what_to_do(cameras):
    with pytest.raises(ValueError, match=r"add photos|check the transform_matrix"):
        auto_targets(cameras, ball(), 4)


def test_a_pose_that_is_not_finite_is_named():
    cameras = ring(4)
    broken = cameras[2].camera_to_world.clone()
    broken[0, 3] = math.nan
    cameras[2] = dataclasses.replace(cameras[2], camera_to_world=broken)
    with pytest.raises(ValueError, match=r"\[2\].*transforms.json"):
        auto_targets(cameras, None, 4)
    with pytest.raises(ValueError, match=r"\[2\]"):
        interpolate_toward(cameras, ring(2), 0.5)


def test_a_thousand_cameras_and_a_count_of_zero():
    assert auto_targets(ring(5), None, 0) == []
    targets = auto_targets(ring(1000, radius=40.0), None, 30)
    assert len(targets) == 30


def saved_path(folder, frames, **changes):
    path = folder / "path.json"
    content = {"camera_type": "perspective", "render_width": 640, "render_height": 480, "camera_path": frames}
    content.update(changes)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def frame(camera, fov=60.0):
    opengl = camera.camera_to_world * torch.tensor([1.0, -1, -1, 1])
    return {"camera_to_world": opengl.flatten().tolist(), "fov": fov, "aspect": 4 / 3}


def test_a_saved_camera_path_comes_back_in_opencv_axes(tmp_path):
    cameras = ring(5)
    targets = camera_path_targets(saved_path(tmp_path, [frame(c) for c in cameras]))
    similar(cameras, targets)
    assert (targets[0].width, targets[0].height) == (640, 480)
    assert float(targets[0].intrinsics[1, 1]) == pytest.approx(240 / math.tan(math.radians(30)))
    assert targets[0].intrinsics[:2, 2].tolist() == [320, 240]
    fewer = camera_path_targets(saved_path(tmp_path, [frame(c) for c in cameras]), count=3)
    similar([cameras[0], cameras[2], cameras[4]], fewer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera_path": []}, "empty"),
        ({"camera_path": None}, "camera_path"),
        ({"render_width": None}, "render_width"),
        ({"render_width": 0}, "positive"),
        ({"camera_type": "fisheye"}, "fisheye"),
        ({"camera_path": [{"fov": 50}]}, "entry 0"),
        ({"camera_path": [{"fov": 50, "camera_to_world": [1.0] * 15}]}, "entry 0"),
        ({"camera_path": [{"fov": 50, "camera_to_world": [1.0] * 16}]}, "entry 0"),
        ({"camera_path": [{"fov": 50, "camera_to_world": [math.nan] * 16}]}, "entry 0"),
        ({"camera_path": [frame(look_at((0.0, -5.0, 0.0)), fov=180.0)]}, "fov"),
    ],
)
def test_a_camera_path_that_is_none_is_named_with_the_fault(tmp_path, changes, message):
    path = saved_path(tmp_path, [frame(look_at((0.0, -5.0, 0.0)))], **changes)
    with pytest.raises(ValueError, match=message) as error:
        camera_path_targets(path)
    assert str(path) in str(error.value)


def test_a_missing_or_broken_camera_path_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        camera_path_targets(tmp_path / "nowhere.json")
    broken = tmp_path / "half.json"
    broken.write_text('{"camera_path": [')
    with pytest.raises(ValueError, match=r"half\.json"):
        camera_path_targets(broken)


def test_rounds_lead_from_the_nearest_photograph_to_the_target():
    cameras, targets = ring(6), auto_targets(ring(6), ball(), 9)
    similar(interpolate_toward(cameras, targets, 1.0), targets)
    start, end = stack_poses(cameras), stack_poses(targets)
    unit = camera_spacing(start)
    nearest = pose_distances(end, start, unit).argmin(1)
    before = torch.zeros(len(targets), dtype=torch.float64)
    for r in range(1, 5):
        step = stack_poses(interpolate_toward(cameras, targets, r / 4))
        along = (step[:, :3, 3] - start[nearest][:, :3, 3]).norm(dim=1)
        whole = (end[:, :3, 3] - start[nearest][:, :3, 3]).norm(dim=1)
        torch.testing.assert_close(along, whole * r / 4, atol=1e-5, rtol=1e-4)
        turned = rotation_angles(step[:, :3, :3], start[nearest][:, :3, :3]).diagonal()
        full = rotation_angles(end[:, :3, :3], start[nearest][:, :3, :3]).diagonal()
        torch.testing.assert_close(turned, full * r / 4, atol=2e-3, rtol=0)
        assert (along > before).all()
        before = along


def test_advancing_from_equal_rotations_one_camera_or_nowhere():
    camera = look_at((0.0, -5.0, 0.0))
    target = look_at((1.0, -5.0, 0.0), (1.0, 0.0, 0.0))
    [half] = interpolate_toward([camera], [target], 0.5)
    assert half.camera_to_world.isfinite().all()
    assert float(half.position[0]) == pytest.approx(0.5)
    similar(interpolate_toward([camera], [camera], 0.3), [camera])
    assert interpolate_toward([camera], [], 0.5) == []
    with pytest.raises(ValueError, match="starting pose"):
        interpolate_toward([], [target], 0.5)
    for fraction in (0.0, -1.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="fraction"):
            interpolate_toward([camera], [target], fraction)


def test_rotations_at_every_angle_even_half_a_turn():
    generator = torch.Generator().manual_seed(0)
    first, _ = torch.linalg.qr(torch.randn(40, 3, 3, generator=generator, dtype=torch.float64))
    first = first * torch.linalg.det(first).sign()[:, None, None]
    half_turn = first @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    middle = slerp(first, half_turn, torch.full((40,), 0.5))
    angle = rotation_angles(first, middle).diagonal()
    torch.testing.assert_close(angle, torch.full_like(angle, math.pi / 2))
    same = rotation_angles(first.float(), first.float()).diagonal()
    assert same.isfinite().all()
    assert same.max() < 2e-3


def test_references_are_chosen_by_what_they_see_not_by_pose_distance():
    target = wall_reference(straight(0.0))
    candidates = [
        wall_reference(straight(0.1), y=-1.0),  # nearest pose, but something else stands in front
        wall_reference(straight(1.0)),
        wall_reference(straight(30.0)),
    ]
    assert choose_references(target.camera, target.depth, target.alpha, candidates, 3) == [1, 0, 2]


def test_each_reference_adds_what_the_ones_before_do_not_show():
    target = wall_reference(straight(0.0))
    candidates = [wall_reference(straight(x)) for x in (1.5, 1.6, -2.0, 1.7)]
    assert choose_references(target.camera, target.depth, target.alpha, candidates, 2) == [0, 2]


def test_pose_distance_decides_among_equals_and_without_depth():
    target = wall_reference(straight(0.0))
    known = [wall_reference(straight(x)) for x in (0.0, 0.0)]
    unknown = [PosedImage(torch.rand(64, 96, 3), straight(x)) for x in (2.0, 0.5, 1.0)]
    nowhere = PosedImage(torch.rand(64, 96, 3))
    assert choose_references(target.camera, target.depth, target.alpha, unknown, 3) == [1, 2, 0]
    assert choose_references(target.camera, target.depth, target.alpha, [nowhere, *unknown], 4) == [2, 3, 1, 0]
    assert choose_references(target.camera, target.depth, target.alpha, [*unknown, known[0]], 2) == [3, 1]
    tilted = [wall_reference(straight(0.3, width=96, height=64)), wall_reference(straight(-0.3))]
    assert choose_references(target.camera, target.depth, torch.zeros_like(target.alpha), tilted[::-1], 1) == [0]


def test_masked_and_lower_resolved_references_come_later():
    target = wall_reference(straight(0.0))
    same = straight(0.2)
    masked = wall_reference(same, mask=torch.zeros(64, 96, 1))
    coarse = wall_reference(look_at((0.2, -8.0, 0.0), (0.2, 0.0, 0.0)))
    sharp = wall_reference(straight(0.4))
    assert choose_references(target.camera, target.depth, target.alpha, [masked, coarse, sharp], 1) == [2]
    assert choose_references(target.camera, target.depth, target.alpha, [masked, coarse], 1) == [1]


def test_references_of_other_sizes_empty_renders_and_too_large_counts():
    target = wall_reference(straight(0.0, width=37, height=21))
    candidates = [
        wall_reference(straight(0.5, width=64, height=96)),
        wall_reference(straight(-0.2, width=11, height=7)),
    ]
    chosen = choose_references(target.camera, target.depth, target.alpha, candidates, 9)
    assert sorted(chosen) == [0, 1]
    assert choose_references(target.camera, target.depth, target.alpha, [], 3) == []
    assert choose_references(target.camera, target.depth, target.alpha, candidates, 0) == []
    empty = torch.zeros_like(target.depth)
    assert choose_references(target.camera, empty, empty, candidates, 1) == [1]
    broken = torch.full_like(target.depth, math.nan)
    assert choose_references(target.camera, broken, target.alpha, candidates, 1) == [1]
