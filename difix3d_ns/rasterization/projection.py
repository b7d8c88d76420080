"""3D Gaussians to image-plane Gaussians and view-dependent colours, for the Gaussians a camera can see."""

from __future__ import annotations

import torch
from torch import Tensor


def world_depths(means: Tensor, viewmat: Tensor) -> Tensor:
    """z of means [N, 3] in the camera of the world-to-camera matrix viewmat [4, 4]; [N]."""
    return means @ viewmat[2, :3] + viewmat[2, 3]


def project(
    means: Tensor,  # [N, 3]
    quats: Tensor | None,  # [N, 4] wxyz
    scales: Tensor | None,  # [N, 3]
    covars: Tensor | None,  # [N, 3, 3], instead of quats and scales
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    eps2d: float,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    antialiased: bool,
    camera_model: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """One camera by gsplat's torch reference: radii [N], means2d [N, 2], depths [N], conics [N, 3], compensations [N].

    Only the Gaussians between near and far plane whose numbers are finite are projected; of all others radius, position
    and gradient are zero, so that a NaN in one Gaussian never reaches another.
    """
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    with torch.no_grad():
        depths = world_depths(means, viewmat)
        visible = (depths > near_plane) & (depths < far_plane) & means.isfinite().all(-1)
        for extra in (quats, scales) if covars is None else (covars,):
            visible &= extra.isfinite().flatten(1).all(-1)
        index = visible.nonzero()[:, 0]
    n = means.shape[0]
    if covars is None:
        covar, _ = _quat_scale_to_covar_preci(quats[index], scales[index], compute_preci=False)
    else:
        covar = covars[index]
    radii, means2d, depths, conics, compensations = _fully_fused_projection(
        means[index],
        covar,
        viewmat[None],
        K[None],
        width,
        height,
        eps2d,
        near_plane,
        far_plane,
        calc_compensations=antialiased,
        camera_model=camera_model,
    )
    finite = means2d[0].isfinite().all(-1) & conics[0].isfinite().all(-1)
    radii = torch.where(finite & (radii[0] > radius_clip), radii[0], 0)

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros((n, *values.shape[1:])).index_copy(0, index, values)

    compensation = spread(compensations[0]) if compensations is not None else None
    return spread(radii), spread(means2d[0]), spread(depths[0]), spread(conics[0]), compensation


def sh_colors(
    degree: int,
    means: Tensor,  # [N, 3]
    coefficients: Tensor,  # [N, K, 3]
    position: Tensor,  # [3], of the camera, world
    radii: Tensor,  # [N]
) -> Tensor:
    """max(SH(direction) + 0.5, 0) by gsplat's torch reference where radii > 0, zero elsewhere; [N, 3]."""
    from gsplat.cuda._torch_impl import _spherical_harmonics

    index = (radii > 0).nonzero()[:, 0]
    used = coefficients[index, : (degree + 1) ** 2]
    colors = torch.clamp_min(_spherical_harmonics(degree, means[index] - position, used) + 0.5, 0.0)
    return colors.new_zeros((means.shape[0], 3)).index_copy(0, index, colors)
