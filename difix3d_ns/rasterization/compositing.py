"""Front-to-back compositing of binned 2D Gaussians and its derivative, tile by tile.

The rules are gsplat's: alpha = min(0.999, opacity * exp(-sigma)); alpha < 1/255 and sigma < 0 are skipped; a pixel
stops before the Gaussian that would bring its transmittance to 1e-4. The kernels keep a tile's 64 pixels in flat
rows of one scratch array at constant offsets: no branch inside a row, so that LLVM makes every row vector instructions.
The number of channels is a constant of the compiled kernels for the same reason.
"""

import functools
import math
from typing import NamedTuple

import numba as nb
import numpy as np

from difix3d_ns.rasterization.binning import TILE
from difix3d_ns.rasterization.jit import FASTMATH, jit, take

PIXELS = TILE * TILE
BATCH = 32  # a tile's Gaussians are gathered in batches, so that their cache misses overlap

F0, HALF, F1 = np.float32(0.0), np.float32(0.5), np.float32(1.0)
ALPHA_MAX, ALPHA_MIN, STOP = np.float32(0.999), np.float32(1.0 / 255.0), np.float32(1e-4)
SIGMA_MAX = np.float32(6.0)  # exp(-6) < 1/255: never visible beyond
# exp(-s) = p(s/8)^8 on [0, 6]; p: the Chebyshev fit of exp(-x) on [0, 0.75], degree 6
_FIT = np.polynomial.chebyshev.Chebyshev.interpolate(lambda x: np.exp(-x), 6, domain=[0, 0.75])
C0, C1, C2, C3, C4, C5, C6 = (
    np.float32(c / 8.0**i) for i, c in enumerate(_FIT.convert(kind=np.polynomial.Polynomial).coef)
)

# Rows of the scratch array. _T is the transmittance, negated once a pixel has stopped; _LAST counts the list entries
# before that.
_X, _Y, _T, _LAST, _W, _S, _B, _FREE = (PIXELS * i for i in range(8))


class TileLists(NamedTuple):
    """The Gaussians of one camera in depth order, and for each tile the list of those that touch it."""

    order: np.ndarray  # [V] int64, rows of the inputs, front to back
    packed: np.ndarray  # [V, 6 + D] float32: x, y, a, b, c, opacity, colours
    offsets: np.ndarray  # [tiles + 1] int64
    ids: np.ndarray  # [pairs] int32, rows of packed
    width: int
    height: int
    tiles_x: int
    tiles_y: int


@jit(inline="always")
def _exp_neg(s):
    x = C0 + s * (C1 + s * (C2 + s * (C3 + s * (C4 + s * (C5 + s * C6)))))
    x = x * x
    x = x * x
    return x * x


