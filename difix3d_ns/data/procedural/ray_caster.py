"""Renders a procedural scene: exact visibility and depth, direct light, soft shadows, some ambient occlusion."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from difix3d_ns.data.procedural.bounding_volumes import BoundingVolumes
from difix3d_ns.data.procedural.ray_scene import CYLINDER, DISC, LEAF, SPHERE, Scene
from difix3d_ns.data.procedural.textures import SIZE
from difix3d_ns.geometry.pinhole import Pinhole

_LEVELS = int(math.log2(SIZE)) - 1  # mip levels from SIZE down to 4
_LEVEL_OFFSETS = np.cumsum([0] + [(SIZE >> i) ** 2 for i in range(_LEVELS)]).astype(np.int64)
_LINEAR = ((np.arange(256) / 255.0) ** 2.2).astype(np.float32)
_OCCLUSION_RANGE = 0.9  # metres
_FAR = 1e9


def render(scene: Scene, camera: Pinhole, samples: int = 2, volumes: BoundingVolumes | None = None, grid: int = 1):
    """Render a scene.

    Args:
        scene: what to show.
        camera: OpenCV axes, metres.
        samples: a pixel is the mean of ``samples ** 2`` rays; lights have as many points.
        volumes: the scene's hierarchy, when several views are rendered.
        grid: pixels that will be reduced to one, along each side: each of them has other points of a light and other
            rays of ambient light, so that all samples differ as those of one pixel do.

    Returns:
        colour [H, W, 3] linear float32, and z-depth [H, W, 1] float32 through pixel centres, 0 where the sky is.
    """
    volumes = volumes or BoundingVolumes.build(scene)
    camera_to_world = camera.camera_to_world.double().cpu().numpy()
    intrinsics = camera.intrinsics.double().cpu().numpy()
    colour, depth = _render(
        camera.width,
        camera.height,
        samples,
        grid,
        np.array([intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]),
        np.ascontiguousarray(camera_to_world),
        _light_points(scene, (samples * grid) ** 2),
        scene.kinds,
        scene.shapes,
        scene.materials,
        scene.texture_ids,
        scene.textures,
        scene.sky,
        scene.light,
        scene.ambient,
        volumes.bounds,
        volumes.children,
        volumes.order,
    )
    return torch.from_numpy(colour), torch.from_numpy(depth)


def to_photograph(
    colour: Tensor,  # [H, W, 3] linear
    exposure: float = 1.0,
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Tensor:  # [H, W, 3] sRGB in [0, 1]
    """Develop linear light as a camera does: gain, a soft shoulder above 0.8, the sRGB curve."""
    x = colour * exposure * torch.tensor(white_balance, dtype=colour.dtype)
    x = torch.where(x > 0.8, 0.8 + 0.2 * torch.tanh((x - 0.8) / 0.35), x).clamp(0, 1)
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp_min(1e-8) ** (1 / 2.4) - 0.055)


def _light_points(scene: Scene, count: int) -> np.ndarray:  # [count, 3]
    """Points on the light: the same for every view, so that penumbrae stay where they are."""
    rng = np.random.default_rng(7)
    offsets = rng.normal(size=(count, 3))
    offsets *= scene.light_size / np.linalg.norm(offsets, axis=1, keepdims=True)
    return scene.light[:3].astype(np.float64) + offsets


@njit(fastmath=True, cache=True)
def _hit(kind, s, ox, oy, oz, dx, dy, dz, near, far):
    """Distance to a primitive along the ray within (near, far), or -1."""
    if kind == SPHERE:
        x, y, z = ox - s[0], oy - s[1], oz - s[2]
        b = x * dx + y * dy + z * dz
        c = x * x + y * y + z * z - s[3] * s[3]
        disc = b * b - c
        if disc <= 0:
            return -1.0
        root = math.sqrt(disc)
        t = -b - root
        if t <= near:
            t = -b + root
        return t if near < t < far else -1.0
    if kind == CYLINDER:
        x, y, z = ox - s[0], oy - s[1], oz - s[2]
        da = dx * s[3] + dy * s[4] + dz * s[5]
        xa = x * s[3] + y * s[4] + z * s[5]
        px, py, pz = x - xa * s[3], y - xa * s[4], z - xa * s[5]
        qx, qy, qz = dx - da * s[3], dy - da * s[4], dz - da * s[5]
        a = qx * qx + qy * qy + qz * qz
        if a < 1e-12:
            return -1.0
        b = px * qx + py * qy + pz * qz
        disc = b * b - a * (px * px + py * py + pz * pz - s[10] * s[10])
        if disc <= 0:
            return -1.0
        root = math.sqrt(disc)
        t = (-b - root) / a
        if near < t < far and 0 <= xa + t * da <= s[9]:
            return t
        t = (-b + root) / a
        if near < t < far and 0 <= xa + t * da <= s[9]:
            return t
        return -1.0
    facing = s[9] * dx + s[10] * dy + s[11] * dz
    if abs(facing) < 1e-9:
        return -1.0
    x, y, z = s[0] - ox, s[1] - oy, s[2] - oz
    t = (s[9] * x + s[10] * y + s[11] * z) / facing
    if t <= near or t >= far:
        return -1.0
    x, y, z = t * dx - x, t * dy - y, t * dz - z
    u = x * s[3] + y * s[4] + z * s[5]
    v = x * s[6] + y * s[7] + z * s[8]
    if u < 0 or u > 1 or v < 0 or v > 1:
        return -1.0
    if kind == DISC and (u - 0.5) ** 2 + (v - 0.5) ** 2 > 0.25:
        return -1.0
    if kind == LEAF and abs(v - 0.5) > 2 * u * (1 - u):
        return -1.0
    return t


@njit(fastmath=True, cache=True)
def _trace(bounds, children, order, kinds, shapes, stack, ox, oy, oz, dx, dy, dz, far, any_hit):
    """Nearest primitive along the ray (or any, for shadows): (distance, index), index -1 for none."""
    ix = 1.0 / (dx if abs(dx) > 1e-12 else 1e-12)
    iy = 1.0 / (dy if abs(dy) > 1e-12 else 1e-12)
    iz = 1.0 / (dz if abs(dz) > 1e-12 else 1e-12)
    best, found = far, -1
    stack[0] = 0
    top = 1
    while top > 0:
        top -= 1
        node = stack[top]
        b = bounds[node]
        x0, x1 = (b[0] - ox) * ix, (b[3] - ox) * ix
        y0, y1 = (b[1] - oy) * iy, (b[4] - oy) * iy
        z0, z1 = (b[2] - oz) * iz, (b[5] - oz) * iz
        enter = max(max(min(x0, x1), min(y0, y1)), max(min(z0, z1), 0.0))
        leave = min(min(max(x0, x1), max(y0, y1)), max(z0, z1))
        if enter > leave or enter > best:
            continue
        first, count = children[node, 0], children[node, 1]
        if count == 0:  # inner: children lie at ``first`` and ``children[node, 2]``
            second = children[node, 2]
            axis = children[node, 3]
            forward = dx if axis == 0 else (dy if axis == 1 else dz)
            if forward > 0:
                stack[top], stack[top + 1] = second, first
            else:
                stack[top], stack[top + 1] = first, second
            top += 2
            continue
        for k in range(first, first + count):
            i = order[k]
            t = _hit(kinds[i], shapes[i], ox, oy, oz, dx, dy, dz, 1e-4, best)
            if t > 0:
                best, found = t, i
                if any_hit:
                    return best, found
    return best, found


@njit(fastmath=True, cache=True)
def _surface(kind, s, px, py, pz):
    """Texture coordinates and normal of a point on a primitive."""
    if kind == SPHERE:
        x, y, z = (px - s[0]) / s[3], (py - s[1]) / s[3], (pz - s[2]) / s[3]
        u = math.atan2(y, x) / (2 * math.pi) + 0.5
        v = math.acos(max(-1.0, min(1.0, z))) / math.pi
        return u, v, x, y, z
    if kind == CYLINDER:
        x, y, z = px - s[0], py - s[1], pz - s[2]
        along = x * s[3] + y * s[4] + z * s[5]
        x, y, z = (x - along * s[3]) / s[10], (y - along * s[4]) / s[10], (z - along * s[5]) / s[10]
        cx, cy, cz = s[4] * s[8] - s[5] * s[7], s[5] * s[6] - s[3] * s[8], s[3] * s[7] - s[4] * s[6]
        u = math.atan2(x * cx + y * cy + z * cz, x * s[6] + y * s[7] + z * s[8]) / (2 * math.pi) + 0.5
        return u, 1 - along / s[9], x, y, z
    x, y, z = px - s[0], py - s[1], pz - s[2]
    return x * s[3] + y * s[4] + z * s[5], x * s[6] + y * s[7] + z * s[8], s[9], s[10], s[11]


@njit(fastmath=True, cache=True)
def _texel(texture, level, u, v):
    """Bilinear, repeating, linear light."""
    side = SIZE >> level
    start = _LEVEL_OFFSETS[level]
    x, y = u * side - 0.5, v * side - 0.5
    fx, fy = math.floor(x), math.floor(y)
    wx, wy = x - fx, y - fy
    mask = side - 1
    x0, y0 = int(fx) & mask, int(fy) & mask
    x1, y1 = (x0 + 1) & mask, (y0 + 1) & mask
    a, b = start + y0 * side + x0, start + y0 * side + x1
    c, d = start + y1 * side + x0, start + y1 * side + x1
    wa, wb, wc, wd = (1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy
    r = wa * _LINEAR[texture[a, 0]] + wb * _LINEAR[texture[b, 0]]
    g = wa * _LINEAR[texture[a, 1]] + wb * _LINEAR[texture[b, 1]]
    h = wa * _LINEAR[texture[a, 2]] + wb * _LINEAR[texture[b, 2]]
    r += wc * _LINEAR[texture[c, 0]] + wd * _LINEAR[texture[d, 0]]
    g += wc * _LINEAR[texture[c, 1]] + wd * _LINEAR[texture[d, 1]]
    h += wc * _LINEAR[texture[c, 2]] + wd * _LINEAR[texture[d, 2]]
    return r, g, h


@njit(fastmath=True, cache=True)
def _sky_colour(sky, dx, dy, dz):
    height, width = sky.shape[0], sky.shape[1]
    y = math.acos(max(-1.0, min(1.0, dz))) / math.pi * height - 0.5
    x = (math.atan2(dy, dx) / (2 * math.pi) + 0.5) * width - 0.5
    y = max(0.0, min(height - 1.001, y))
    fx, fy = math.floor(x), math.floor(y)
    wx, wy = x - fx, y - fy
    x0, y0 = int(fx) % width, int(fy)
    x1, y1 = (x0 + 1) % width, y0 + 1
    wa, wb, wc, wd = (1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy
    a, b, c, d = sky[y0, x0], sky[y0, x1], sky[y1, x0], sky[y1, x1]
    return (
        wa * a[0] + wb * b[0] + wc * c[0] + wd * d[0],
        wa * a[1] + wb * b[1] + wc * c[1] + wd * d[1],
        wa * a[2] + wb * b[2] + wc * c[2] + wd * d[2],
    )


@njit(fastmath=True, cache=True)
def _ray(lens, pose, column, row):
    """Unit direction in the world of the ray through a place in the picture, and its share along the optical axis."""
    x, y = (column - lens[2]) / lens[0], (row - lens[3]) / lens[1]
    norm = math.sqrt(x * x + y * y + 1)
    x, y, z = x / norm, y / norm, 1 / norm
    dx = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z
    dy = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z
    dz = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z
    return dx, dy, dz, z


@njit(fastmath=True, cache=True, parallel=True)
def _render(
    width,
    height,
    samples,
    grid,
    lens,
    pose,
    light_points,
    kinds,
    shapes,
    materials,
    texture_ids,
    textures,
    sky,
    light,
    ambient,
    bounds,
    children,
    order,
):
    colour = np.zeros((height, width, 3), np.float32)
    depth = np.zeros((height, width, 1), np.float32)
    ox, oy, oz = pose[0, 3], pose[1, 3], pose[2, 3]
    pixel = 1.0 / lens[0]
    for row in prange(height):
        stack = np.empty(128, np.int32)
        for column in range(width):
            dx, dy, dz, z = _ray(lens, pose, column + 0.5, row + 0.5)
            t, i = _trace(bounds, children, order, kinds, shapes, stack, ox, oy, oz, dx, dy, dz, _FAR, False)
            if i >= 0:
                depth[row, column, 0] = t * z
            for own in range(samples * samples):
                k = (own * grid + row % grid) * grid + column % grid
                sx, sy = (own % samples + 0.5) / samples, (own // samples + 0.5) / samples
                dx, dy, dz, _ = _ray(lens, pose, column + sx, row + sy)
                t, i = _trace(bounds, children, order, kinds, shapes, stack, ox, oy, oz, dx, dy, dz, _FAR, False)
                if i < 0:
                    r, g, b = _sky_colour(sky, dx, dy, dz)
                    colour[row, column, 0] += r
                    colour[row, column, 1] += g
                    colour[row, column, 2] += b
                    continue
                px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
                u, v, nx, ny, nz = _surface(kinds[i], shapes[i], px, py, pz)
                facing = nx * dx + ny * dy + nz * dz
                if facing > 0:
                    nx, ny, nz, facing = -nx, -ny, -nz, -facing
                m = materials[i]
                footprint = t * pixel / samples * m[9] / math.sqrt(max(-facing, 0.12))
                level = max(0.0, min(_LEVELS - 1.001, math.log2(max(footprint, 1.0))))
                fine = int(level)
                blend = level - fine
                u, v = u * m[0] + m[2], v * m[1] + m[3]
                texture = textures[texture_ids[i]]
                r, g, b = _texel(texture, fine, u, v)
                r2, g2, b2 = _texel(texture, fine + 1, u, v)
                r, g, b = r + (r2 - r) * blend, g + (g2 - g) * blend, b + (b2 - b) * blend
                r, g, b = r * m[4], g * m[5], b * m[6]

                # Ambient light, dimmed where a ray of a fixed set soon meets something.
                open_sky = 0.0
                for j in range(2):
                    a = 2.399963 * (2 * k + j)
                    h = 0.15 + 0.8 * (((2 * k + j) * 0.618034) % 1.0)
                    w = math.sqrt(1 - h * h)
                    ax, ay, az = w * math.cos(a), w * math.sin(a), h
                    side = ax * nx + ay * ny + az * nz
                    if side < 0:
                        ax, ay, az = ax - 2 * side * nx, ay - 2 * side * ny, az - 2 * side * nz
                    qx, qy, qz = px + 1e-3 * nx, py + 1e-3 * ny, pz + 1e-3 * nz
                    s, hit = _trace(
                        bounds, children, order, kinds, shapes, stack, qx, qy, qz, ax, ay, az, _OCCLUSION_RANGE, False
                    )
                    open_sky += 0.5 * (s / _OCCLUSION_RANGE if hit >= 0 else 1.0)
                open_sky = 0.35 + 0.65 * open_sky
                up = 0.5 + 0.5 * nz
                lr = open_sky * (ambient[1, 0] + (ambient[0, 0] - ambient[1, 0]) * up)
                lg = open_sky * (ambient[1, 1] + (ambient[0, 1] - ambient[1, 1]) * up)
                lb = open_sky * (ambient[1, 2] + (ambient[0, 2] - ambient[1, 2]) * up)

                lx, ly, lz = light_points[k, 0], light_points[k, 1], light_points[k, 2]
                reach, strength = 1e6, 1.0
                if light[6] > 0.5:
                    lx, ly, lz = lx - px, ly - py, lz - pz
                    reach = math.sqrt(lx * lx + ly * ly + lz * lz)
                    strength = 1.0 / (0.5 + reach * reach)
                size = math.sqrt(lx * lx + ly * ly + lz * lz)
                lx, ly, lz = lx / size, ly / size, lz / size
                lambert = lx * nx + ly * ny + lz * nz
                shine = 0.0
                if lambert > 0:
                    qx, qy, qz = px + 1e-3 * nx, py + 1e-3 * ny, pz + 1e-3 * nz
                    _, hit = _trace(
                        bounds, children, order, kinds, shapes, stack, qx, qy, qz, lx, ly, lz, reach - 2e-3, True
                    )
                    if hit < 0:
                        lr += strength * lambert * light[3]
                        lg += strength * lambert * light[4]
                        lb += strength * lambert * light[5]
                        hx, hy, hz = lx - dx, ly - dy, lz - dz
                        norm = math.sqrt(hx * hx + hy * hy + hz * hz)
                        half = max(0.0, (hx * nx + hy * ny + hz * nz) / norm)
                        shine = m[7] * strength * half ** m[8]
                r, g, b = r * lr + shine * light[3], g * lg + shine * light[4], b * lb + shine * light[5]
                if m[7] > 0:
                    mirror = 0.04 + 0.5 * m[7] * (1 + facing) ** 4
                    rx, ry, rz = dx - 2 * facing * nx, dy - 2 * facing * ny, dz - 2 * facing * nz
                    sr, sg, sb = _sky_colour(sky, rx, ry, abs(rz))
                    glow = mirror * m[7] * open_sky
                    r, g, b = (
                        r + glow * sr * ambient[0, 0],
                        g + glow * sg * ambient[0, 1],
                        b + glow * sb * ambient[0, 2],
                    )
                colour[row, column, 0] += r
                colour[row, column, 1] += g
                colour[row, column, 2] += b
    return colour / (samples * samples), depth
