"""The compositing rules in plain torch: every pixel against every Gaussian, any dtype, gradients by autograd.

Slow and short on purpose; the tests hold the kernels against it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weights(
    means2d: Tensor,  # [N, 2] pixels
    conics: Tensor,  # [N, 3] upper triangle of the inverse covariances
    opacities: Tensor,  # [N]
    depths: Tensor,  # [N]
    radii: Tensor,  # [N], 0 = invisible
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compositing weights [H, W, V] of the visible Gaussians front to back, their indices [V], transmittance [H, W].

    The rules of 3D Gaussian splatting (Kerbl et al. 2023, with gsplat's constants): alpha = min(0.999, o exp(-sigma)),
    alpha < 1/255 is skipped, a pixel stops before the Gaussian that would bring its transmittance to 1e-4.
    """
    index = torch.nonzero(radii > 0)[:, 0]
    index = index[torch.argsort(depths[index], stable=True)]
    x = torch.arange(width, dtype=means2d.dtype) + 0.5
    y = torch.arange(height, dtype=means2d.dtype) + 0.5
    dx = means2d[index, 0] - x[None, :, None]  # [1, W, V]
    dy = means2d[index, 1] - y[:, None, None]  # [H, 1, V]
    a, b, c = conics[index].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities[index] * torch.exp(-sigma)).clamp(max=0.999)
    alpha = torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, dim=-1)
    counts = after > 1e-4  # monotone: once false, false for all behind
    alpha = torch.where(counts, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, dim=-1)
    ones = torch.ones_like(after[..., :1])
    before = torch.cat([ones, after], dim=-1)
    return alpha * before[..., :-1], index, before[..., -1]


def composite(means2d, conics, colors, opacities, depths, radii, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Image [H, W, D] and alpha [H, W, 1] of projected Gaussians with colors [N, D]."""
    weight, index, final = weights(means2d, conics, opacities, depths, radii, width, height)
    return weight @ colors[index], 1 - final[..., None]


def median_depth(means2d, conics, opacities, depths, radii, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Depth [H, W, 1] of the Gaussian at which transmittance falls below 0.5 (else 0), and alpha [H, W, 1]."""
    weight, index, final = weights(means2d, conics, opacities, depths, radii, width, height)
    crossed = 1 - torch.cumsum(weight, dim=-1) < 0.5  # [H, W, V]
    if len(index) == 0:
        return torch.zeros_like(final)[..., None], 1 - final[..., None]
    depth = torch.where(crossed.any(-1), depths[index][crossed.int().argmax(-1)], torch.zeros_like(final))
    return depth[..., None], 1 - final[..., None]
