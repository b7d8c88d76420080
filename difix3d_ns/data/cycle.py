"""A scene photographed again, in a splat, from beside the path of its cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from difix3d_ns.data.capture import Capture
from difix3d_ns.data.reconstruct import Splat
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import aim, assemble, camera_spacing, stack_poses, with_poses

_MIN_SHIFT, _MAX_SHIFT = 0.5, 1.0  # in spacings of the cameras
_MAX_DEPTH_SHARE = 0.3  # of the distance to the target: further aside, another scene would be seen


def seen_from_beside(capture: Capture, splat: Splat, views: Sequence[int], seed: int) -> Capture:
    """The capture with renders from a shifted trajectory instead of its photographs: all of them are for training.

    Every camera is moved the same way in its own picture's plane, across the path rather than along it, and keeps its
    target.

    Args:
        capture: the scene.
        splat: trained on it.
        views: cameras of the trajectory.
        seed: of the distance and side.
    """
    cameras = [capture.cameras[view] for view in views]
    depths = torch.tensor([_distance(splat, camera) for camera in cameras], dtype=torch.float64)
    shifted = _shifted(cameras, depths, seed)
    renders = [splat.render(camera) for camera in shifted]
    return replace(
        capture,
        cameras=shifted,
        images=[image for image, _, _ in renders],
        train=list(range(len(shifted))),
        test=[],
        masks=None,
        depths=None,
        devices=None,
    )


def _shifted(cameras: Sequence[Pinhole], depths: Tensor, seed: int) -> list[Pinhole]:
    """Move the cameras aside; ``depths``: [N] distances to their targets."""
    generator = torch.Generator().manual_seed(seed)
    share, side = torch.rand(2, generator=generator, dtype=torch.float64)
    poses = stack_poses(cameras)
    rotations, positions = poses[:, :3, :3], poses[:, :3, 3]
    limit = _MAX_DEPTH_SHARE * depths
    unit = camera_spacing(poses)
    distance = limit.clamp(max=unit * float(_MIN_SHIFT + (_MAX_SHIFT - _MIN_SHIFT) * share)) if unit > 0 else limit
    way = rotations[:, :, :2] @ (_across(poses) if side < 0.5 else -_across(poses))  # [N, 3]
    moved = positions + distance[:, None] * way
    target = positions + depths[:, None] * rotations[:, :, 2]
    return with_poses(cameras, assemble(aim(rotations, target - moved), moved))


def _across(poses: Tensor) -> Tensor:
    """[2] right, down: the direction in the pictures' planes in which the fewest neighbours stand."""
    positions = poses[:, :3, 3]
    near = torch.cdist(positions, positions).topk(min(3, len(poses)), largest=False).indices
    ways = positions[near] - positions[:, None]  # [N, 3, 3]
    local = torch.einsum("nji,nkj->nki", poses[:, :3, :3], ways)[..., :2]
    _, directions = torch.linalg.eigh(torch.einsum("nki,nkj->ij", local, local))
    return directions[:, 0]


def _distance(splat: Splat, camera: Pinhole) -> float:
    _, depth, _ = splat.render(camera)
    seen = depth[depth > 0]
    return float(seen.median()) if len(seen) else 1.0
