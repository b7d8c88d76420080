"""Hypotheses of the depth at each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import in_view, unproject

_STEPS = (0.0, 0.012, 0.025, 0.04, 0.06, 0.085, 0.12, 0.17, 0.24)
OFFSETS = tuple(sorted({*_STEPS, *(-step for step in _STEPS)}))  # log ratios to the splat's depth
_WINDOWS = (9, 25)  # pixels of the coarse volume: what is behind or in front of a floater is near by
_SWEEP = 7  # depths of the whole scene, uniform in inverse depth
COUNT = len(OFFSETS) + 2 * len(_WINDOWS) + _SWEEP
_STRIDE = 8


def depth_range(camera: Pinhole, depth: Tensor, alpha: Tensor, references: Sequence[PosedImage]) -> tuple[float, float]:
    """Nearest and farthest depth of the hypotheses, from all that the splat shows in this view and at the references.

    Args:
        camera: the target's.
        depth: [H, W, 1] median depth there, 0 where there is nothing.
        alpha: [H, W, 1] opacity there.
        references: with camera and depth.

    Returns:
        Scene units; (1, 10) where nothing is known.
    """
    found = [depth[(alpha > 0.5) & (depth > 0)][:: _STRIDE**2]]
    for reference in references:
        if reference.camera is None or reference.depth is None:
            continue
        small = reference.depth[::_STRIDE, ::_STRIDE]
        points = unproject(small, reference.camera)[small[..., 0] > 0]
        seen, _, z = in_view(points, camera)
        found.append(z[seen])
    every = torch.cat([values.flatten().float() for values in found])
    if not len(every):
        return 1.0, 10.0
    near, far = every.quantile(torch.tensor([0.01, 0.99], device=every.device)).tolist()
    return 0.8 * near, 1.25 * far


def candidates(depth: Tensor, known: Tensor, near: float, far: float) -> Tensor:
    """Hypotheses around the splat's depth, at that of its surroundings, and through the whole scene.

    Args:
        depth: [h, w] the splat's median depth.
        known: [h, w] bool; elsewhere all hypotheses sweep the scene.
        near, far: of the scene, in units of depth.

    Returns:
        [COUNT, h, w].
    """
    steps = torch.tensor(OFFSETS, device=depth.device, dtype=depth.dtype)
    around = depth * steps.exp()[:, None, None]
    planes = depth.where(known, 0.0)[None]
    beyond = [F.max_pool2d(planes, window, 1, window // 2) for window in _WINDOWS]
    inverse = torch.where(known, 1 / depth.clamp_min(1e-9), 0.0)[None]
    before = [1 / F.max_pool2d(inverse, window, 1, window // 2).clamp_min(1e-9) for window in _WINDOWS]

    def sweep(count: int) -> Tensor:
        levels = 1 / torch.linspace(1 / far, 1 / near, count, device=depth.device, dtype=depth.dtype)
        return levels[:, None, None].expand(-1, *depth.shape)

    local = torch.cat([around, *beyond, *before, sweep(_SWEEP)])
    return torch.where(known, local, sweep(COUNT))
