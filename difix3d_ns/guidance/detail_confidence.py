"""Confidence in the detail of upscaled photographs: how closely each sees a surface, and who else shows the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import resized
from difix3d_ns.metrics.agreement import NEIGHBOURS, details_beside, nearest
from difix3d_ns.metrics.high_pass import high_pass

_WINDOW = 15
"""pixels of a side over which detail is correlated: some periods of what a factor of 4 loses"""
_EPS = 1e-8


def detail_confidence(
    index: int,
    pictures: Sequence[Tensor],
    cameras: Sequence[Pinhole],
    depths: Sequence[Tensor],
    factor: float,
    neighbours: int = NEIGHBOURS,
) -> Tensor:
    """Compute the confidence in an upscaled photograph, pixel by pixel.

    The product of closeness, pixels per length at the surface relative to the neighbour that has most of them
    (SplatSuRe, CVPR 2026, weighs by the same ratio): where another is nearer, its detail is the better one; and of
    agreement, the correlation of detail with that of the neighbours around the pixel.

    Args:
        index: of the photograph.
        pictures: [H, W, 3] each, upscaled; read one pair at a time.
        cameras: of the pictures.
        depths: [h, w, 1] each along z, median, 0 where there is nothing; scene units.
        factor: of the upscaling.
        neighbours: nearest photographs that it is compared with.

    Returns:
        [H, W, 1] in [0, 1]; 1 where no other photograph shows the surface, since nothing contradicts.
    """
    own = high_pass(pictures[index].float(), factor)
    height, width = own.shape[:2]
    depth = resized(depths[index].to(own), height, width, "nearest-exact")[..., 0]
    density = float(cameras[index].intrinsics[0, 0]) / depth.clamp_min(_EPS)  # pixels per length
    most = density.clone()
    sums = own.new_zeros(4, height, width)  # of products, of either's squares, of pixels
    others = nearest(cameras, neighbours)[index]
    for other, warped, shown, z in details_beside(own, index, others, pictures, cameras, depths, factor):
        there = float(cameras[other].intrinsics[0, 0]) / z.clamp_min(_EPS)
        most = torch.maximum(most, there.where(shown, 0))
        products = ((own * warped).sum(-1), own.square().sum(-1), warped.square().sum(-1), torch.ones_like(depth))
        sums += torch.stack(products) * shown
    cross, first, second, count = F.avg_pool2d(sums[None], _WINDOW, 1, _WINDOW // 2)[0]
    agreement = (cross / (first * second).sqrt().clamp_min(_EPS)).clamp(0, 1).where(count > 0, 1.0)
    return (agreement * (density / most).where(depth > 0, 1.0))[..., None]
