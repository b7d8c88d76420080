"""SSIM and its gradient in two passes over the pictures: the library's takes up to half of a training step on a CPU.

Anything but float32 pictures on a CPU goes to the library.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from pytorch_msssim import SSIM
from torch import Tensor

from difix3d_ns.rasterization.jit import FASTMATH, KERNELS, as_array, jit, slots

WINDOW = 11  # pixels of the Gaussian window
_REACH = WINDOW - 1
_SIGMA = 1.5
_GAUSSIAN = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * _SIGMA**2))
_W0, _W1, _W2, _W3, _W4, _W5 = (np.float32(w) for w in (_GAUSSIAN / _GAUSSIAN.sum())[: WINDOW // 2 + 1])
_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)  # K1, K2 of Wang et al. 2004 for pictures in [0, 1]
_ONE, _TWO = np.float32(1.0), np.float32(2.0)


class FusedSSIM(SSIM):
    """Mean SSIM (Wang et al. 2004) of pictures in [0, 1], as `pytorch_msssim.SSIM` has it, over all whole windows."""

    win: Tensor  # [3, 1, 1, WINDOW], the library's

    def __init__(self) -> None:
        super().__init__(data_range=1.0, size_average=True, channel=3, win_size=WINDOW, win_sigma=_SIGMA)

    def forward(self, truth: Tensor, picture: Tensor) -> Tensor:
        """Similarity [] in [-1, 1] of ``truth`` and ``picture``, both [1, 3, H, W]; gradients go to ``picture``."""
        ours = (
            not (truth.requires_grad and torch.is_grad_enabled())
            and truth.shape == picture.shape
            and truth.shape[0] == 1
            and min(truth.shape[2:]) >= WINDOW
            and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in (truth, picture))
        )
        if ours:
            return _Similarity.apply(truth[0], picture[0])
        self.win = self.win.to(picture)  # else it is copied in every step
        return super().forward(truth, picture)


class _Similarity(torch.autograd.Function):
    """Compare truth [C, H, W] and picture [C, H, W]: similarity []."""

    @staticmethod
    def forward(ctx: Any, truth: Tensor, picture: Tensor) -> Tensor:
        channels, height, width = truth.shape
        # rows of interleaved channels: long, and a neighbour in x is `channels` floats away
        rows = [as_array(x.permute(1, 2, 0)).reshape(height, -1) for x in (truth, picture)]
        # derivatives by what a window sees: the means of the picture, of its square, of its product with the truth;
        # with a border of zeros, so that the pass back is the same filter
        partials = np.zeros((3, height + _REACH, channels * (width + _REACH)), np.float32)
        sums = np.empty(height - _REACH, np.float64)
        with KERNELS:
            _compare(*rows, channels, slots(height // WINDOW), partials, sums)
        ctx.save_for_backward(truth, picture)  # so that torch notices changes in place meanwhile
        ctx.rows, ctx.partials, ctx.shape = rows, partials, truth.shape
        ctx.windows = sums.size * channels * (width - _REACH)
        return torch.tensor(sums.sum() / ctx.windows, dtype=torch.float32)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        _ = ctx.saved_tensors
        channels, height, width = ctx.shape
        result = np.empty_like(ctx.rows[1])
        with KERNELS:
            scale = np.float32(float(gradient) / ctx.windows)
            _gradient(*ctx.rows, channels, slots(height // WINDOW), ctx.partials, scale, result)
        return None, torch.from_numpy(result.reshape(height, width, channels)).permute(2, 0, 1)


# Slices with constant distances and one output let LLVM prove that nothing overlaps, and so use vector instructions.


@jit(fastmath=FASTMATH)
def _weighted(a, b, c, d, e, f, g, h, i, j, k, out):
    for x in range(len(out)):
        out[x] = (
            _W0 * (a[x] + k[x])
            + _W1 * (b[x] + j[x])
            + _W2 * (c[x] + i[x])
            + _W3 * (d[x] + h[x])
            + _W4 * (e[x] + g[x])
            + _W5 * f[x]
        )


@jit(fastmath=FASTMATH)
def _across(row, step, count, out):
    a, b, c = row[0:count], row[step : step + count], row[2 * step : 2 * step + count]
    d, e, f = row[3 * step : 3 * step + count], row[4 * step : 4 * step + count], row[5 * step : 5 * step + count]
    g, h, i = row[6 * step : 6 * step + count], row[7 * step : 7 * step + count], row[8 * step : 8 * step + count]
    j, k = row[9 * step : 9 * step + count], row[10 * step : 10 * step + count]
    _weighted(a, b, c, d, e, f, g, h, i, j, k, out)


@jit(fastmath=FASTMATH)
def _down(rows, y, out):
    a, b, c, d, e, f = rows[y], rows[y + 1], rows[y + 2], rows[y + 3], rows[y + 4], rows[y + 5]
    g, h, i, j, k = rows[y + 6], rows[y + 7], rows[y + 8], rows[y + 9], rows[y + 10]
    _weighted(a, b, c, d, e, f, g, h, i, j, k, out)


@jit(fastmath=FASTMATH)
def _products_down(rows, others, y, out):
    a, b, c, d, e, f = rows[y], rows[y + 1], rows[y + 2], rows[y + 3], rows[y + 4], rows[y + 5]
    g, h, i, j, k = rows[y + 6], rows[y + 7], rows[y + 8], rows[y + 9], rows[y + 10]
    m, n, o, p, q, r = others[y], others[y + 1], others[y + 2], others[y + 3], others[y + 4], others[y + 5]
    s, t, u, v, w = others[y + 6], others[y + 7], others[y + 8], others[y + 9], others[y + 10]
    for x in range(out.shape[0]):
        out[x] = (
            _W0 * (a[x] * m[x] + k[x] * w[x])
            + _W1 * (b[x] * n[x] + j[x] * v[x])
            + _W2 * (c[x] * o[x] + i[x] * u[x])
            + _W3 * (d[x] * p[x] + h[x] * t[x])
            + _W4 * (e[x] * q[x] + g[x] * s[x])
            + _W5 * f[x] * r[x]
        )


@jit(parallel=True, fastmath=FASTMATH)
def _compare(truth, picture, channels, slots, partials, sums):
    """Sums of SSIM by rows of windows, and its partial derivatives."""
    width, border = truth.shape[1], _REACH * channels
    count = width - border
    for slot in nb.prange(slots):
        line = np.empty(width, np.float32)
        means = np.empty((5, count), np.float32)
        for y in range(slot * len(sums) // slots, (slot + 1) * len(sums) // slots):
            _down(truth, y, line)
            _across(line, channels, count, means[0])
            _down(picture, y, line)
            _across(line, channels, count, means[1])
            _products_down(truth, truth, y, line)
            _across(line, channels, count, means[2])
            _products_down(picture, picture, y, line)
            _across(line, channels, count, means[3])
            _products_down(truth, picture, y, line)
            _across(line, channels, count, means[4])
            sums[y] = _similarity(means, partials[:, y + _REACH, border : border + count])


@jit(fastmath=FASTMATH)
def _similarity(means, partials):
    """Sum of SSIM over a row of windows, from the means they see; fills in its partial derivatives."""
    truth, picture, truth2, picture2, product = means[0], means[1], means[2], means[3], means[4]
    by_mean, by_square, by_product = partials[0], partials[1], partials[2]
    total = np.float32(0.0)
    for x in range(len(truth)):
        m, n = truth[x], picture[x]
        mm, nn, mn = m * m, n * n, m * n
        luminance, covariance = _TWO * mn + _C1, _TWO * (product[x] - mn) + _C2
        scale1, scale2 = _ONE / (mm + nn + _C1), _ONE / (truth2[x] - mm + picture2[x] - nn + _C2)
        both = luminance * covariance * scale1 * scale2
        square, cross = -both * scale2, _TWO * luminance * scale1 * scale2
        by_square[x], by_product[x] = square, cross
        by_mean[x] = _TWO * (m * covariance * scale1 * scale2 - both * n * scale1 - n * square) - m * cross
        total += both
    return total


@jit(parallel=True, fastmath=FASTMATH)
def _gradient(truth, picture, channels, slots, partials, scale, out):
    """Gradient of the mean with respect to the picture: the transposed filter, which is the filter itself."""
    height, width = truth.shape
    for slot in nb.prange(slots):
        line = np.empty(partials.shape[2], np.float32)
        by = np.empty((3, width), np.float32)
        for y in range(slot * height // slots, (slot + 1) * height // slots):
            for i in range(3):
                _down(partials[i], y, line)
                _across(line, channels, width, by[i])
            _combine(truth[y], picture[y], by[0], by[1], by[2], scale, out[y])


@jit(fastmath=FASTMATH)
def _combine(truth, picture, by_mean, by_square, by_product, scale, out):
    for x in range(len(out)):
        out[x] = scale * (by_mean[x] + _TWO * picture[x] * by_square[x] + truth[x] * by_product[x])
