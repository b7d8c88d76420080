"""gsplat 1.4.0's `rasterization` on a CPU: the same signature, images, gradients and info dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from difix3d_ns.rasterization.compositor import Composite, median_of_projected
from difix3d_ns.rasterization.projection import Limits, depth_courses, project, sh_colors

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]


def rasterization(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [(C,) N, D] or [(C,) N, K, 3]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = 16,
    backgrounds: Tensor | None = None,  # [C, D]
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye"] = "pinhole",
    covars: Tensor | None = None,  # [N, 3, 3]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N Gaussians from C cameras; differentiable in everything but `Ks` (Kerbl et al. 2023).

    Args as in `gsplat.rasterization` 1.4.0: quats are wxyz and need not be normalised, scales and opacities are
    post-activation, colors are either values or, with `sh_degree`, spherical-harmonics coefficients; viewmats are
    world-to-camera (OpenCV axes), Ks in pixels. `tile_size` and `channel_chunk` are accepted and change nothing: tiles
    are always 8x8 and channels unlimited. A Gaussian with a NaN or infinite parameter is invisible and has zero
    gradient.

    Returns:
        colors [C, H, W, X] (X = D, 1 or D + 1 by `render_mode`), alphas [C, H, W, 1] and the info dictionary that
        gsplat's strategies read: means2d ([C, N, 2], or [nnz, 2] when packed; `.absgrad` after backward if requested),
        radii, depths, conics, opacities, camera_ids, gaussian_ids, width, height, n_cameras, tile_size.

    Raises:
        ValueError: a shape or option is wrong.
        NotImplementedError: `distributed`, or `sparse_grad` with `packed`: use gsplat on CUDA for these.
    """
    n, cameras = means.shape[0], viewmats.shape[0]
    _check(means, quats, scales, covars, opacities, colors, viewmats, Ks, sh_degree, render_mode, rasterize_mode)
    if distributed or (packed and sparse_grad):
        raise NotImplementedError("the CPU rasterizer has neither `distributed` nor `sparse_grad`; leave them False")

    limits = Limits(near_plane, far_plane, radius_clip, eps2d)
    radii, means2d, depths, conics, factors = project(
        means, quats, scales, covars, viewmats, Ks, width, height, limits, camera_model
    )
    alphas = _alphas(opacities, factors, rasterize_mode)

    if sh_degree is None:
        values = colors.expand(cameras, n, colors.shape[-1])
    else:
        positions = torch.inverse(viewmats)[:, :3, 3]
        coefficients = [colors] * cameras if colors.dim() == 3 else colors.unbind()
        values = torch.stack(
            [sh_colors(sh_degree, means, coefficients[c], positions[c], radii[c]) for c in range(cameras)]
        )

    camera_ids = gaussian_ids = None
    rows = [n * c for c in range(cameras + 1)]
    if packed:
        camera_ids, gaussian_ids = (radii > 0).nonzero(as_tuple=True)
        rows = [0, *torch.bincount(camera_ids, minlength=cameras).cumsum(0).tolist()]
        radii, means2d, depths, conics, alphas, values = (
            x[camera_ids, gaussian_ids] for x in (radii, means2d, depths, conics, alphas, values)
        )

    channels = {"RGB": [values], "D": [depths[..., None]], "ED": [depths[..., None]]}.get(
        render_mode, [values, depths[..., None]]
    )
    stacked = torch.cat(channels, dim=-1)
    image, alpha = Composite.apply(
        means2d.flatten(0, -2),
        conics.flatten(0, -2),
        stacked.flatten(0, -2),
        alphas.flatten(),
        depths.flatten(),
        radii.flatten(),
        rows,
        width,
        height,
        means2d if absgrad else None,
    )
    if backgrounds is not None and render_mode not in ("D", "ED"):
        background = backgrounds[:, None, None, :]
        if render_mode != "RGB":
            background = torch.nn.functional.pad(background, (0, 1))
        image = image + (1.0 - alpha) * background
    if render_mode in ("ED", "RGB+ED"):
        image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp(min=1e-10)], dim=-1)

    info = {
        "camera_ids": camera_ids,
        "gaussian_ids": gaussian_ids,
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": alphas,
        "width": width,
        "height": height,
        "tile_size": tile_size,
        "n_cameras": cameras,
    }
    return image, alpha, info


def exact_median_depth(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    rasterize_mode: str,
    limits: Limits,
    inside: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute `median_depth`, or with ``inside`` `surface_depth`, on a CPU: depth and alpha, [C, H, W, 1] each."""
    _check(means, quats, scales, None, opacities, means, viewmats, Ks, None, "D", rasterize_mode)
    with torch.no_grad():
        radii, means2d, depths, conics, factors = project(
            means, quats, scales, None, viewmats, Ks, width, height, limits
        )
        projected = (means2d, conics, _alphas(opacities, factors, rasterize_mode), depths, radii)
        courses: Sequence[Tensor | None] = [None] * len(viewmats)
        if inside:
            courses = list(depth_courses(means, quats, scales, viewmats, Ks, conics))
        cameras = zip(zip(*projected, strict=True), courses, strict=True)
        results = [median_of_projected(*camera, width, height, course) for camera, course in cameras]
    depth, alpha = (torch.stack(x)[..., None] for x in zip(*results, strict=True))
    return depth, alpha


def _alphas(opacities: Tensor, factors: Tensor, rasterize_mode: str) -> Tensor:
    """Opacities [C, N] of the projected Gaussians, with the compensation factors [C, N] of antialiasing."""
    alphas = opacities.expand(factors.shape)
    return alphas * factors if rasterize_mode == "antialiased" else alphas


def _check(means, quats, scales, covars, opacities, colors, viewmats, Ks, sh_degree, render_mode, mode) -> None:
    n, cameras = means.shape[0], viewmats.shape[0]
    expected = {"means": (means, (n, 3)), "opacities": (opacities, (n,))}
    expected |= {"viewmats": (viewmats, (cameras, 4, 4)), "Ks": (Ks, (cameras, 3, 3))}
    if covars is None:
        expected |= {"quats": (quats, (n, 4)), "scales": (scales, (n, 3))}
    else:
        expected["covars"] = (covars, (n, 3, 3))
    for name, (tensor, shape) in expected.items():
        if tensor is None or tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must have shape {list(shape)}, not {None if tensor is None else list(tensor.shape)}"
            )
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} lies on {tensor.device}; this rasterizer is for CPU tensors, use gsplat on CUDA")
    tail = 1 if sh_degree is None else 2
    leading = tuple(colors.shape[:-tail])
    if leading not in ((n,), (cameras, n)):
        raise ValueError(f"colors must begin with [{n}] or [{cameras}, {n}] Gaussians, not {list(colors.shape)}")
    if sh_degree is not None and (colors.shape[-1] != 3 or (sh_degree + 1) ** 2 > colors.shape[-2]):
        raise ValueError(f"sh_degree {sh_degree} needs colors [..., {(sh_degree + 1) ** 2}, 3]: {list(colors.shape)}")
    if render_mode not in ("RGB", "D", "ED", "RGB+D", "RGB+ED"):
        raise ValueError(f"render_mode must be RGB, D, ED, RGB+D or RGB+ED, not {render_mode!r}")
    if mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode must be classic or antialiased, not {mode!r}")
