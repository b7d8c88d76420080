"""Median depth, along a pixel's ray where the splat becomes more opaque than not, for warping.

Expected depth averages foreground and background at every silhouette; the median is always the depth of a Gaussian
that is there (2D Gaussian splatting, Huang et al. 2024, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_CHUNK = 16  # bins per rasterizer call: with their depths 32 channels, what gsplat renders in one go
_TILE = 16  # pixels, gsplat's own


@torch.no_grad()
def median_depth(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    rasterize_mode: str = "classic",
    bins: int = 128,
) -> tuple[Tensor, Tensor]:
    """Depth of the Gaussian at which transmittance falls below 0.5, and alpha; no gradients.

    Scales and opacities are post-activation, viewmats world-to-camera with OpenCV axes. On CPU tensors exact; on CUDA
    tensors from gsplat renderings, exact to the width of a depth bin (`bins` of them, equally filled).

    Returns:
        depth [C, H, W, 1] along the camera's z axis in scene units, 0 where transmittance never falls below 0.5;
        alpha [C, H, W, 1].
    """
    gaussians = (means, quats, scales, opacities, viewmats, Ks, width, height)
    if means.device.type == "cpu":
        from difix3d_ns.rasterization.projection import Limits
        from difix3d_ns.rasterization.rasterize import exact_median_depth

        limits = Limits(near_plane, far_plane, radius_clip, eps2d)
        return exact_median_depth(*gaussians, rasterize_mode, limits)
    import gsplat  # never on a CPU: its backend would be built

    return binned_median_depth(
        gsplat,
        *gaussians,
        bins=bins,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        eps2d=eps2d,
        antialiased=rasterize_mode == "antialiased",
    )


@torch.no_grad()
def surface_depth(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    near_plane: float = 0.01,
    rasterize_mode: str = "classic",
) -> tuple[Tensor, Tensor]:
    """Depth on the ray at which the splat becomes more opaque than not, inside the Gaussian that does it; for meshes.

    The median depth is that of the Gaussian's centre, so that it lies behind the surface and is flat within each of
    them. Here opacity grows along the ray as the Gaussian does, up to its densest point, and one half is passed before
    that (Gaussian Opacity Fields, Yu et al. 2024, section 3.2). Tensors are on the CPU; arguments as of `median_depth`.

    Returns:
        depth [C, H, W, 1] along the camera's z axis in scene units, 0 where opacity never reaches one half; alpha
        [C, H, W, 1].
    """
    from difix3d_ns.rasterization.projection import Limits
    from difix3d_ns.rasterization.rasterize import exact_median_depth

    gaussians = (means, quats, scales, opacities, viewmats, Ks, width, height)
    return exact_median_depth(*gaussians, rasterize_mode, Limits(near_plane), inside=True)


@torch.no_grad()
def binned_median_depth(
    gsplat: Any,
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    bins: int = 128,
    antialiased: bool = False,
    **limits: float,
) -> tuple[Tensor, Tensor]:
    """Compute the median depth with gsplat's kernels, from one projection and one sort for all bins.

    Args:
        gsplat: module with its ``fully_fused_projection``, ``isect_tiles``, ``isect_offset_encode`` and
            ``rasterize_to_pixels``.
        means, quats, scales, opacities, viewmats, Ks, width, height: see ``median_depth``.
        bins: number of depth bins.
        antialiased: whether opacities are lowered for what the projection blurs.
        **limits: near_plane, far_plane, radius_clip and eps2d of the projection.

    Returns:
        depth and alpha [C, H, W, 1]; see ``median_depth``.
    """
    found = gsplat.fully_fused_projection(
        means, None, quats, scales, viewmats, Ks, width, height, packed=False, calc_compensations=antialiased, **limits
    )
    radii, means2d, depths, conics, compensations = found
    if antialiased:
        opacities = opacities * compensations
    opacities = opacities.expand_as(depths)
    results = []
    for camera in range(len(viewmats)):
        # what is culled has undefined values; and each bin's channels are only as many as what is visible
        visible = (radii[camera] > 0).nonzero().squeeze(-1)
        size, place, distance, conic, opacity = (
            part[camera, visible] for part in (radii, means2d, depths, conics, opacities)
        )
        if len(visible) == 0:
            nothing = means.new_zeros(height, width, 1)
            results.append((nothing, nothing))
            continue
        composite = _compositor(gsplat, size, place, distance, conic, opacity, width, height)
        results.append(_median_of_bins(composite, distance, bins))
    depth, alpha = (torch.stack(maps) for maps in zip(*results, strict=True))
    return depth, alpha


Composite = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Channels [N, D] of Gaussians to (picture [H, W, D], alpha [H, W, 1])"""


