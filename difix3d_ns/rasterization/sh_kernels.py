"""Real spherical harmonics to degree 3 and their derivative, in the sign convention of 3D Gaussian splatting."""

import math

import numba as nb
import numpy as np

from difix3d_ns.rasterization.jit import jit

# Normalisation constants of the real spherical harmonics (e.g. Sloan, "Efficient spherical harmonic evaluation", 2013)
K0 = 0.5 / math.sqrt(math.pi)
K1 = math.sqrt(3 / (4 * math.pi))
K2, K2Z, K2D = math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi)), math.sqrt(15 / (16 * math.pi))
K3A, K3B = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi))
K3C, K3Z, K3D = math.sqrt(21 / (32 * math.pi)), math.sqrt(7 / (16 * math.pi)), math.sqrt(105 / (16 * math.pi))


@jit()
def _bases(degree, x, y, z, b):
    b[0] = K0
    if degree >= 1:
        b[1], b[2], b[3] = -K1 * y, K1 * z, -K1 * x
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        b[4], b[5], b[6] = K2 * x * y, -K2 * y * z, K2Z * (2 * zz - xx - yy)
        b[7], b[8] = -K2 * x * z, K2D * (xx - yy)
        if degree >= 3:
            b[9], b[10], b[11] = -K3A * y * (3 * xx - yy), K3B * x * y * z, -K3C * y * (4 * zz - xx - yy)
            b[12], b[13] = K3Z * z * (2 * zz - 3 * xx - 3 * yy), -K3C * x * (4 * zz - xx - yy)
            b[14], b[15] = K3D * z * (xx - yy), -K3A * x * (xx - 3 * yy)


@jit()
def _slopes(degree, x, y, z, s):
    """Gradient of sum_k s[k] basis_k with respect to (x, y, z)."""
    gx, gy, gz = 0.0, 0.0, 0.0
    if degree >= 1:
        gx, gy, gz = -K1 * s[3], -K1 * s[1], K1 * s[2]
    if degree >= 2:
        gx += K2 * (y * s[4] - z * s[7]) - 2 * K2Z * x * s[6] + 2 * K2D * x * s[8]
        gy += K2 * (x * s[4] - z * s[5]) - 2 * K2Z * y * s[6] - 2 * K2D * y * s[8]
        gz += -K2 * (y * s[5] + x * s[7]) + 4 * K2Z * z * s[6]
    if degree >= 3:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        gx += -6 * K3A * xy * s[9] + K3B * yz * s[10] + 2 * K3C * xy * s[11] - 6 * K3Z * xz * s[12]
        gx += -K3C * (4 * zz - 3 * xx - yy) * s[13] + 2 * K3D * xz * s[14] - 3 * K3A * (xx - yy) * s[15]
        gy += -3 * K3A * (xx - yy) * s[9] + K3B * xz * s[10] - K3C * (4 * zz - xx - 3 * yy) * s[11]
        gy += -6 * K3Z * yz * s[12] + 2 * K3C * xy * s[13] - 2 * K3D * yz * s[14] + 6 * K3A * xy * s[15]
        gz += K3B * xy * s[10] - 8 * K3C * (yz * s[11] + xz * s[13]) + K3Z * (6 * zz - 3 * xx - 3 * yy) * s[12]
        gz += K3D * (xx - yy) * s[14]
    return gx, gy, gz


@jit()
def _direction(means, i, position):
    """Unit vector from the camera to Gaussian i, and the inverse of the distance."""
    x, y, z = means[i, 0] - position[0], means[i, 1] - position[1], means[i, 2] - position[2]
    inverse = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
    return x * inverse, y * inverse, z * inverse, inverse


@jit(parallel=True)
def sh_colors(degree, means, position, coefficients, radii, slots, colors):
    """Fill colors [N, 3] with max(SH(means - position) + 0.5, 0) where radii > 0.

    coefficients: [N, K, 3]; position: [3] of the camera.
    """
    n, bases = means.shape[0], (degree + 1) ** 2
    for slot in nb.prange(slots):
        b = np.empty(16, np.float32)
        for i in range(slot * n // slots, (slot + 1) * n // slots):
            if radii[i] <= 0:
                continue
            x, y, z, _ = _direction(means, i, position)
            _bases(degree, x, y, z, b)
            for channel in range(3):
                total = np.float32(0.5)
                for k in range(bases):
                    total += b[k] * coefficients[i, k, channel]
                colors[i, channel] = max(total, np.float32(0.0)) if total == total else total


@jit(parallel=True)
def sh_colors_backward(
    degree, means, position, coefficients, colors, grad_colors, grad_means, grad_coefficients, grad_position
):
    """Add to grad_means [N, 3], grad_coefficients [N, K, 3] and, per slot, grad_position [slots, 3]."""
    n, bases, slots = means.shape[0], (degree + 1) ** 2, grad_position.shape[0]
    for slot in nb.prange(slots):
        b, s, total = np.empty(16, np.float32), np.empty(16, np.float32), np.zeros(3)
        for i in range(slot * n // slots, (slot + 1) * n // slots):
            # a clamped or invisible channel is exactly zero and passes nothing on
            g0 = grad_colors[i, 0] if colors[i, 0] > 0 else np.float32(0.0)
            g1 = grad_colors[i, 1] if colors[i, 1] > 0 else np.float32(0.0)
            g2 = grad_colors[i, 2] if colors[i, 2] > 0 else np.float32(0.0)
            if g0 == 0 and g1 == 0 and g2 == 0:
                continue
            x, y, z, inverse = _direction(means, i, position)
            _bases(degree, x, y, z, b)
            for k in range(bases):
                grad_coefficients[i, k, 0] += b[k] * g0
                grad_coefficients[i, k, 1] += b[k] * g1
                grad_coefficients[i, k, 2] += b[k] * g2
                s[k] = coefficients[i, k, 0] * g0 + coefficients[i, k, 1] * g1 + coefficients[i, k, 2] * g2
            gx, gy, gz = _slopes(degree, x, y, z, s)
            along = gx * x + gy * y + gz * z
            gx, gy, gz = (gx - along * x) * inverse, (gy - along * y) * inverse, (gz - along * z) * inverse
            grad_means[i, 0] += gx
            grad_means[i, 1] += gy
            grad_means[i, 2] += gz
            total[0] -= gx
            total[1] -= gy
            total[2] -= gz
        grad_position[slot] += total
