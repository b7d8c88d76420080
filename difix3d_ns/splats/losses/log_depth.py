"""Loss between the depth of a render and the one that a fixer found or a sensor measured."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_TOLERANCE = 0.01
"""relative errors below are within the precision of fixers and sensors: the pull fades there instead of jumping between
two signs"""
_MIN_RATIO = 1e-3
"""of the target: a logarithm of no depth at all would be infinite"""


def depth_loss(depth: Tensor, alpha: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
    """Mean over the picture of the difference of logarithms, quadratic below one percent and linear above.

    Scale-free: the unit of a scene does not matter. Each pixel counts by its confidence and its opacity; by opacity,
    since where almost nothing is drawn the expected depth jumps about, and dividing by opacity would blow up gradients.

    Args:
        depth: [H, W, 1] expected depth of the render along z.
        alpha: [H, W, 1] its opacity in [0, 1].
        target: [H, W, 1] target depth, 0 where it is not known.
        confidence: [H, W, 1] in [0, 1].

    Returns:
        [] at least 0.
    """
    known = target > 0
    safe = target.where(known, target.new_ones(()))
    relative = (depth / safe).clamp_min(_MIN_RATIO).log()
    error = F.smooth_l1_loss(relative, relative.new_zeros(()).expand_as(relative), reduction="none", beta=_TOLERANCE)
    return (error * confidence * alpha.detach() * known).mean()
