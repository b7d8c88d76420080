"""Depth of photographs that a prior estimates from all of them and the scene's points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from difix3d_ns.geometry.point_depth import point_depth
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import Depth, DepthMap


def estimate_depths(
    photographs: Sequence[PosedImage],
    points: Tensor | None,
    prior: Depth,
    on_step: Callable[[int], None] = lambda left: None,
) -> list[DepthMap]:
    """Estimate the depth of photographs.

    Args:
        photographs: with cameras; all of those that may be matched with each other.
        points: [P, 3] world, of the scene; None if it has none.
        prior: what estimates.
        on_step: called with the number of steps left, before each.

    Returns:
        Their depth, of their sizes.
    """
    hinted = [
        photograph if points is None else replace(photograph, depth=point_depth(points, photograph.pose))
        for photograph in photographs
    ]
    state = prior.start(hinted)
    while left := prior.steps_left(state):
        on_step(left)
        state = prior.step(state)
    return prior.result(state)