@jit(inline="always")
def _start_tile(s, x0, y0, width, height):
    """Pixel centres, transmittance and count of a tile."""
    for p in range(PIXELS):
        x, y = np.int32(x0 + p % TILE), np.int32(y0 + p // TILE)
        s[_X + p] = np.float32(x) + HALF
        s[_Y + p] = np.float32(y) + HALF
        s[_T + p] = F1 if (x < width) & (y < height) else -F1  # outside the image: stopped
        s[_LAST + p] = F0


@jit(inline="always")
def _gather(s, row, columns, packed, ids, start, count):
    """Copy the rows of `count` entries of a tile's list to s[row:]."""
    for j in range(count):
        i = ids[start + j]
        for q in range(columns):
            s[row + j * columns + q] = packed[i, q]


@jit(inline="always")
def _offset(s, p, mx, my, ha, b, hc):
    """Distance of pixel p from a Gaussian's centre, and sigma there."""
    dx, dy = mx - s[_X + p], my - s[_Y + p]
    return dx, dy, dx * (ha * dx + b * dy) + hc * dy * dy


@jit(inline="always")
def _pass(s, p, mx, my, ha, b, hc, opacity):
    """Attenuate pixel p by a Gaussian; returns if it counts, its alpha, and the pixel's T, before, after and new."""
    _, _, sigma = _offset(s, p, mx, my, ha, b, hc)
    alpha = min(opacity * _exp_neg(min(sigma, SIGMA_MAX)), ALPHA_MAX)
    t = s[_T + p]
    before = max(t, F0)
    after = before * (F1 - alpha)
    seen = (alpha >= ALPHA_MIN) & (sigma >= F0)
    counts = seen & (after > STOP)
    new = after if counts else (-abs(t) if seen else t)
    s[_T + p] = new
    return counts, alpha, t, before, after, new


@jit(inline="always")
def _alive(s):
    most = -F1
    for p in range(PIXELS):
        most = max(most, s[_T + p])
    return most > F0


def scratch_floats(channels: int) -> int:
    """Floats one thread needs to composite a tile of `channels` channels."""
    return _FREE + PIXELS * channels + BATCH * (6 + channels) + BATCH * (8 + channels)


@functools.cache
def forward_kernel(channels: int):
    """Compile kernel(lists, scratch, next_tile, image, final, last) for a number of channels.

    Threads take tiles from `next_tile`, a zero. It writes image [H, W, D], final transmittance [H, W] and last [H, W],
    the list entries before the pixel stopped.
    """
    columns = 6 + channels
    gathered = _FREE + PIXELS * channels

    @jit(parallel=True, fastmath=FASTMATH)
    def forward(lists, scratch, next_tile, image, final, last):
        _, packed, offsets, ids, width, height, tiles_x, tiles_y = lists
        for thread in nb.prange(scratch.shape[0]):
            s = scratch[thread]
            tile = take(next_tile)
            while tile < tiles_x * tiles_y:
                x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
                _start_tile(s, x0, y0, width, height)
                for p in range(PIXELS * channels):
                    s[_FREE + p] = F0
                end = offsets[tile + 1]
                for start in range(offsets[tile], end, BATCH):
                    count = min(BATCH, end - start)
                    _gather(s, gathered, columns, packed, ids, start, count)
                    for j in range(count):
                        row = gathered + j * columns
                        mx, my, opacity = s[row], s[row + 1], s[row + 5]
                        ha, b, hc = HALF * s[row + 2], s[row + 3], HALF * s[row + 4]
                        for p in range(PIXELS):
                            counts, alpha, _, before, _, new = _pass(s, p, mx, my, ha, b, hc, opacity)
                            s[_W + p] = alpha * before if counts else F0
                            s[_LAST + p] += F1 if new > F0 else F0
                        for channel in range(channels):
                            value = s[row + 6 + channel]
                            for p in range(PIXELS):
                                s[_FREE + PIXELS * channel + p] += s[_W + p] * value
                        if j & 7 == 7 and not _alive(s):
                            break
                    if not _alive(s):
                        break
                for y in range(y0, min(y0 + TILE, height)):
                    for x in range(x0, min(x0 + TILE, width)):
                        p = (y - y0) * TILE + x - x0
                        final[y, x] = abs(s[_T + p])
                        last[y, x] = np.int32(s[_LAST + p])
                        for channel in range(channels):
                            image[y, x, channel] = s[_FREE + PIXELS * channel + p]
                tile = take(next_tile)

    return forward


@functools.cache
def backward_kernel(channels: int):
    """Compile kernel(lists, scratch, next_part, final, last, grad_image, grad_final, grads) for a number of channels.

    Threads take parts of the tiles from `next_part`, a zero; each part has a buffer, so that sums do not depend on who
    took what. It writes the gradients of the rows of `packed`: grads [parts, V, 8 + D], columns x, y, a, b, c, opacity,
    |x|, |y| (sums over pixels of absolute values), colours. It goes back to front with the colour behind
    the Gaussian normalised to unit transmittance, so that dL/dalpha = T (colour - behind).
    """
    columns, outputs = 6 + channels, 8 + channels
    gathered = _FREE + PIXELS * channels
    sums = gathered + BATCH * columns

    @jit(parallel=True, fastmath=FASTMATH)
    def backward(lists, scratch, next_part, final, last, grad_image, grad_final, grads):
        _, packed, offsets, ids, width, height, tiles_x, tiles_y = lists
        parts = grads.shape[0]
        for thread in nb.prange(scratch.shape[0]):
            s = scratch[thread]
            part = take(next_part)
            while part < parts:
                for tile in range(part, tiles_x * tiles_y, parts):
                    x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
                    _start_tile(s, x0, y0, width, height)
                    for p in range(PIXELS):
                        s[_B + p] = F0
                        s[_T + p] = F1
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
                    for stop in range(deepest, 0, -BATCH):
                        first = max(stop - BATCH, 0)
                        _gather(s, gathered, columns, packed, ids, begin + first, stop - first)
                        for j in range(stop - first - 1, -1, -1):
                            row = gathered + j * columns
                            mx, my, opacity = s[row], s[row + 1], s[row + 5]
                            a, b, c = s[row + 2], s[row + 3], s[row + 4]
                            ha, hc = HALF * a, HALF * c
                            rank = np.float32(first + j)
                            for p in range(PIXELS):
                                s[_S + p] = F0
                            for channel in range(channels):
                                value = s[row + 6 + channel]
                                for p in range(PIXELS):
                                    s[_S + p] += s[_FREE + PIXELS * channel + p] * value
                            g0, gx, gy, gxx, gxy, gyy, ax, ay = F0, F0, F0, F0, F0, F0, F0, F0
                            for p in range(PIXELS):
                                dx, dy, sigma = _offset(s, p, mx, my, ha, b, hc)
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
                                gdx, gdy = g * dx, g * dy
                                gx += gdx
                                gy += gdy
                                gxx += gdx * dx
                                gxy += gdx * dy
                                gyy += gdy * dy
                                ax += abs(a * gdx + b * gdy)
                                ay += abs(b * gdx + c * gdy)
                            out = sums + j * outputs
                            s[out] = a * gx + b * gy
                            s[out + 1] = b * gx + c * gy
                            s[out + 2] = HALF * gxx
                            s[out + 3] = gxy
                            s[out + 4] = HALF * gyy
                            s[out + 5] = -g0 / opacity
                            s[out + 6] = ax
                            s[out + 7] = ay
                            for channel in range(channels):
                                total = F0
                                for p in range(PIXELS):
                                    total += s[_W + p] * s[_FREE + PIXELS * channel + p]
                                s[out + 8 + channel] = total
                        for j in range(stop - first):
                            i = ids[begin + first + j]
                            for q in range(outputs):
                                grads[part, i, q] += s[sums + j * outputs + q]
                part = take(next_part)

    return backward


@jit(inline="always")
def _depth_inside(s, p, packed, i, alpha, before):
    """Depth at which Gaussian i brings pixel p to one half; a function of the module: numba caches no other's users."""
    z = packed[i, 6] + packed[i, 7] * (s[_X + p] - packed[i, 0]) + packed[i, 8] * (s[_Y + p] - packed[i, 1])
    enough = max(F1 - HALF / max(before, HALF), ALPHA_MIN)  # of the alpha that the whole Gaussian has
    return z - packed[i, 9] * math.sqrt(max(np.float32(2) * math.log(max(alpha, ALPHA_MIN) / enough), F0))


@functools.cache
def median_kernel(inside: bool):
    """Compile kernel(lists, scratch, next_tile, depth, final) for the depth at which transmittance passes one half.

    It writes depth [H, W], 0 where transmittance stays above 0.5, and final transmittance [H, W]. The first colour is
    the depth of a Gaussian's centre, which is what is written unless ``inside``: then three more are its slope, per
    pixel right and down, and its spread along the ray, and the depth is where on the ray one half is passed.
    """

    @jit(parallel=True, fastmath=FASTMATH)
    def median(lists, scratch, next_tile, depth, final):
        _, packed, offsets, ids, width, height, tiles_x, tiles_y = lists
        for thread in nb.prange(scratch.shape[0]):
            s = scratch[thread]
            tile = take(next_tile)
            while tile < tiles_x * tiles_y:
                x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
                _start_tile(s, x0, y0, width, height)
                for p in range(PIXELS):
                    s[_S + p] = F0
                begin = offsets[tile]
                for k in range(begin, offsets[tile + 1]):
                    i = ids[k]
                    mx, my = packed[i, 0], packed[i, 1]
                    ha, b, hc = HALF * packed[i, 2], packed[i, 3], HALF * packed[i, 4]
                    opacity = packed[i, 5]
                    for p in range(PIXELS):
                        counts, alpha, t, before, after, _ = _pass(s, p, mx, my, ha, b, hc, opacity)
                        z = packed[i, 6]
                        if inside:
                            z = _depth_inside(s, p, packed, i, alpha, before)
                        s[_S + p] = z if counts & (t >= HALF) & (after < HALF) else s[_S + p]
                    if (k - begin) & 7 == 7 and not _alive(s):
                        break
                for y in range(y0, min(y0 + TILE, height)):
                    for x in range(x0, min(x0 + TILE, width)):
                        p = (y - y0) * TILE + x - x0
                        depth[y, x] = s[_S + p]
                        final[y, x] = abs(s[_T + p])
                tile = take(next_tile)

    return median


@jit(parallel=True)
def scatter_gradients(grads, order, means2d, means2d_abs, conics, opacities, colors):
    """Sum the parts' buffers and put them where the Gaussians came from (outputs zeroed by the caller)."""
    parts, n, columns = grads.shape
    for k in nb.prange(n):
        i = order[k]
        for part in range(parts):
            row = grads[part, k]
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
