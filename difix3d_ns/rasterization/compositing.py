"""Front-to-back compositing of binned 2D Gaussians and its derivative, tile by tile.

The rules are gsplat's: alpha = min(0.999, opacity * exp(-sigma)); alpha < 1/255 and sigma < 0 are skipped; a pixel
stops before the Gaussian that would bring its transmittance to 1e-4. The kernels keep a tile's 64 pixels in flat
rows of one scratch array at constant offsets: no branch inside a row, so that LLVM makes every row vector instructions.
"""

import numba as nb
import numpy as np

from difix3d_ns.rasterization.binning import TILE

PIXELS = TILE * TILE
_FLAGS = {"reassoc", "contract", "arcp", "nsz"}  # not nnan/ninf: comparisons must hold for any input

F0, HALF, F1 = np.float32(0.0), np.float32(0.5), np.float32(1.0)
ALPHA_MAX, ALPHA_MIN, STOP = np.float32(0.999), np.float32(1.0 / 255.0), np.float32(1e-4)
SIGMA_MAX = np.float32(6.0)  # exp(-6) < 1/255: never visible beyond
# exp(-s) = p(s/8)^8 on [0, 6]; p: the Chebyshev fit of exp(-x) on [0, 0.75], degree 6
_C = np.polynomial.chebyshev.Chebyshev.interpolate(lambda x: np.exp(-x), 6, domain=[0, 0.75]).convert(
    kind=np.polynomial.Polynomial
)
C0, C1, C2, C3, C4, C5, C6 = (np.float32(c / 8.0**i) for i, c in enumerate(_C.coef))

# rows of the scratch array
_X, _Y, _T, _FINAL, _LAST, _W, _S, _B, _FREE = (PIXELS * i for i in range(9))


@nb.njit(cache=True, nogil=True, inline="always")
def _exp_neg(s):
    x = C0 + s * (C1 + s * (C2 + s * (C3 + s * (C4 + s * (C5 + s * C6)))))
    x = x * x
    x = x * x
    return x * x


def scratch_floats(channels: int) -> int:
    """Floats one thread needs to composite a tile of `channels` channels."""
    return _FREE + PIXELS * channels


