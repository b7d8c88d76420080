"""Lists of the Gaussians that touch each 8x8 tile, front to back.

A Gaussian is put on a tile only if some pixel centre of the tile can lie inside its ellipse of visible opacity,
opacity * exp(-sigma) >= 1/255 (the opacity-aware culling of StopThePop, Radl et al. 2024, and Speedy-Splat, Hanson et
al. 2025, here exact per row of tiles).
"""

import math

import numba as nb
import numpy as np

from difix3d_ns.rasterization.jit import jit

TILE = 8  # pixels along a tile's side: 64 pixels fill four AVX-512 registers
ALPHA_MIN = 1.0 / 255.0
KEPT_ROWS = (
    4  # of tiles per Gaussian whose spans are kept between counting and filling; of larger ones they are found twice
)


@jit(inline="always")
def _ellipse(packed, k, radius):
    """Ellipse a dx^2 + 2 b dx dy + c dy^2 <= tau2 of a Gaussian's visible opacity: centre, a, b, c, tau2, radius."""
    opacity = float(packed[k, 5])
    tau2 = 2.0 * math.log(opacity / ALPHA_MIN) + 1e-4
    mx, my = float(packed[k, 0]), float(packed[k, 1])
    a, b, c = float(packed[k, 2]), float(packed[k, 3]), float(packed[k, 4])
    return mx, my, a, b, c, tau2, radius


@jit(inline="always")
def _row_span(ellipse, row, tiles_x):
    """First and one-past-last tile of `row` inside an `_ellipse`."""
    mx, my, a, b, c, tau2, radius = ellipse
    y0 = row * TILE + 0.5 - my
    y1 = y0 + (TILE - 1)
    det = a * c - b * b
    if not (det > 1e-12 * a * c):  # degenerate in float32: fall back to the square around it
        half = radius * 1.12 + 1.0
        if y0 > half or y1 < -half:
            return 0, 0
        low, high = -half, half
    else:
        extent_y = math.sqrt(tau2 * a / det)
        if y0 > extent_y or y1 < -extent_y:
            return 0, 0
        y0 = max(y0, -extent_y)
        y1 = min(y1, extent_y)
        extent_x = math.sqrt(tau2 * c / det)
        y_right = -b / c * extent_x  # height of the rightmost point; the leftmost one is at -y_right
        y = min(max(y_right, y0), y1)
        high = (-b * y + math.sqrt(max(b * b * y * y - a * (c * y * y - tau2), 0.0))) / a
        y = min(max(-y_right, y0), y1)
        low = (-b * y - math.sqrt(max(b * b * y * y - a * (c * y * y - tau2), 0.0))) / a
    first = math.ceil((mx + low - 1e-3 - (TILE - 0.5)) / TILE)
    last = math.floor((mx + high + 1e-3 - 0.5) / TILE) + 1
    return int(max(first, 0.0)), int(min(max(last, 0.0), float(tiles_x)))


@jit(inline="always")
def _row_range(ellipse, tiles_y):
    """First and one-past-last row of tiles that an `_ellipse` reaches."""
    _, my, a, b, c, tau2, radius = ellipse
    det = a * c - b * b
    half = math.sqrt(tau2 * a / det) if det > 1e-12 * a * c else radius * 1.12 + 1.0
    first = math.ceil((my - half - 1e-3 - (TILE - 0.5)) / TILE)
    last = math.floor((my + half + 1e-3 - 0.5) / TILE) + 1
    return int(max(first, 0.0)), int(min(max(last, 0.0), float(tiles_y)))


@jit(parallel=True)
def count_pairs(order, means2d, conics, opacities, colors, radii, tiles_x, tiles_y, packed, rows, spans, counts):
    """Gather the Gaussians in depth order into packed [V, 6 + D]: x, y, a, b, c, opacity, colours, close together.

    rows [V, 2]: first and one-past-last row of tiles that each may reach, and spans [V, KEPT_ROWS, 2] the same of the
    tiles in the first of these rows; counts[s, t]: Gaussians of slice s (contiguous in depth order) on tile t.
    """
    slices, n, channels = counts.shape[0], order.shape[0], colors.shape[1]
    for s in nb.prange(slices):
        for k in range(s * n // slices, (s + 1) * n // slices):
            i = order[k]
            packed[k, 0] = means2d[i, 0]
            packed[k, 1] = means2d[i, 1]
            packed[k, 2] = conics[i, 0]
            packed[k, 3] = conics[i, 1]
            packed[k, 4] = conics[i, 2]
            finite = opacities[i] * 0 == 0
            for channel in range(channels):
                packed[k, 6 + channel] = colors[i, channel]
                finite &= colors[i, channel] * 0 == 0
            packed[k, 5] = opacities[i] if finite else 0  # NaN and infinity: on no tile
            rows[k, 0] = rows[k, 1] = 0
            if not float(packed[k, 5]) > ALPHA_MIN:
                continue
            ellipse = _ellipse(packed, k, radii[i])
            top, bottom = _row_range(ellipse, tiles_y)
            rows[k, 0], rows[k, 1] = top, bottom
            for row in range(top, bottom):
                first, last = _row_span(ellipse, row, tiles_x)
                if row - top < KEPT_ROWS:
                    spans[k, row - top, 0], spans[k, row - top, 1] = first, last
                for column in range(first, last):
                    counts[s, row * tiles_x + column] += 1


@jit()
def start_positions(counts, offsets):
    """Turn counts into each slice's first write position, in place; offsets[t]: where tile t's list begins."""
    slices, tiles = counts.shape
    total = 0
    for t in range(tiles):
        offsets[t] = total
        for s in range(slices):
            total, counts[s, t] = total + counts[s, t], total
    offsets[tiles] = total
    return total


@jit(parallel=True)
def fill_pairs(order, packed, radii, tiles_x, rows, spans, positions, ids):
    """Write every tile's list of Gaussians (rows of `packed`), front to back, whatever the number of slices."""
    slices = positions.shape[0]
    n = packed.shape[0]
    for s in nb.prange(slices):
        for k in range(s * n // slices, (s + 1) * n // slices):
            top, bottom = rows[k, 0], rows[k, 1]
            for row in range(top, bottom):
                if row - top < KEPT_ROWS:
                    first, last = spans[k, row - top, 0], spans[k, row - top, 1]
                else:
                    first, last = _row_span(_ellipse(packed, k, radii[order[k]]), row, tiles_x)
                for column in range(first, last):
                    tile = row * tiles_x + column
                    ids[positions[s, tile]] = k
                    positions[s, tile] += 1


def depth_order(depths: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Indices of `visible` sorted by depth, ties by index: one sort of (depth bits, index) packed in 64 bits.

    depths: [M] float32, positive; visible: [V] indices into it. Positive floats sort as their bit patterns do.
    """
    keys = depths[visible].view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= visible.astype(np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
