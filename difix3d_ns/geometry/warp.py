"""Carrying photographs into another view through the splat's median depth, and knowing where that holds.

Conventions: OpenCV axes, depth is z along the camera's forward axis, pixel centres lie at +0.5. Depths are compared
relatively, so nothing here depends on the scene's units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.reference import Reference

_FEATHER = 0.02  # of the shorter image side: width of the soft border of a reference
_NEAR = 1e-6


@dataclass(frozen=True)
class Warps:
    """References as seen from another camera.

    ``cosine`` and ``distance`` tell how much a reference's view of a point resembles the target's: the cosine of the
    angle between both viewing rays, and the reference's distance to the point over the target's.
    """

    images: Tensor  # [K, H, W, 3] in [0, 1]; 0 where the reference has no pixel or cannot be warped
    visibility: Tensor  # [K, H, W, 1] in [0, 1]; exactly 0 where the reference does not show the surface
    cosine: Tensor  # [K, H, W, 1] in [-1, 1]
    distance: Tensor  # [K, H, W, 1]; 1 = as far as the target camera


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
    to_world = camera.camera_to_world.to(device, dtype)
    intrinsics = camera.intrinsics.to(device, dtype)
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
    matrix = camera.intrinsics.to(points) @ camera.world_to_camera.to(points)[:3]
    homogeneous = torch.addmm(matrix[:, 3], points.reshape(-1, 3), matrix[:, :3].T).view(points.shape)
    z = homogeneous[..., 2]
    return homogeneous[..., :2] / z.clamp_min(_NEAR)[..., None], z


def opaque(alpha: Tensor) -> Tensor:
    """Soft "alpha > 0.5": 0 below 0.25, 1 above 0.75, any shape."""
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
    """How surely a camera shows each of the points.

    The product of: the point is valid, in front of the camera, inside its picture (feathered border), at the depth the
    splat has there (|z / depth - 1| against ``tolerance``, soft), on something opaque, and not masked.

    Args:
        points: [H, W, 3] world.
        valid: [H, W, 1] in [0, 1], how surely each point is a surface at all.
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
    unit = pixels / pixels.new_tensor([camera.width, camera.height])
    extras = _opacity_plane(alpha, mask).to(points.device, dtype)
    extra = F.grid_sample(extras, (unit * 2 - 1)[None], padding_mode="border", align_corners=False)[0, 0]
    seen = _geometric_visibility(unit, z, camera, depth.to(points.device, dtype), tolerance)
    return (seen * extra)[..., None] * valid.to(dtype)


def warp_references(
    camera: Pinhole,
    depth: Tensor,
    alpha: Tensor,
    references: Sequence[Reference],
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
    warps = Warps(*(torch.zeros(len(references), height, width, n, dtype=dtype, device=device) for n in (3, 1, 1, 1)))
    if not references:
        return warps
    depth = depth.to(dtype).nan_to_num(0.0, 0.0, 0.0)
    points = unproject(depth, camera)
    valid = (opaque(alpha.to(device, dtype)) * (depth > 0))[..., 0]
    ray = points - camera.position.to(points)
    span = torch.linalg.vector_norm(ray, dim=-1).clamp_min(_NEAR)
    for k, reference in enumerate(references):
        if reference.camera is None or reference.depth is None or reference.alpha is None:
            continue
        other = reference.camera
        pixels, z = project(points, other)
        unit = pixels / pixels.new_tensor([other.width, other.height])
        planes = reference.image.to(device, dtype).permute(2, 0, 1)[None]
        extras = _opacity_plane(reference.alpha, reference.mask).to(device, dtype)
        together = extras.shape[-2:] == planes.shape[-2:]
        grid = (unit * 2 - 1)[None]
        sampled = F.grid_sample(
            torch.cat([planes, extras], 1) if together else planes, grid, padding_mode="border", align_corners=False
        )[0]
        if together:
            extra = sampled[3]
        else:
            extra = F.grid_sample(extras, grid, padding_mode="border", align_corners=False)[0, 0]
        seen = _geometric_visibility(unit, z, other, reference.depth.to(device, dtype), tolerance)
        warps.visibility[k, ..., 0] = seen * extra * valid
        warps.images[k] = (sampled[:3] * (seen > 0)).permute(1, 2, 0)
        baseline = other.position.to(points) - camera.position.to(points)
        other_ray = ray - baseline
        other_span = torch.linalg.vector_norm(other_ray, dim=-1).clamp_min(_NEAR)
        warps.cosine[k, ..., 0] = (ray * other_ray).sum(-1) / (span * other_span)
        warps.distance[k, ..., 0] = other_span / span
    return warps


def _opacity_plane(alpha: Tensor, mask: Tensor | None) -> Tensor:
    """[1, 1, H, W]: usable opaque pixels of a reference."""
    plane = opaque(alpha.float() if alpha.dtype != torch.float64 else alpha)
    if mask is not None:
        plane = plane * mask.to(plane)
    return plane.permute(2, 0, 1)[None]


def _geometric_visibility(unit: Tensor, z: Tensor, camera: Pinhole, depth: Tensor, tolerance: float) -> Tensor:
    """[H, W] from picture coordinates in [0, 1]^2 ([H, W, 2]) and z ([H, W]): front, border and depth tests."""
    height, width = depth.shape[:2]
    shorter = min(camera.width, camera.height)
    # Distance to the nearest border, in units of the feather; half a pixel inside counts fully outside.
    inside = torch.minimum(unit, 1 - unit)
    inside = torch.minimum(inside[..., 0] * camera.width, inside[..., 1] * camera.height)
    border = (inside / max(_FEATHER * shorter, 1.0)).clamp(0, 1)

    # Interpolated depth lies on no surface at an edge: take whichever of the four neighbours agrees best.
    flat = depth.reshape(-1)
    corner_x = (unit[..., 0] * width - 0.5).clamp(0, width - 1).nan_to_num(0.0)
    corner_y = (unit[..., 1] * height - 0.5).clamp(0, height - 1).nan_to_num(0.0)
    left, top = corner_x.long(), corner_y.long()
    step_x = (left < width - 1).long()
    step_y = (top < height - 1).long() * width
    index = top * width + left
    error = torch.full_like(z, torch.inf)
    for offset in (index, index + step_x, index + step_y, index + step_y + step_x):
        neighbour = flat[offset]
        error = torch.minimum(error, torch.where(neighbour > 0, (z - neighbour).abs() / neighbour, torch.inf))
    agrees = (1.5 - error / tolerance).clamp(0, 1)
    return torch.where(z > _NEAR, border * agrees, 0)