@nb.njit(cache=True, nogil=True, parallel=True, fastmath=_FLAGS)
def forward(packed, offsets, ids, width, height, tiles_x, tiles_y, scratch, image, final, last):
    """Composite: image [H, W, D], final transmittance [H, W], last [H, W] (list entries up to the last that counts)."""
    threads = scratch.shape[0]
    channels = image.shape[2]
    for thread in nb.prange(threads):
        s = scratch[thread]
        for tile in range(thread, tiles_x * tiles_y, threads):
            x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
            for p in range(PIXELS):
                s[_X + p] = np.float32(x0 + p % TILE) + np.float32(0.5)
                s[_Y + p] = np.float32(y0 + p // TILE) + np.float32(0.5)
                # transmittance; 0 once the pixel has stopped, and outside the image
                s[_T + p] = F1 if (x0 + p % TILE < width) & (y0 + p // TILE < height) else F0
                s[_FINAL + p] = F1
                s[_LAST + p] = F0
            for p in range(PIXELS * channels):
                s[_FREE + p] = F0
            begin = offsets[tile]
            for k in range(begin, offsets[tile + 1]):
                i = ids[k]
                mx, my = packed[i, 0], packed[i, 1]
                ha, b, hc = np.float32(0.5) * packed[i, 2], packed[i, 3], np.float32(0.5) * packed[i, 4]
                opacity = packed[i, 5]
                rank = np.float32(k - begin + 1)
                for p in range(PIXELS):
                    dx, dy = mx - s[_X + p], my - s[_Y + p]
                    sigma = dx * (ha * dx + b * dy) + hc * dy * dy
                    alpha = opacity * _exp_neg(min(sigma, SIGMA_MAX))
                    alpha = min(alpha, ALPHA_MAX)
                    t = s[_T + p]
                    after = t * (F1 - alpha)
                    seen = (alpha >= ALPHA_MIN) & (sigma >= F0)
                    counts = seen & (after > STOP)
                    s[_W + p] = alpha * t if counts else F0
                    s[_T + p] = (after if counts else F0) if seen else t
                    s[_FINAL + p] = after if counts else s[_FINAL + p]
                    s[_LAST + p] = rank if counts else s[_LAST + p]
                for channel in range(channels):
                    value = packed[i, 6 + channel]
                    row = _FREE + PIXELS * channel
                    for p in range(PIXELS):
                        s[row + p] += s[_W + p] * value
                if (k - begin) & 7 == 7:
                    alive = F0
                    for p in range(PIXELS):
                        alive = max(alive, s[_T + p])
                    if alive == F0:
                        break
            for y in range(y0, min(y0 + TILE, height)):
                for x in range(x0, min(x0 + TILE, width)):
                    p = (y - y0) * TILE + x - x0
                    final[y, x] = s[_FINAL + p]
                    last[y, x] = np.int32(s[_LAST + p])
                    for channel in range(channels):
                        image[y, x, channel] = s[_FREE + PIXELS * channel + p]


@nb.njit(cache=True, nogil=True, parallel=True, fastmath=_FLAGS)
def backward(
    packed, offsets, ids, width, height, tiles_x, tiles_y, scratch, final, last, grad_image, grad_final, grads
):
    """Gradients of the rows of `packed`, one buffer per thread: grads [threads, V, 8 + D].

    Columns: x, y, a, b, c, opacity, |x|, |y| (sums over pixels of absolute values), colours. Back to front with the
    colour behind the Gaussian normalised to unit transmittance, so that dL/dalpha = T (colour - behind).
    """
    threads = scratch.shape[0]
    channels = grad_image.shape[2]
    for thread in nb.prange(threads):
        s = scratch[thread]
        for tile in range(thread, tiles_x * tiles_y, threads):
            x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
            for p in range(PIXELS):
                s[_X + p] = np.float32(x0 + p % TILE) + np.float32(0.5)
                s[_Y + p] = np.float32(y0 + p // TILE) + np.float32(0.5)
                s[_T + p] = F1
                s[_LAST + p] = F0
                s[_B + p] = F0
            for p in range(PIXELS * channels):
                s[_FREE + p] = F0
            deepest = 0
            for y in range(y0, min(y0 + TILE, height)):
                for x in range(x0, min(x0 + TILE, width)):
                    p = (y - y0) * TILE + x - x0
                    s[_T + p] = final[y, x]
                    s[_B + p] = grad_final[y, x]
                    s[_LAST + p] = np.float32(last[y, x])
                    deepest = max(deepest, last[y, x])
                    for channel in range(channels):
                        s[_FREE + PIXELS * channel + p] = grad_image[y, x, channel]
            begin = offsets[tile]
            for k in range(begin + deepest - 1, begin - 1, -1):
                i = ids[k]
                mx, my = packed[i, 0], packed[i, 1]
                a, b, c = packed[i, 2], packed[i, 3], packed[i, 4]
                ha, hc = np.float32(0.5) * a, np.float32(0.5) * c
                opacity = packed[i, 5]
                rank = np.float32(k - begin)
                for p in range(PIXELS):
                    s[_S + p] = F0
                for channel in range(channels):
                    value = packed[i, 6 + channel]
                    row = _FREE + PIXELS * channel
                    for p in range(PIXELS):
                        s[_S + p] += s[row + p] * value
                g0, gx, gy, gxx, gxy, gyy, ax, ay = F0, F0, F0, F0, F0, F0, F0, F0
                for p in range(PIXELS):
                    dx, dy = mx - s[_X + p], my - s[_Y + p]
                    sigma = dx * (ha * dx + b * dy) + hc * dy * dy
                    raw = opacity * _exp_neg(min(sigma, SIGMA_MAX))
                    alpha = min(raw, ALPHA_MAX)
                    seen = (alpha >= ALPHA_MIN) & (sigma >= F0) & (rank < s[_LAST + p])
                    alpha = alpha if seen else F0
                    t = s[_T + p] / (F1 - alpha)
                    s[_T + p] = t
                    s[_W + p] = alpha * t
                    difference = s[_S + p] - s[_B + p]
                    s[_B + p] += alpha * difference
                    g = -raw * t * difference if seen & (raw <= ALPHA_MAX) else F0  # dL/dsigma
                    g0 += g
                    gx += g * dx
                    gy += g * dy
                    gxx += g * dx * dx
                    gxy += g * dx * dy
                    gyy += g * dy * dy
                    ax += abs(g * (a * dx + b * dy))
                    ay += abs(g * (b * dx + c * dy))
                out = grads[thread, i]
                out[0] += a * gx + b * gy
                out[1] += b * gx + c * gy
                out[2] += np.float32(0.5) * gxx
                out[3] += gxy
                out[4] += np.float32(0.5) * gyy
                out[5] -= g0 / opacity
                out[6] += ax
                out[7] += ay
                for channel in range(channels):
                    row = _FREE + PIXELS * channel
                    total = F0
                    for p in range(PIXELS):
                        total += s[_W + p] * s[row + p]
                    out[8 + channel] += total


@nb.njit(cache=True, nogil=True, parallel=True, fastmath=_FLAGS)
def median(packed, offsets, ids, width, height, tiles_x, tiles_y, scratch, depth, final):
    """Depth [H, W] (the first colour) at which transmittance falls below 0.5, else 0; final transmittance [H, W]."""
    threads = scratch.shape[0]
    for thread in nb.prange(threads):
        s = scratch[thread]
        for tile in range(thread, tiles_x * tiles_y, threads):
            x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
            for p in range(PIXELS):
                s[_X + p] = np.float32(x0 + p % TILE) + np.float32(0.5)
                s[_Y + p] = np.float32(y0 + p // TILE) + np.float32(0.5)
                s[_T + p] = F1 if (x0 + p % TILE < width) & (y0 + p // TILE < height) else F0
                s[_FINAL + p] = F1
                s[_S + p] = F0
            begin = offsets[tile]
            for k in range(begin, offsets[tile + 1]):
                i = ids[k]
                mx, my = packed[i, 0], packed[i, 1]
                ha, b, hc = np.float32(0.5) * packed[i, 2], packed[i, 3], np.float32(0.5) * packed[i, 4]
                opacity, z = packed[i, 5], packed[i, 6]
                for p in range(PIXELS):
                    dx, dy = mx - s[_X + p], my - s[_Y + p]
                    sigma = dx * (ha * dx + b * dy) + hc * dy * dy
                    alpha = min(opacity * _exp_neg(min(sigma, SIGMA_MAX)), ALPHA_MAX)
                    t = s[_T + p]
                    after = t * (F1 - alpha)
                    seen = (alpha >= ALPHA_MIN) & (sigma >= F0)
                    counts = seen & (after > STOP)
                    s[_S + p] = z if counts & (t >= HALF) & (after < HALF) else s[_S + p]
                    s[_T + p] = (after if counts else F0) if seen else t
                    s[_FINAL + p] = after if counts else s[_FINAL + p]
                if (k - begin) & 7 == 7:
                    alive = F0
                    for p in range(PIXELS):
                        alive = max(alive, s[_T + p])
                    if alive == F0:
                        break
            for y in range(y0, min(y0 + TILE, height)):
                for x in range(x0, min(x0 + TILE, width)):
                    p = (y - y0) * TILE + x - x0
                    depth[y, x] = s[_S + p]
                    final[y, x] = s[_FINAL + p]


@nb.njit(cache=True, nogil=True, parallel=True, fastmath=_FLAGS)
def scatter_gradients(grads, order, means2d, means2d_abs, conics, opacities, colors):
    """Sum the threads' buffers and put them where the Gaussians came from (outputs zeroed by the caller)."""
    threads, n, columns = grads.shape
    for k in nb.prange(n):
        i = order[k]
        for thread in range(threads):
            row = grads[thread, k]
            means2d[i, 0] += row[0]
            means2d[i, 1] += row[1]
            conics[i, 0] += row[2]
            conics[i, 1] += row[3]
            conics[i, 2] += row[4]
            opacities[i] += row[5]
            means2d_abs[i, 0] += row[6]
            means2d_abs[i, 1] += row[7]
            for channel in range(columns - 8):
                colors[i, channel] += row[8 + channel]
