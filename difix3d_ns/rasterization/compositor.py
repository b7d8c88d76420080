"""Projected Gaussians of several cameras to images, differentiable: binning and compositing under one autograd node."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from difix3d_ns.rasterization import binning, compositing
from difix3d_ns.rasterization.compositing import TileLists
from difix3d_ns.rasterization.jit import KERNELS, as_array, slots

_MAX_SLOTS = 32  # bounds memory on machines with many cores, as each part of the tiles has gradients of its own
_PARTS_PER_THREAD = 2  # of several: one whose core is busy elsewhere leaves some of its own to the others


def _slots(offsets: np.ndarray) -> int:
    return slots(min(_MAX_SLOTS, len(offsets)))


def _scratch(lists: TileLists, channels: int) -> np.ndarray:
    return np.empty((_slots(lists.offsets), compositing.scratch_floats(channels)), np.float32)


def _zero() -> np.ndarray:
    return np.zeros(1, np.int64)


def bin_gaussians(
    means2d: np.ndarray,  # [M, 2] pixels
    conics: np.ndarray,  # [M, 3]
    colors: np.ndarray,  # [M, D]
    opacities: np.ndarray,  # [M]
    depths: np.ndarray,  # [M]
    radii: np.ndarray,  # [M] int32, 0 = invisible
    width: int,
    height: int,
) -> TileLists:
    """Sort the visible Gaussians by depth and list them per tile."""
    order = binning.depth_order(depths, np.flatnonzero(radii > 0))
    packed = np.empty((len(order), 6 + colors.shape[1]), np.float32)
    tiles_x, tiles_y = -(-width // binning.TILE), -(-height // binning.TILE)
    offsets = np.zeros(tiles_x * tiles_y + 1, np.int64)
    counts = np.zeros((_slots(offsets), tiles_x * tiles_y), np.int64)
    gaussians = (means2d, conics, opacities, colors, radii)
    rows, spans = np.empty((len(order), 2), np.int32), np.empty((len(order), binning.KEPT_ROWS, 2), np.int32)
    binning.count_pairs(order, *gaussians, tiles_x, tiles_y, packed, rows, spans, counts)
    ids = np.empty(binning.start_positions(counts, offsets), np.int32)
    binning.fill_pairs(order, packed, radii, tiles_x, rows, spans, counts, ids)
    return TileLists(order, packed, offsets, ids, width, height, tiles_x, tiles_y)


class Composite(torch.autograd.Function):
    """Composite means2d [M, 2], conics [M, 3], colors [M, D], opacities [M] to image [C, H, W, D], alpha [C, H, W, 1].

    The M Gaussians of the C cameras lie one camera after the other; `rows[c]:rows[c+1]` are camera c's. Depths and
    radii only order and hide, they get no gradient. `absgrad_of` receives `.absgrad` (its own shape) in backward.
    """

    @staticmethod
    def forward(ctx, means2d, conics, colors, opacities, depths, radii, rows, width, height, absgrad_of):
        arrays = [as_array(x) for x in (means2d, conics, colors, opacities, depths)]
        radii_array = radii.detach().to(torch.int32).contiguous().numpy()
        cameras, channels = len(rows) - 1, colors.shape[1]
        image = np.empty((cameras, height, width, channels), np.float32)
        final = np.empty((cameras, height, width), np.float32)
        last = np.empty((cameras, height, width), np.int32)
        lists = []
        with KERNELS:
            for camera in range(cameras):
                part = slice(rows[camera], rows[camera + 1])
                m, c, v, o, z = (x[part] for x in arrays)
                tiles = bin_gaussians(m, c, v, o, z, radii_array[part], width, height)
                images = (image[camera], final[camera], last[camera])
                compositing.forward_kernel(channels)(tiles, _scratch(tiles, channels), _zero(), *images)
                lists.append(tiles)
        ctx.lists, ctx.rows, ctx.absgrad_of = lists, rows, absgrad_of
        ctx.final, ctx.last, ctx.count = final, last, means2d.shape[0]
        return torch.from_numpy(image), torch.from_numpy(1.0 - final)[..., None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_image, grad_alpha):
        channels = grad_image.shape[-1]
        grad_image, grad_final = as_array(grad_image), -as_array(grad_alpha[..., 0])
        outputs = [np.zeros((ctx.count, k), np.float32) for k in (2, 2, 3, 1, channels)]
        with KERNELS:
            for camera, tiles in enumerate(ctx.lists):
                scratch = _scratch(tiles, channels)
                parts = len(scratch) * (_PARTS_PER_THREAD if len(scratch) > 1 else 1)
                grads = np.zeros((parts, len(tiles.order), 8 + channels), np.float32)
                images = (ctx.final[camera], ctx.last[camera], grad_image[camera], grad_final[camera])
                compositing.backward_kernel(channels)(tiles, scratch, _zero(), *images, grads)
                part = slice(ctx.rows[camera], ctx.rows[camera + 1])
                means2d, absolute, conics, opacities, colors = (x[part] for x in outputs)
                compositing.scatter_gradients(grads, tiles.order, means2d, absolute, conics, opacities[:, 0], colors)
        grad_means2d, absgrad, grad_conics, grad_opacities, grad_colors = map(torch.from_numpy, outputs)
        if ctx.absgrad_of is not None:
            ctx.absgrad_of.absgrad = absgrad.reshape(ctx.absgrad_of.shape)
        return grad_means2d, grad_conics, grad_colors, grad_opacities[:, 0], None, None, None, None, None, None


def median_of_projected(
    means2d: Tensor,  # [N, 2] pixels
    conics: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    depths: Tensor,  # [N]
    radii: Tensor,  # [N], 0 = invisible
    width: int,
    height: int,
    courses: Tensor | None = None,  # [N, 3], see projection.depth_courses; None: depths are those of the centres
) -> tuple[Tensor, Tensor]:
    """Median depth [H, W] of one camera (0 where transmittance never falls below 0.5) and alpha [H, W]."""
    m, c, o, z = (as_array(x) for x in (means2d, conics, opacities, depths))
    depth, final = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    with KERNELS:
        planes = z[:, None] if courses is None else np.concatenate([z[:, None], as_array(courses)], 1)
        tiles = bin_gaussians(m, c, planes, o, z, radii.to(torch.int32).contiguous().numpy(), width, height)
        compositing.median_kernel(courses is not None)(tiles, _scratch(tiles, 1), _zero(), depth, final)
    return torch.from_numpy(depth), torch.from_numpy(1.0 - final)
