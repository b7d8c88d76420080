"""Warping of photographs into another view through the splat's median depth, and the visibility of what it fetches.

Conventions: OpenCV axes, depth is z along the camera's forward axis, pixel centres lie at +0.5. Depths are compared
relatively, so nothing here depends on the scene's units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.io.transfers import sent

_FEATHER = 0.02  # of the shorter image side: width of the soft border of a reference
_NEAR = 1e-6


@dataclass(frozen=True)
class Warps:
    """References as seen from another camera."""

    images: Tensor  # [K, H, W, 3] in [0, 1]; 0 where the reference has no surface at that depth
    visibility: Tensor  # [K, H, W, 1] in [0, 1]; exactly 0 where the reference does not show the surface


def _geometry_dtype(tensor: Tensor) -> torch.dtype:
    # Half precision cannot hold pixel coordinates.
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def unproject(depth: Tensor, camera: Pinhole) -> Tensor:
    """World points of all pixels.

    Args:
        depth: [H, W, 1] along z, scene units; another size than the camera's is taken as the same field of view.
        camera: where the depth was rendered.

    Returns:
        [H, W, 3] world points (float32, or float64 for float64 depth).
    """
    dtype, device = _geometry_dtype(depth), depth.device
    height, width = depth.shape[:2]
    if (width, height) != (camera.width, camera.height):
        camera = camera.resized(width, height)
    camera = camera.to(device, dtype)
    to_world, intrinsics = camera.camera_to_world, camera.intrinsics
    columns = (torch.arange(width, device=device, dtype=dtype) + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0]
    rows = (torch.arange(height, device=device, dtype=dtype) + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1]
    # The rotated ray is affine in column and row: two small tables instead of a matrix product per pixel.
    ray = columns[None, :, None] * to_world[:3, 0] + (rows[:, None] * to_world[:3, 1] + to_world[:3, 2])[:, None]
    return torch.addcmul(to_world[:3, 3], ray, depth.to(dtype))


def project(points: Tensor, camera: Pinhole) -> tuple[Tensor, Tensor]:
    """Pixels and depths of world points.

    Args:
        points: [..., 3] world.
        camera: onto which to project.

    Returns:
        pixels [..., 2] (column, row; the first pixel's centre is (0.5, 0.5)) and z [...] in scene units. Points with
        z <= 0 are behind the camera and their pixels mean nothing.
    """
    matrix = camera.intrinsics.to(points.dtype) @ camera.world_to_camera.to(points.dtype)[:3]
    matrix = sent(matrix, points.device)
    homogeneous = torch.addmm(matrix[:, 3], points.reshape(-1, 3), matrix[:, :3].T).view(points.shape)
    z = homogeneous[..., 2]
    return homogeneous[..., :2] / z.clamp_min(_NEAR)[..., None], z


def in_view(points: Tensor, camera: Pinhole, margin: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Mask of points in front of a camera and inside its picture.

    Args:
        points: [..., 3] world.
        camera: of the picture.
        margin: share of the picture's sides by which it is wider on every side.

    Returns:
        [...] bool, and pixels and z of ``project``.
    """
    pixels, z = project(points, camera)
    size = sent(pixels.new_tensor([camera.width, camera.height], device="cpu"), pixels.device)
    inside = ((pixels >= -margin * size) & (pixels < (1 + margin) * size)).all(-1)
    return inside & (z > 0), pixels, z


def opaque(alpha: Tensor) -> Tensor:
    """Soften the threshold "alpha > 0.5": 0 below 0.25, 1 above 0.75, any shape."""
    return (alpha * 2 - 0.5).clamp(0, 1)


def visibility(
    points: Tensor,
    valid: Tensor,
    camera: Pinhole,
    depth: Tensor,
    alpha: Tensor,
    mask: Tensor | None = None,
    tolerance: float = 0.05,
) -> Tensor:
    """Soft visibility of points in a camera.

    The product of: the point is valid, in front of the camera, inside its picture (feathered border), at the depth the
    splat has there (|z / depth - 1| against ``tolerance``, soft), on something opaque, and not masked.

    Args:
        points: [H, W, 3] world.
        valid: [H, W, 1] in [0, 1], confidence that the point is a surface at all.
        camera: the reference camera.
        depth: [H_k, W_k, 1] median depth rendered there, 0 where there is nothing.
        alpha: [H_k, W_k, 1] opacity rendered there.
        mask: [H_k, W_k, 1] in [0, 1]; 0 = not to be used.
        tolerance: relative depth error at which visibility is one half; it ends at 1.5 times this.

    Returns:
        [H, W, 1] in [0, 1].
    """
    dtype = _geometry_dtype(points)
    pixels, z = project(points.to(dtype), camera)
    grid = (pixels * pixels.new_tensor([2 / camera.width, 2 / camera.height]) - 1).nan_to_num(-2.0)
    usable = _sample(_usable(alpha, mask).to(points.device, dtype), grid)[0]
    seen = _agreement(grid, z, camera, depth.to(points.device, dtype), tolerance)
    return (seen * usable)[..., None] * valid.to(dtype)


def warp_references(
    camera: Pinhole,
    depth: Tensor,
    alpha: Tensor,
    references: Sequence[PosedImage],
    tolerance: float = 0.05,
) -> Warps:
    """Fetch from every reference the colour of the surface each target pixel shows.

    Args:
        camera: the target camera.
        depth: [H, W, 1] median depth rendered there, 0 where there is nothing.
        alpha: [H, W, 1] opacity rendered there.
        references: photographs of any sizes; one without camera, depth or alpha gets visibility 0.
        tolerance: see ``visibility``.

    Returns:
        Warps in the order of the references (float32, or float64 for float64 depth), on the depth's device.
    """
    dtype, device = _geometry_dtype(depth), depth.device
    height, width = depth.shape[:2]
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    warps = Warps(
        torch.zeros(len(references), height, width, 3, **options),
        torch.zeros(len(references), height, width, 1, **options),
    )
    depth = depth.to(dtype).nan_to_num(0.0, 0.0, 0.0)[..., 0]
    valid = opaque(alpha[..., 0].to(device, dtype)) * (depth > 0)
    camera = camera if (camera.width, camera.height) == (width, height) else camera.resized(width, height)
    for k, reference in enumerate(references):
        if reference.camera is None or reference.depth is None or reference.alpha is None:
            continue
        grid, z = reproject(depth, camera, reference.camera)
        planes = reference.image.to(device, dtype).permute(2, 0, 1)[None]
        extras = _usable(reference.alpha, reference.mask).to(device, dtype)
        if extras.shape[-2:] == planes.shape[-2:]:
            sampled = _sample(torch.cat([planes, extras], 1), grid)
        else:
            sampled = torch.cat([_sample(planes, grid), _sample(extras, grid)])
        seen = _agreement(grid, z, reference.camera, reference.depth.to(device, dtype), tolerance)
        warps.visibility[k, ..., 0] = seen * sampled[3] * valid
        warps.images[k] = (sampled[:3] * (seen > 0)).permute(1, 2, 0)
    return warps


def fetch(image: Tensor, depth: Tensor, camera: Pinhole, other: Pinhole, shift: Tensor | None = None) -> Tensor:
    """Colours of another picture at the surface each pixel shows, wherever it lies there.

    Args:
        image: [H_k, W_k, C] of the other camera.
        depth: [H, W, 1] of the target, scene units.
        camera: the target.
        other: the camera of ``image``.
        shift: [H, W, 2] pixels (x, y) of the target: read the surface at the displaced pixel instead.

    Returns:
        [H, W, C] (float32, or float64 for float64 depth); beyond the picture its border goes on.
    """
    dtype = _geometry_dtype(depth)
    grid, _ = reproject(depth.to(dtype)[..., 0], camera, other)
    if shift is not None:
        grid = displaced(grid.permute(2, 0, 1)[None], shift.to(dtype).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    return _sample(image.to(depth.device, dtype).permute(2, 0, 1)[None], grid).permute(1, 2, 0)


def displaced(maps: Tensor, shift: Tensor) -> Tensor:
    """Read maps at displaced pixels, bilinear.

    Args:
        maps: [K, C, h, w].
        shift: [K, 2, h, w] (x, y) in pixels.

    Returns:
        [K, C, h, w]; beyond the border its value.
    """
    height, width = maps.shape[-2:]
    rows, columns = (torch.arange(n, device=maps.device, dtype=maps.dtype) + 0.5 for n in (height, width))
    x, y = columns + shift[:, 0], rows[:, None] + shift[:, 1]
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], -1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def reproject(depth: Tensor, camera: Pinhole, other: Pinhole) -> tuple[Tensor, Tensor]:
    """Project the pixels of ``camera`` at ``depth`` [..., H, W] into ``other``: grid [..., H, W, 2] in [-1, 1]^2, z.

    The same as unproject and project, but a plane sweep is affine in column, row and depth: three fused products.
    """
    height, width = depth.shape[-2:]
    table = sent(
        projection_table(camera, other), depth.device
    )  # the algebra of 4 x 4 numbers would be 30 kernels there
    exact: dict[str, Any] = {"dtype": torch.float64, "device": depth.device}
    columns = table[:, 0, None] * (torch.arange(width, **exact) + 0.5)
    rows = table[:, 1, None] * (torch.arange(height, **exact) + 0.5) + table[:, 2, None]
    columns, rows, start = (part.to(depth.dtype) for part in (columns, rows, table[:, 3]))
    x, y, z = (torch.addcmul(start[i], columns[i] + rows[i][:, None], depth) for i in range(3))
    inverse = 1 / z.clamp_min(_NEAR)
    return torch.stack([x * inverse, y * inverse], -1), z


def projection_table(camera: Pinhole, other: Pinhole) -> Tensor:
    """Compute what takes (column, row, 1) times depth, and 1, to a homogeneous place in ``other``'s [-1, 1]^2.

    Returns:
        [3, 4] float64 on the CPU.
    """
    poses = [matrix.to("cpu", torch.float64) for matrix in (other.world_to_camera, camera.camera_to_world)]
    relative = poses[0] @ poses[1]
    picture = torch.tensor([[2 / other.width, 0, -1], [0, 2 / other.height, -1], [0, 0, 1]], dtype=torch.float64)
    picture = picture @ other.intrinsics.to("cpu", torch.float64)
    slope = picture @ relative[:3, :3] @ torch.linalg.inv(camera.intrinsics.to("cpu", torch.float64))
    return torch.cat([slope, (picture @ relative[:3, 3])[:, None]], 1)


def _sample(planes: Tensor, grid: Tensor) -> Tensor:
    """Sample [1, C, h, w] at grid [H, W, 2] -> [C, H, W], bilinear."""
    return F.grid_sample(planes, grid[None], padding_mode="border", align_corners=False)[0]


def _usable(alpha: Tensor, mask: Tensor | None) -> Tensor:
    """Opaque, unmasked pixels of a reference [1, 1, H, W]."""
    plane = opaque(alpha.to(_geometry_dtype(alpha)))
    if mask is not None:
        plane = plane * mask.to(plane)
    return plane.permute(2, 0, 1)[None]


def _agreement(grid: Tensor, z: Tensor, camera: Pinhole, depth: Tensor, tolerance: float) -> Tensor:
    """Front, border and depth tests [H, W] at grid [H, W, 2] in [-1, 1]^2 and z [H, W]."""
    height, width = depth.shape[:2]
    x, y = grid.unbind(-1)
    feather = max(_FEATHER * min(camera.width, camera.height), 1.0)
    inside_x = (1 - x.abs()) * (camera.width / 2 / feather)
    border = torch.minimum(inside_x, (1 - y.abs()) * (camera.height / 2 / feather)).clamp(0, 1)

    # Interpolated depth lies on no surface at an edge: take whichever of the four neighbours agrees best.
    corner_x = ((x + 1) * (width / 2) - 0.5).clamp(0, width - 1).int()
    corner_y = ((y + 1) * (height / 2) - 0.5).clamp(0, height - 1).int()
    index = corner_y * width + corner_x
    flat = depth.reshape(-1)
    step_x = (corner_x < width - 1).int()
    below = index + (corner_y < height - 1).int() * width
    error = torch.full_like(z, torch.inf)
    for place in (index, index + step_x, below, below + step_x):
        neighbour = flat[place]
        error = torch.minimum(error, (z / neighbour - 1).abs())
    # Depth 0 (nothing) and NaN divide to inf or NaN: no agreement.
    agrees = (1.5 - error.nan_to_num(torch.inf, torch.inf) / tolerance).clamp(0, 1)
    return border * agrees * (z > _NEAR)
