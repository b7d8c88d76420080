"""Depth of photographs that a prior estimates from all of them and the scene's points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from difix3d_ns.geometry.point_depth import point_depth
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.stereo import StereoDepth, stereo_depths
from difix3d_ns.io.config_fields import check_at_least, check_share, fill_unset
from difix3d_ns.io.run import Run
from difix3d_ns.priors.base import Depth, DepthMap
from difix3d_ns.priors.prior_config import PriorConfig
from difix3d_ns.views.coverage import spare_share
from difix3d_ns.views.protocols import PhotoDepth

WITHIN = 0.02
"""relative error up to which depth helps a training as exact depth does"""
LONG_SIDE = 480
"""pixels at which depth is estimated and kept"""
_WEIGHT = 0.5
_MAX_PHOTOS = 64
"""photographs up to which depth is estimated unasked, all of them swept; beyond, it would take minutes"""
_SWEPT_ERROR = 0.01
"""standard deviation of log depth where a sweep is certain: on scenes of training, 95 % of it is within 2 %"""


@dataclass
class PhotoDepthConfig(PriorConfig[Depth | None]):
    """Settings of the depth of training photos: where it comes from, and how it is learned from."""

    capability: ClassVar[type] = Depth
    flag: ClassVar[str] = "--pipeline.depth"
    kept: ClassVar[tuple[str, ...]] = ("name", "weights")
    name: str | None = None
    """what estimates depth where photos bring none: multiview (embedded), single-view (published weights that you
    name, fitted to each photo), none, or package.module of yours
    (unset: multiview up to 64 photos, with the 2,000 steps of a CPU up to 56, if most bring none; of more, training
    finds the depth by itself)"""
    weights: str | None = None
    """weights of it: a .safetensors file or a folder written by difix3d train-prior depth; of single-view a folder or
    hub id of Depth Anything, such as depth-anything/Depth-Anything-V2-Small-hf (unset: its own)"""
    weight: float | None = None
    """weight of the difference between rendered depth and a training photo's, as LiDAR measures it or as it was
    estimated (unset: 0.5; 0 = not learned from)"""
    fade: float = 0.0
    """share of the training over which the weight of estimated depth falls to 0 (0 = it gives initial points alone);
    measured depth keeps its weight"""

    by_default: bool = field(default=False, init=False, compare=False)
    """whether the name was unset; no flag"""

    def fit(self, run: Run) -> None:
        """Fill in the weight, and once the number of photographs is known, whether it takes a prior."""
        fill_unset(self, weight=_WEIGHT)
        self.by_default |= self.name is None
        if run.images is not None:
            spare = run.images <= _MAX_PHOTOS and spare_share(run.images, run.steps)
            fill_unset(self, name="multiview" if spare else "none")

    def check(self, flag_prefix: str) -> None:
        """Check the name and the numbers (see ``PriorConfig``)."""
        check_at_least(self, flag_prefix, {"weight": 0})
        check_share(self, flag_prefix, "fade")
        if self.name not in (None, "none"):
            super().check(flag_prefix)

    def load(self, device: torch.device, flag_prefix: str | None = None) -> Depth | None:
        """Load the prior, once per process; None for none (see ``PriorConfig``)."""
        return None if self.name in (None, "none") else super().load(device, flag_prefix)


def estimate_depths(
    photographs: Sequence[PosedImage],
    points: Tensor | None,
    prior: Depth,
    on_step: Callable[[int], None] = lambda left: None,
) -> list[DepthMap]:
    """Estimate the depth of photographs: by a sweep where it is certain, by a prior elsewhere.

    Where neighbours show the same texture, matching windows is more exact than a network.

    Args:
        photographs: with cameras; all of those that may be matched with each other.
        points: [P, 3] world, of the scene; None if it has none.
        prior: what estimates.
        on_step: called with the number of steps left, before each; each swept photograph is one.

    Returns:
        Their depth, of their sizes.
    """
    hinted = [
        photograph if points is None else replace(photograph, depth=point_depth(points, photograph.pose))
        for photograph in photographs
    ]
    state = prior.start(hinted)
    steps = prior.steps_left(state)

    def counted(indices: Iterable[int]) -> Iterator[int]:
        chosen = list(indices)
        for number, index in enumerate(chosen):
            on_step(steps + len(chosen) - number)
            yield index

    swept = {
        index: _certain(found, photographs[index])
        for index, found in stereo_depths(photographs, points, counted).items()
    }
    if prior.wants_matched_depth:
        for index, matched in swept.items():
            given = hinted[index].depth
            depth = matched if given is None else matched.where(matched > 0, given.to(matched))
            hinted[index] = replace(hinted[index], depth=depth)
        state = prior.start(hinted)
    while left := prior.steps_left(state):
        on_step(left)
        state = prior.step(state)
    maps = prior.result(state)
    for index, matched in swept.items():
        depth, estimate = matched.to(maps[index].depth), maps[index]
        spread = torch.full_like(depth, _SWEPT_ERROR).where(depth > 0, estimate.uncertainty)
        maps[index] = DepthMap(depth.where(depth > 0, estimate.depth), spread)
    return maps


def _certain(found: StereoDepth, photograph: PosedImage) -> Tensor:
    """Depth [H, W, 1] of a sweep at the size of a photograph, 0 where it is not certain."""
    height, width = photograph.image.shape[:2]
    return resized(found.depth.where(found.kept, 0.0), height, width, "nearest-exact")


def photo_depth(found: DepthMap) -> PhotoDepth:
    """Return what a training learns from an estimate: each pixel by the square of its chance to be right.

    The square, since depth that is as likely wrong as right harms more than it helps.
    """
    known = found.depth > 0
    return PhotoDepth(found.depth, found.chance(WITHIN).square().where(known, 0.0))


def completed(measured: PhotoDepth, estimate: PhotoDepth) -> PhotoDepth:
    """Measured depth, and where nothing was measured the estimate, at its size."""
    height, width = estimate.depth.shape[:2]
    depth, confidence = (
        resized(maps, height, width, "nearest-exact") for maps in (measured.depth, measured.confidence)
    )
    known = confidence > 0
    return PhotoDepth(depth.where(known, estimate.depth), confidence.where(known, estimate.confidence))
