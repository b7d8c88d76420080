"""Distances between camera poses and paths from one to another, vectorised, in units of the cameras' own spacing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole

ANGLE_UNIT = 0.5236
"""Radians of rotation that count as much as one camera spacing: 30 degrees, about half a usual field of view, after
which half of the picture is another one."""

_COINCIDENT = 1e-4  # of the cameras' extent: closer cameras stand at the same place


def stack_poses(cameras: Sequence[Pinhole]) -> Tensor:
    """Stack poses as [N, 4, 4] camera-to-world, float64 on the CPU.

    They are few, and differences of near rotations need the digits.

    Raises:
        ValueError: a pose is not finite; the message gives the positions of such cameras in the sequence.
    """
    if not cameras:
        return torch.zeros(0, 4, 4, dtype=torch.float64)
    poses = torch.stack([c.camera_to_world.detach().to("cpu", torch.float64) for c in cameras])
    broken = (~poses.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"the poses of cameras {broken} (counted from 0 in the training split) contain NaN or infinity; correct or "
            "remove these frames in transforms.json"
        )
    return poses


def rotation_angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles between all pairs of rotations.

    Args:
        first: [N, 3, 3].
        second: [M, 3, 3].

    Returns:
        [N, M] radians in [0, pi]; never NaN (equal rotations may give a cosine slightly above one).
    """
    trace = first.flatten(1) @ second.flatten(1).T
    return ((trace - 1) / 2).clamp(-1, 1).arccos()


def camera_spacing(poses: Tensor) -> float:
    """Distance of neighbouring cameras: the median over cameras of the mean distance to the nearest two.

    Two, because the single nearest of a stereo pair or a doubled frame does not show the path. Cameras at the
    same place do not count as neighbours.

    Args:
        poses: [N, 4, 4] camera-to-world.

    Returns:
        Scene units; 0 if all cameras stand at one place.
    """
    positions = poses[:, :3, 3]
    if len(positions) < 2:
        return 0.0
    distances = torch.cdist(positions, positions)
    extent = distances.max()
    # Positions carry float32 noise even where the poses are meant to be equal.
    if extent <= 1e-6 * positions.abs().max() or extent == 0:
        return 0.0
    distances[distances <= _COINCIDENT * extent] = torch.inf
    nearest = distances.topk(min(2, len(positions) - 1), largest=False).values
    counted = nearest.isfinite()
    mean = nearest.where(counted, 0).sum(1) / counted.sum(1).clamp_min(1)
    return float(mean[counted.any(1)].median())


def pose_distances(first: Tensor, second: Tensor, spacing: float) -> Tensor:
    """Distances between all pairs of poses, in position and rotation.

    Args:
        first: [N, 4, 4] camera-to-world.
        second: [M, 4, 4] camera-to-world.
        spacing: ``camera_spacing`` in scene units; 0 counts rotations alone.

    Returns:
        [N, M] position distance in spacings plus rotation angle in units of ``ANGLE_UNIT``.
    """
    angles = rotation_angles(first[:, :3, :3], second[:, :3, :3]) / ANGLE_UNIT
    if spacing <= 0:
        return angles
    return torch.cdist(first[:, :3, 3], second[:, :3, 3]) / spacing + angles


def slerp(first: Tensor, second: Tensor, fraction: Tensor) -> Tensor:
    """Rotations on the shortest way between pairs.

    Args:
        first: [N, 3, 3].
        second: [N, 3, 3].
        fraction: [N]; 0 gives ``first``, 1 ``second``.

    Returns:
        [N, 3, 3] float64, orthonormal.
    """
    start = Rotation.from_matrix(first.numpy())
    turn = (start.inv() * Rotation.from_matrix(second.numpy())).as_rotvec()
    return torch.from_numpy((start * Rotation.from_rotvec(turn * fraction.numpy()[:, None])).as_matrix())


def aim(rotations: Tensor, directions: Tensor) -> Tensor:
    """Turn cameras by the smallest rotation that points them along given directions.

    Args:
        rotations: [N, 3, 3] camera-to-world, OpenCV axes.
        directions: [N, 3] world, any length.

    Returns:
        [N, 3, 3]; unchanged where the direction is (nearly) zero or straight backwards.
    """
    forward = rotations[:, :, 2]
    length = directions.norm(dim=1, keepdim=True)
    target = torch.where(length > 0, directions / length.clamp_min(1e-12), forward)
    axis = torch.linalg.cross(forward, target)
    sine, cosine = axis.norm(dim=1, keepdim=True), (forward * target).sum(1, keepdim=True)
    turn = axis / sine.clamp_min(1e-12) * torch.atan2(sine, cosine)
    turned = Rotation.from_rotvec(turn.numpy()) * Rotation.from_matrix(rotations.numpy())
    return torch.from_numpy(turned.as_matrix())


def assemble(rotations: Tensor, positions: Tensor) -> Tensor:
    """Compose [N, 4, 4] camera-to-world from rotations [N, 3, 3] and positions [N, 3]."""
    poses = torch.eye(4, dtype=rotations.dtype).repeat(len(rotations), 1, 1)
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = positions
    return poses


def with_poses(cameras: Sequence[Pinhole], poses: Tensor) -> list[Pinhole]:
    """Place cameras at other poses [N, 4, 4], each on its camera's device and dtype."""
    return [
        Pinhole(pose.to(camera.camera_to_world), camera.intrinsics, camera.width, camera.height)
        for camera, pose in zip(cameras, poses, strict=True)
    ]


def path_order(cameras: Sequence[Pinhole]) -> list[int]:
    """Order cameras along the path they were taken on: from the outermost always to the nearest one that is left."""
    positions = torch.stack([camera.position.double().cpu() for camera in cameras])
    left = list(range(len(cameras)))
    order = [int((positions - positions.mean(0)).norm(dim=1).argmax())]
    left.remove(order[0])
    while left:
        distances = (positions[left] - positions[order[-1]]).norm(dim=1)
        order.append(left.pop(int(distances.argmin())))
    return order
