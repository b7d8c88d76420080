"""A network on overlapping tiles of a latent, as large as those it was trained on, whose outputs are averaged.

The weights fall from a tile's middle like a Gaussian (Barbero Jimenez, "Mixture of Diffusers for scene composition and
high resolution image generation", 2023), so that no seam shows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_VARIANCE = 0.01  # of the Gaussian, for a tile of side 1


def average_tiles(network: Callable[[Tensor], Tensor], latent: Tensor, tile: int, overlap: int) -> Tensor:
    """Run a network on tiles, and average its outputs where they overlap.

    Args:
        network: from [1, C, h, w] to [1, D, h, w].
        latent: [1, C, H, W].
        tile: height and width of tiles; a latent that is no larger is taken whole.
        overlap: at least, of neighbours.

    Returns:
        [1, D, H, W] float32.
    """
    height, width = latent.shape[2:]
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    if len(rows) == len(columns) == 1:
        return network(latent).float()
    tall, wide = min(tile, height), min(tile, width)
    window = _gaussian(tall)[:, None] * _gaussian(wide)
    window = window.to(latent.device)
    total, weight = torch.zeros(()), torch.zeros(height, width, dtype=torch.float64, device=latent.device)
    for top in rows:
        for left in columns:
            output = network(latent[:, :, top : top + tall, left : left + wide])
            if total.dim() == 0:
                total = weight.new_zeros(1, output.shape[1], height, width)
            total[:, :, top : top + tall, left : left + wide] += output.double() * window
            weight[top : top + tall, left : left + wide] += window
    return (total / weight).float()


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    if side <= tile:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def _gaussian(side: int) -> Tensor:
    places = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / side
    return torch.exp(-places.square() / (2 * _VARIANCE))
