"""3D Gaussians to image-plane Gaussians and view-dependent colours, differentiable.

Pinhole cameras and spherical harmonics to degree 3 go through our kernels; everything else gsplat can do (fisheye,
orthographic, given covariances, degree 4) goes through gsplat's torch reference, which is also what the tests compare
with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.rasterization import projection_kernels, sh_kernels
from difix3d_ns.rasterization.jit import KERNELS, as_array, slots
from difix3d_ns.rasterization.projection_kernels import Camera

_PER_SLOT = 2048  # Gaussians per thread, at least


class Limits(NamedTuple):
    """Limits within which Gaussians are visible, by gsplat's names and in its order."""

    near_plane: float = 0.01
    far_plane: float = 1e10
    radius_clip: float = 0.0  # pixels; smaller ones are invisible
    eps2d: float = 0.3  # added to the diagonal of covariances in the image


DEFAULT_LIMITS = Limits()


def _slots(n: int) -> int:
    return slots(n // _PER_SLOT)


def project(
    means: Tensor,  # [N, 3]
    quats: Tensor | None,  # [N, 4] wxyz
    scales: Tensor | None,  # [N, 3]
    covars: Tensor | None,  # [N, 3, 3], instead of quats and scales
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    limits: Limits = DEFAULT_LIMITS,
    camera_model: str = "pinhole",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Project Gaussians: radii [C, N] int32, means2d [C, N, 2], depths [C, N], conics [C, N, 3], compensations [C, N].

    Compensations are the opacity factors of antialiasing. All five are zero, and so are the gradients, where a
    Gaussian is invisible: outside near and far plane or the image, not larger than `radius_clip` pixels, or not
    finite.
    """
    if covars is None and camera_model == "pinhole":
        return _Project.apply(means, quats, scales, viewmats, Ks, (width, height, *limits))
    per_camera = [
        project_reference(means, quats, scales, covars, view, K, width, height, limits, camera_model)
        for view, K in zip(viewmats, Ks, strict=True)
    ]
    radii, means2d, depths, conics, factors = (torch.stack(x) for x in zip(*per_camera, strict=True))
    return radii, means2d, depths, conics, factors


@torch.no_grad()
def depth_courses(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz
    scales: Tensor,  # [N, 3]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    conics: Tensor,  # [C, N, 3] as projected
) -> Tensor:
    """Slope of depth in each Gaussian, per pixel right and down, and its spread along a ray, [C, N, 3].

    A ray aside of the centre meets the densest point at another depth: the mean of the depth given the pixel, in the
    affine approximation by which Gaussians are projected (RaDe-GS, Zhang et al. 2024, section 3.2), with the blur of
    the projection: small where a Gaussian is a pixel or less. The spread is the Gaussian's own standard deviation on
    the ray through its centre.
    """
    from gsplat.utils import normalized_quat_to_rotmat

    turns = normalized_quat_to_rotmat(F.normalize(quats, dim=-1))  # [N, 3, 3]
    axes = turns * scales[:, None]
    courses = []
    for view, lens, conic in zip(viewmats, Ks, conics, strict=True):
        x, y, z = (means @ view[:3, :3].T + view[:3, 3]).unbind(-1)
        across, down, along = (view[:3, :3] @ axes).unbind(1)  # [N, 3] each
        across = lens[0, 0] * (across - along * (x / z)[:, None]) / z[:, None]  # pixels
        down = lens[1, 1] * (down - along * (y / z)[:, None]) / z[:, None]
        shared = torch.stack([(across * along).sum(-1), (down * along).sum(-1)], -1)  # covariance with depth
        a, b, c = conic.unbind(-1)
        slope = torch.stack([a * shared[:, 0] + b * shared[:, 1], b * shared[:, 0] + c * shared[:, 1]], -1)
        ray = torch.stack([x, y, z], -1) @ view[:3, :3]  # world
        steps = torch.einsum("nij,ni->nj", turns, ray) / scales  # to the centre, in standard deviations of each axis
        courses.append(torch.cat([slope, (z / steps.norm(dim=-1))[:, None]], -1))
    return torch.stack(courses).nan_to_num(0.0, 0.0, 0.0)


def sh_colors(
    degree: int,
    means: Tensor,  # [N, 3]
    coefficients: Tensor,  # [N, K, 3]
    position: Tensor,  # [3], of the camera, world
    radii: Tensor,  # [N]
) -> Tensor:
    """View-dependent colours [N, 3]: max(SH(direction) + 0.5, 0) where radii > 0, zero elsewhere."""
    if degree <= 3:
        return _ShColors.apply(degree, means, coefficients, position, radii)
    return sh_colors_reference(degree, means, coefficients, position, radii)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, viewmats, Ks, size_and_limits):
        gaussians = tuple(as_array(x) for x in (means, quats, scales))
        matrices = (x.detach().double().contiguous().numpy() for x in (viewmats, Ks))
        cameras = [Camera(view, K, *map(float, size_and_limits)) for view, K in zip(*matrices, strict=True)]
        n = len(means)
        radii = np.zeros((len(cameras), n), np.int32)
        floats = (np.zeros((len(cameras), n, *k), np.float32) for k in ((2,), (), (3,), ()))
        outputs = (radii, *floats)  # radii, means2d, depths, conics, factors
        with KERNELS:
            for c, camera in enumerate(cameras):
                projection_kernels.project(gaussians, camera, _slots(n), tuple(x[c] for x in outputs))
        ctx.gaussians, ctx.cameras, ctx.radii = gaussians, cameras, radii
        tensors = tuple(torch.from_numpy(x) for x in outputs)
        ctx.mark_non_differentiable(tensors[0])
        return tensors

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, _, *grads):
        from_above = [as_array(x) for x in grads]
        sums = tuple(np.zeros_like(x) for x in ctx.gaussians)
        grad_views = np.zeros((len(ctx.cameras), _slots(len(sums[0])), 3, 4))
        with KERNELS:
            for c, camera in enumerate(ctx.cameras):
                gradients = tuple(x[c] for x in from_above)
                projection_kernels.project_backward(ctx.gaussians, camera, ctx.radii[c], gradients, sums, grad_views[c])
        grad_viewmats = torch.zeros((len(ctx.cameras), 4, 4))
        grad_viewmats[:, :3] = torch.from_numpy(grad_views.sum(1))
        return (*map(torch.from_numpy, sums), grad_viewmats, None, None)


class _ShColors(torch.autograd.Function):
    @staticmethod
    def forward(ctx, degree, means, coefficients, position, radii):
        arrays = tuple(as_array(x) for x in (means, position, coefficients))
        colors = np.zeros((len(means), 3), np.float32)
        with KERNELS:
            sh_kernels.sh_colors(degree, *arrays, radii.numpy(), _slots(len(means)), colors)
        ctx.degree, ctx.arrays, ctx.colors = degree, arrays, colors
        return torch.from_numpy(colors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_colors):
        means, _, coefficients = ctx.arrays
        grad_means, grad_coefficients = np.zeros_like(means), np.zeros_like(coefficients)
        grad_position = np.zeros((_slots(len(means)), 3))
        with KERNELS:
            sh_kernels.sh_colors_backward(
                ctx.degree, *ctx.arrays, ctx.colors, as_array(grad_colors), grad_means, grad_coefficients, grad_position
            )
        position = torch.from_numpy(grad_position.sum(0).astype(np.float32))
        return None, torch.from_numpy(grad_means), torch.from_numpy(grad_coefficients), position, None


def project_reference(
    means: Tensor,  # [N, 3]
    quats: Tensor | None,  # [N, 4]
    scales: Tensor | None,  # [N, 3]
    covars: Tensor | None,  # [N, 3, 3]
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    limits: Limits = DEFAULT_LIMITS,
    camera_model: str = "pinhole",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Do as `project` for one camera (no leading dimension) by gsplat's torch reference, in any float type."""
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    with torch.no_grad():  # a NaN in one Gaussian must not reach another's gradient: leave it out
        depths = means @ viewmat[2, :3] + viewmat[2, 3]
        visible = (depths > limits.near_plane) & (depths < limits.far_plane) & means.isfinite().all(-1)
        for extra in (quats, scales) if covars is None else (covars,):
            assert extra is not None
            visible &= extra.isfinite().flatten(1).all(-1)
        index = visible.nonzero()[:, 0]
    if covars is None:
        assert quats is not None and scales is not None
        covar, _ = _quat_scale_to_covar_preci(quats[index], scales[index], compute_preci=False)
    else:
        covar = covars[index]
    radii, means2d, depths, conics, factors = (
        x[0]
        for x in _fully_fused_projection(
            means[index],
            covar,
            viewmat[None],
            K[None],
            width,
            height,
            limits.eps2d,
            limits.near_plane,
            limits.far_plane,
            calc_compensations=True,
            camera_model=camera_model,
        )
    )
    finite = means2d.isfinite().all(-1) & conics.isfinite().all(-1)
    radii = torch.where(finite & (radii > limits.radius_clip), radii, 0)
    n = means.shape[0]

    def scattered(x: Tensor) -> Tensor:
        shown = (radii > 0).view(-1, *[1] * (x.dim() - 1))
        return x.new_zeros((n, *x.shape[1:])).index_copy(0, index, torch.where(shown, x, 0))

    return scattered(radii), scattered(means2d), scattered(depths), scattered(conics), scattered(factors)


def sh_colors_reference(
    degree: int,
    means: Tensor,  # [N, 3]
    coefficients: Tensor,  # [N, K, 3]
    position: Tensor,  # [3]
    radii: Tensor,  # [N]
) -> Tensor:
    """Do as `sh_colors` by gsplat's torch reference, in any float type."""
    from gsplat.cuda._torch_impl import _spherical_harmonics

    index = (radii > 0).nonzero()[:, 0]
    used = coefficients[index, : (degree + 1) ** 2]
    colors = torch.clamp_min(_spherical_harmonics(degree, means[index] - position, used) + 0.5, 0.0)
    return colors.new_zeros((means.shape[0], 3)).index_copy(0, index, colors)
