"""Median depth, along a pixel's ray where the splat becomes more opaque than not, for warping.

Expected depth averages foreground and background at every silhouette; the median is always the depth of a Gaussian
that is there (2D Gaussian splatting, Huang et al. 2024, section 5).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_CHUNK = 16  # bins per rasterizer call: with their depths 32 channels, what gsplat renders in one go


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
    from gsplat import rasterization  # never on a CPU: its backend would be built

    return binned_median_depth(
        rasterization,
        *gaussians,
        bins=bins,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        eps2d=eps2d,
        rasterize_mode=rasterize_mode,
    )


@torch.no_grad()
def binned_median_depth(
    rasterize: Callable[..., tuple[Tensor, Tensor, dict]],
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    bins: int = 128,
    **options,
) -> tuple[Tensor, Tensor]:
    """Compute the median depth with any function with gsplat's `rasterization` signature.

    Every Gaussian is rendered as (one-hot depth bin, the same times its depth): the first bin in which the cumulated
    weight exceeds 0.5 holds the median, and the mean depth of what the pixel sees inside that bin stands for it. The
    bins come in chunks front to back, so that memory stays small.
    """
    planes = {name: options[name] for name in ("near_plane", "far_plane") if name in options}
    depths, edges = depth_bins(means, viewmats, Ks, width, height, bins, **planes)
    bin_of = torch.searchsorted(edges, depths)  # [C, N]
    cameras = len(viewmats)
    depth = means.new_zeros((cameras, height, width, 1))
    before = means.new_zeros((cameras, height, width, 1))  # weight of all bins in front of the chunk
    found = torch.zeros_like(depth, dtype=torch.bool)
    for first in range(0, bins, _CHUNK):
        member = bin_of[..., None] == torch.arange(first, first + _CHUNK, device=means.device)  # [C, N, chunk]
        one_hot = member.to(means.dtype)
        channels = torch.cat([one_hot, torch.where(member, depths[..., None], 0.0)], dim=-1)
        image, alpha, _ = rasterize(
            means, quats, scales, opacities, channels, viewmats, Ks, width, height, packed=False, **options
        )
        weight, weighted = image[..., :_CHUNK], image[..., _CHUNK:]
        cumulated = before + weight.cumsum(-1)
        crossed = cumulated > 0.5
        bin_index = crossed.int().argmax(-1, keepdim=True)
        inside = weighted.gather(-1, bin_index) / weight.gather(-1, bin_index).clamp(min=1e-10)
        now = crossed.any(-1, keepdim=True) & ~found
        depth = torch.where(now, inside, depth)
        found |= now
        before = cumulated[..., -1:]
    return depth, alpha


def depth_bins(
    means: Tensor,  # [N, 3]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    bins: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
) -> tuple[Tensor, Tensor]:
    """Depths [C, N] and inner bin edges [C, bins - 1] that cut the Gaussians a camera sees into equally many per bin.

    Edges lie halfway between two Gaussians, so that rounding never moves one to another bin.
    """
    local = torch.einsum("cij,nj->cni", viewmats[:, :3, :3], means) + viewmats[:, None, :3, 3]  # [C, N, 3]
    depths = local[..., 2].contiguous()
    pixels = torch.einsum("cij,cnj->cni", Ks, local)[..., :2] / depths[..., None]
    size = pixels.new_tensor([width, height])
    seen = (depths > near_plane) & (depths < far_plane) & ((pixels / size - 0.5).abs() < 0.65).all(-1)
    edges = depths.new_zeros((len(depths), bins - 1))
    for camera in range(len(depths)):
        z = depths[camera, seen[camera]].sort().values
        if len(z) > 1:
            at = torch.arange(1, bins, device=z.device) * (len(z) - 1) // bins
            edges[camera] = (z[at] + z[at + 1]) / 2
    return depths, edges
