"""Pinhole projection of 3D Gaussians and its derivative, one Gaussian at a time (EWA splatting, Zwicker et al. 2001).

The same formulas as gsplat's torch reference `_fully_fused_projection`, against which the tests hold them: the
Jacobian is taken at a position clamped to 1.15 fields of view, eps2d is added to the diagonal, the radius is 3 sigma.
Inner numbers are float64: scalar code is not slower for it.
"""

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from difix3d_ns.rasterization.jit import jit

DET_MIN = 1e-10


class Camera(NamedTuple):
    """A camera, and the limits within which Gaussians are drawn."""

    world_to_camera: np.ndarray  # [4, 4] float64
    K: np.ndarray  # [3, 3] float64
    width: float  # pixels
    height: float
    near: float
    far: float
    clip: float  # smallest radius in pixels
    eps2d: float  # added to the diagonal of covariances


@jit()
def _rotation(q0, q1, q2, q3):
    """Inverse norm of the quaternion wxyz, its unit version and the rotation matrix, row by row."""
    norm = math.sqrt(q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3)
    inverse = 1.0 / max(norm, 1e-12)
    w, x, y, z = q0 * inverse, q1 * inverse, q2 * inverse, q3 * inverse
    return (
        inverse,
        (w, x, y, z),
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


@jit()
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit()
def _mul(k, a):
    return (k * a[0], k * a[1], k * a[2])


@jit()
def _add(a, b):
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


@jit()
def _rows_times(view, k, r0, r1, r2):
    """Row k of W @ R for the rotation W of `view` and the rows of R."""
    return _add(_mul(view[k, 0], r0), _add(_mul(view[k, 1], r1), _mul(view[k, 2], r2)))


@jit()
def _clamp_limits(camera):
    K, width, height = camera.K, camera.width, camera.height
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    return cx / fx + margin_x, (width - cx) / fx + margin_x, cy / fy + margin_y, (height - cy) / fy + margin_y


@jit()
def _local_axis(view, k, m):
    """Coordinate k in the camera of the world point m."""
    return view[k, 0] * m[0] + view[k, 1] * m[1] + view[k, 2] * m[2] + view[k, 3]


@jit()
def _axes(gaussians, i):
    """Inverse norm and unit quaternion of Gaussian i, rows of its rotation R, scales S, rows of M = R S."""
    quats, scales = gaussians[1], gaussians[2]
    inverse, quat, r0, r1, r2 = _rotation(
        float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
    )
    sx, sy, sz = float(scales[i, 0]), float(scales[i, 1]), float(scales[i, 2])
    m0 = (r0[0] * sx, r0[1] * sy, r0[2] * sz)
    m1 = (r1[0] * sx, r1[1] * sy, r1[2] * sz)
    m2 = (r2[0] * sx, r2[1] * sy, r2[2] * sz)
    return inverse, quat, (r0, r1, r2), (sx, sy, sz), (m0, m1, m2)


@jit()
def _flatten(camera, limits, x, y, z, rows):
    """Rows of A = W M, clamped slopes of the ray, the four entries of J, and rows of J A.

    The last times its transpose is the covariance in the image.
    """
    view, fx, fy = camera.world_to_camera, camera.K[0, 0], camera.K[1, 1]
    left, right, top, bottom = limits
    a0 = _rows_times(view, 0, rows[0], rows[1], rows[2])
    a1 = _rows_times(view, 1, rows[0], rows[1], rows[2])
    a2 = _rows_times(view, 2, rows[0], rows[1], rows[2])
    tx, ty = min(max(x / z, -left), right), min(max(y / z, -top), bottom)
    j00, j02, j11, j12 = fx / z, -fx * tx / z, fy / z, -fy * ty / z
    t0 = _add(_mul(j00, a0), _mul(j02, a2))
    t1 = _add(_mul(j11, a1), _mul(j12, a2))
    return (a0, a1, a2), (tx, ty), (j00, j02, j11, j12), (t0, t1)


@jit()
def _project_slot(gaussians, camera, slot, slots, outputs):
    means, view, K = gaussians[0], camera.world_to_camera, camera.K
    radii, means2d, depths, conics, factors = outputs
    n = means.shape[0]
    limits = _clamp_limits(camera)
    for i in range(slot * n // slots, (slot + 1) * n // slots):
        m = (float(means[i, 0]), float(means[i, 1]), float(means[i, 2]))
        z = _local_axis(view, 2, m)
        if not (z > camera.near and z < camera.far):
            continue
        x, y = _local_axis(view, 0, m), _local_axis(view, 1, m)
        _, _, _, _, rows = _axes(gaussians, i)
        _, _, _, (t0, t1) = _flatten(camera, limits, x, y, z, rows)
        c00, c01, c11 = _dot(t0, t0), _dot(t0, t1), _dot(t1, t1)
        sharp = c00 * c11 - c01 * c01
        c00 += camera.eps2d
        c11 += camera.eps2d
        det = max(c00 * c11 - c01 * c01, DET_MIN)
        half = 0.5 * (c00 + c11)
        radius = math.ceil(3.0 * math.sqrt(half + math.sqrt(max(half * half - det, 0.01))))
        u = (K[0, 0] * x + K[0, 1] * y) / z + K[0, 2]
        v = (K[1, 0] * x + K[1, 1] * y) / z + K[1, 2]
        # negated, so that NaN and infinity end here
        if not (radius > camera.clip and u + radius > 0 and u - radius < camera.width and radius < 1e9):
            continue
        if not (v + radius > 0 and v - radius < camera.height):
            continue
        radii[i] = int(radius)
        means2d[i, 0] = u
        means2d[i, 1] = v
        depths[i] = z
        conics[i, 0] = c11 / det
        conics[i, 1] = -c01 / det
        conics[i, 2] = c00 / det
        factors[i] = math.sqrt(max(sharp / det, 0.0))


@jit(parallel=True)
def project(gaussians, camera, slots, outputs):
    """Project Gaussians (means [N, 3], quats [N, 4], scales [N, 3]) into a `Camera`, in `slots` parallel parts.

    Fills outputs: radii [N], means2d [N, 2], depths [N], conics [N, 3] and factors [N], the opacity compensation of
    antialiasing. They must come zeroed: a Gaussian outside or not finite keeps its zeros.
    """
    for slot in nb.prange(slots):
        _project_slot(gaussians, camera, np.int64(slot), slots, outputs)  # else compiled for unsigned numbers as well


@jit()
def _project_backward_slot(gaussians, camera, slot, radii, gradients, sums, grad_view):
    means, view, K = gaussians[0], camera.world_to_camera, camera.K
    grad_means2d, grad_depths, grad_conics, grad_factors = gradients
    grad_means, grad_quats, grad_scales = sums
    n, slots = means.shape[0], grad_view.shape[0]
    limits = _clamp_limits(camera)
    total = np.zeros((3, 4))
    for i in range(slot * n // slots, (slot + 1) * n // slots):
        if radii[i] <= 0:
            continue
        gu, gv, gd = float(grad_means2d[i, 0]), float(grad_means2d[i, 1]), float(grad_depths[i])
        g0, g1, g2 = float(grad_conics[i, 0]), float(grad_conics[i, 1]), float(grad_conics[i, 2])
        gf = float(grad_factors[i])
        if gu == 0 and gv == 0 and gd == 0 and g0 == 0 and g1 == 0 and g2 == 0 and gf == 0:
            continue
        m = (float(means[i, 0]), float(means[i, 1]), float(means[i, 2]))
        x, y, z = _local_axis(view, 0, m), _local_axis(view, 1, m), _local_axis(view, 2, m)
        inverse, (qw, qx, qy, qz), (r0, r1, r2), (sx, sy, sz), (m0, m1, m2) = _axes(gaussians, i)
        (a0, a1, a2), (tx, ty), (j00, j02, j11, j12), (t0, t1) = _flatten(camera, limits, x, y, z, (m0, m1, m2))
        c00, c01, c11 = _dot(t0, t0), _dot(t0, t1), _dot(t1, t1)
        b00, b11 = c00 + camera.eps2d, c11 + camera.eps2d  # blurred
        raw_det = b00 * b11 - c01 * c01
        det = max(raw_det, DET_MIN)

        # conics = (b11, -c01, b00) / det, factor = sqrt(sharp / det)
        ratio = (c00 * c11 - c01 * c01) / det
        g_ratio = gf * 0.5 / (math.sqrt(ratio) + 1e-6) if ratio > 0 else 0.0  # finite also for a zero scale
        g_det = -(g0 * b11 - g1 * c01 + g2 * b00) / (det * det) - g_ratio * ratio / det
        if raw_det < DET_MIN:
            g_det = 0.0
        g_sharp = g_ratio / det
        g00 = g2 / det + g_det * b11 + g_sharp * c11
        g11 = g0 / det + g_det * b00 + g_sharp * c00
        g01 = -g1 / det - 2 * (g_det + g_sharp) * c01

        # covariance = t t^T, t = J A, A = W R S
        gt0 = _add(_mul(2 * g00, t0), _mul(g01, t1))
        gt1 = _add(_mul(2 * g11, t1), _mul(g01, t0))
        ga0, ga1 = _mul(j00, gt0), _mul(j11, gt1)
        ga2 = _add(_mul(j02, gt0), _mul(j12, gt1))
        g_j02, g_j12 = _dot(gt0, a2), _dot(gt1, a2)
        gx = (gu * K[0, 0] + gv * K[1, 0]) / z
        gy = (gu * K[0, 1] + gv * K[1, 1]) / z
        gz = gd - (gx * x + gy * y) / z - (_dot(gt0, a0) * j00 + _dot(gt1, a1) * j11 + g_j02 * j02 + g_j12 * j12) / z
        if x / z == tx:  # j02 = -fx x / z^2
            gx -= g_j02 * K[0, 0] / (z * z)
            gz -= g_j02 * j02 / z
        if y / z == ty:
            gy -= g_j12 * K[1, 1] / (z * z)
            gz -= g_j12 * j12 / z

        g = (gx, gy, gz)
        for k in range(3):
            grad_means[i, k] += view[0, k] * gx + view[1, k] * gy + view[2, k] * gz
            total[k, 3] += g[k]
            for c in range(3):
                total[k, c] += g[k] * m[c]
        for k in range(3):
            ga = ga0 if k == 0 else (ga1 if k == 1 else ga2)
            total[k, 0] += _dot(ga, m0)
            total[k, 1] += _dot(ga, m1)
            total[k, 2] += _dot(ga, m2)
        # dL/dM = W^T dL/dA with M = R S
        h0 = _add(_mul(view[0, 0], ga0), _add(_mul(view[1, 0], ga1), _mul(view[2, 0], ga2)))
        h1 = _add(_mul(view[0, 1], ga0), _add(_mul(view[1, 1], ga1), _mul(view[2, 1], ga2)))
        h2 = _add(_mul(view[0, 2], ga0), _add(_mul(view[1, 2], ga1), _mul(view[2, 2], ga2)))
        grad_scales[i, 0] += h0[0] * r0[0] + h1[0] * r1[0] + h2[0] * r2[0]
        grad_scales[i, 1] += h0[1] * r0[1] + h1[1] * r1[1] + h2[1] * r2[1]
        grad_scales[i, 2] += h0[2] * r0[2] + h1[2] * r1[2] + h2[2] * r2[2]
        v00, v01, v02 = h0[0] * sx, h0[1] * sy, h0[2] * sz
        v10, v11, v12 = h1[0] * sx, h1[1] * sy, h1[2] * sz
        v20, v21, v22 = h2[0] * sx, h2[1] * sy, h2[2] * sz
        gqw = 2 * (qz * (v10 - v01) + qy * (v02 - v20) + qx * (v21 - v12))
        gqx = 2 * (qy * (v01 + v10) + qz * (v02 + v20) + qw * (v21 - v12) - 2 * qx * (v11 + v22))
        gqy = 2 * (qx * (v01 + v10) + qz * (v12 + v21) + qw * (v02 - v20) - 2 * qy * (v00 + v22))
        gqz = 2 * (qx * (v02 + v20) + qy * (v12 + v21) + qw * (v10 - v01) - 2 * qz * (v00 + v11))
        along = gqw * qw + gqx * qx + gqy * qy + gqz * qz
        grad_quats[i, 0] += (gqw - along * qw) * inverse
        grad_quats[i, 1] += (gqx - along * qx) * inverse
        grad_quats[i, 2] += (gqy - along * qy) * inverse
        grad_quats[i, 3] += (gqz - along * qz) * inverse
    grad_view[slot] += total


@jit(parallel=True)
def project_backward(gaussians, camera, radii, gradients, sums, grad_view):
    """Add one camera's gradients to sums, shaped as `gaussians`, and, per slot, to grad_view [slots, 3, 4].

    gradients: with respect to means2d, depths, conics and factors.
    """
    for slot in nb.prange(grad_view.shape[0]):
        _project_backward_slot(gaussians, camera, np.int64(slot), radii, gradients, sums, grad_view)
