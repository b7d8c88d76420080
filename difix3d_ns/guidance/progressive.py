"""Progressive rounds: from where photographs were taken toward the targets, a little further each round."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import assemble, camera_spacing, pose_distances, slerp, stack_poses, with_poses


def interpolate_toward(current: Sequence[Pinhole], targets: Sequence[Pinhole], fraction: float) -> list[Pinhole]:
    """Interpolate poses from the nearest starting poses toward the targets (Difix3D, section 4.2, eased evenly).

    Near a photograph the splat is good and the fixer has little to invent; what it adds there makes the next step
    reliable. Unlike the paper's fixed step in scene units, every target is a fraction of its own way on, so the
    result does not change with the scene's scale, and after the last round every target is reached.

    Args:
        current: the starting poses, usually the training cameras.
        targets: where the rounds lead.
        fraction: how far, in (0, 1]; round r of R requests r / R.

    Returns:
        One camera per target, with the target's intrinsics and size, tensors like the target's.

    Raises:
        ValueError: no starting pose, a fraction outside (0, 1], or a pose that is not finite.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    if not targets:
        return []
    if not current:
        raise ValueError("interpolating toward targets needs at least one starting pose")
    start, end = stack_poses(current), stack_poses(targets)
    # A single camera has no spacing: the way to the farthest target gives the scale.
    baseline = camera_spacing(start) or float(torch.cdist(start[:, :3, 3], end[:, :3, 3]).max())
    start = start[pose_distances(end, start, baseline).argmin(1)]
    along = torch.full((len(end),), float(fraction), dtype=end.dtype)
    positions = torch.lerp(start[:, :3, 3], end[:, :3, 3], along[:, None])
    return with_poses(targets, assemble(slerp(start[:, :3, :3], end[:, :3, :3], along), positions))
