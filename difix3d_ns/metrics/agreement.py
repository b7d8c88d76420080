"""Agreement of pictures of one scene on its detail: what one shows, its neighbours show at the same surface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import reproject, unproject, visibility
from difix3d_ns.metrics.high_pass import RunningCorrelation, high_pass

NEIGHBOURS = 4
"""views that each is compared with"""
TOLERANCE = 0.02
"""relative difference of depths up to which two views show the same surface"""


def agreement(
    pictures: Sequence[Tensor],
    cameras: Sequence[Pinhole],
    depths: Sequence[Tensor],
    factor: float,
    neighbours: int = NEIGHBOURS,
) -> float:
    """Correlate the detail of each picture with that of its neighbours at the same surfaces (Pearson).

    Detail is what a reduction by ``factor`` loses. Blur does not count, since correlation does not depend on scale;
    pictures that were each made sharp by themselves agree less than their photos do. Independent noise gives 0.

    Args:
        pictures: [H, W, 3] each, in [0, 1]; read one pair at a time, so they may be loaded when they are indexed.
        cameras: of the pictures; sizes may differ from theirs over the same field of view.
        depths: [h, w, 1] each along z, exact or median, 0 where there is nothing; scene units, any size.
        factor: see ``high_pass``.
        neighbours: nearest views that each is compared with.

    Returns:
        One number from -1 to 1 over all pairs and pixels; 0 where no surface is seen twice or there is no detail.

    Raises:
        ValueError: as many pictures as cameras and depths are needed.
    """
    found = 0.0
    for found in agreement_so_far(pictures, cameras, depths, factor, neighbours):  # noqa: B007  # the last one counts
        pass
    return found


def agreement_so_far(
    pictures: Sequence[Tensor],
    cameras: Sequence[Pinhole],
    depths: Sequence[Tensor],
    factor: float,
    neighbours: int = NEIGHBOURS,
) -> Iterator[float]:
    """Compute ``agreement`` picture by picture, for callers with other things to do in between; arguments as there.

    Yields:
        The agreement of all pairs up to this picture; the last one is that of all.
    """
    if not len(pictures) == len(cameras) == len(depths):
        raise ValueError(f"{len(pictures)} pictures, {len(cameras)} cameras and {len(depths)} depths")
    correlation = RunningCorrelation()
    for index, others in enumerate(nearest(cameras, neighbours)):
        own = high_pass(pictures[index].float(), factor)
        for warped, shown in _details_beside(own, index, others, pictures, cameras, depths, factor):
            correlation.add(own[shown], warped[shown])
        yield correlation.value


def _details_beside(
    own: Tensor,
    index: int,
    others: Sequence[int],
    pictures: Sequence[Tensor],
    cameras: Sequence[Pinhole],
    depths: Sequence[Tensor],
    factor: float,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Warp the detail of some pictures to where one picture shows the same surfaces.

    Args:
        own: [H, W, C] detail of the picture.
        index: of it.
        others: indices of those that are warped.
        pictures, cameras, depths, factor: as of ``agreement``.

    Yields:
        For each that shows any of it, its detail [H, W, C], and where both show the same surface [H, W] bool.
    """
    height, width = own.shape[:2]
    camera = cameras[index].resized(width, height)
    depth = resized(depths[index].to(own), height, width, "nearest-exact")
    points, valid = unproject(depth, camera), (depth > 0).to(depth)
    for other in others:
        there = depths[other].to(own)
        seen = visibility(points, valid, cameras[other], there, (there > 0).to(there), tolerance=TOLERANCE)
        shown = seen[..., 0] > 0.5
        if not shown.any():
            continue
        grid, _ = reproject(depth[..., 0], camera, cameras[other])
        planes = high_pass(pictures[other].to(own), factor).permute(2, 0, 1)[None]
        # bilinear would blur by how far a place is from a pixel's centre, and the finest detail with it
        warped = F.grid_sample(planes, grid[None], "bicubic", "border", align_corners=False)[0].permute(1, 2, 0)
        yield warped, shown


def nearest(cameras: Sequence[Pinhole], count: int) -> list[list[int]]:
    """Indices of the nearest other cameras of each, that look the same way within a right angle."""
    if len(cameras) < 2:
        return [[] for _ in cameras]
    positions = torch.stack([camera.position.double().cpu() for camera in cameras])
    directions = torch.stack([camera.forward.double().cpu() for camera in cameras])
    distances = torch.cdist(positions, positions)
    distances[(directions @ directions.T) <= 0] = torch.inf
    distances.fill_diagonal_(torch.inf)
    order = distances.argsort(dim=1, stable=True)[:, :count]
    return [[int(k) for k in row if distances[i, k] < torch.inf] for i, row in enumerate(order)]