def _compositor(
    gsplat: Any,
    radii: Tensor,  # [N] pixels
    means2d: Tensor,  # [N, 2]
    depths: Tensor,  # [N]
    conics: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    width: int,
    height: int,
) -> Composite:
    """Sort projected Gaussians into tiles, once for any number of pictures."""
    means2d, conics, opacities = (part[None].contiguous() for part in (means2d, conics, opacities))
    tiles = (math.ceil(width / _TILE), math.ceil(height / _TILE))
    _, places, order = gsplat.isect_tiles(means2d, radii[None], depths[None], _TILE, *tiles, packed=False, n_cameras=1)
    offsets = gsplat.isect_offset_encode(places, 1, *tiles)

    def composite(channels: Tensor) -> tuple[Tensor, Tensor]:
        image, alpha = gsplat.rasterize_to_pixels(
            means2d, conics, channels[None], opacities, width, height, _TILE, offsets, order
        )
        return image[0], alpha[0]

    return composite


def _median_of_bins(composite: Composite, depths: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Render every Gaussian as (one-hot depth bin, the same times its depth).

    The first bin in which the cumulated weight exceeds 0.5 holds the median, and the mean depth of what the pixel sees
    inside that bin stands for it. The bins come in chunks front to back, so that memory stays small, until all pixels
    that are opaque enough have theirs.

    Args:
        composite: renders channels of the Gaussians.
        depths: [N] along z.
        bins: how many.

    Returns:
        depth and alpha [H, W, 1].
    """
    bin_of = torch.searchsorted(depth_bins(depths, bins), depths)  # [N]
    for first in range(0, bins, _CHUNK):
        member = bin_of[:, None] == torch.arange(first, first + _CHUNK, device=depths.device)  # [N, chunk]
        channels = torch.cat([member.to(depths.dtype), torch.where(member, depths[:, None], 0.0)], dim=-1)
        image, alpha = composite(channels)
        if first == 0:
            depth, before = torch.zeros_like(alpha), torch.zeros_like(alpha)  # before: weight in front of the chunk
            found = torch.zeros_like(alpha, dtype=torch.bool)
        weight, weighted = image[..., :_CHUNK], image[..., _CHUNK:]
        cumulated = before + weight.cumsum(-1)
        crossed = cumulated > 0.5
        bin_index = crossed.int().argmax(-1, keepdim=True)
        inside = weighted.gather(-1, bin_index) / weight.gather(-1, bin_index).clamp(min=1e-10)
        now = crossed.any(-1, keepdim=True) & ~found
        depth = torch.where(now, inside, depth)
        found |= now
        before = cumulated[..., -1:]
        if not (~found & (alpha > 0.5)).any():  # a wait, for up to seven renderings less
            break
    return depth, alpha


def depth_bins(depths: Tensor, bins: int) -> Tensor:
    """Inner edges [bins - 1] of bins that hold equally many of the depths [N], N > 0.

    Edges lie halfway between two Gaussians, so that rounding never moves one to another bin.
    """
    ordered = depths.sort().values
    last = len(depths) - 1
    at = torch.arange(1, bins, device=depths.device) * last // bins
    return (ordered[at] + ordered[(at + 1).clamp(max=last)]) / 2
