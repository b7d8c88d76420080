"""An autoencoder's encoder and decoder in horizontal tiles, equal to the whole but for rounding.

Every convolution reads a tile with the rows it needs from its neighbours, every group normalisation uses the
statistics of the whole picture, and the middle block with its attention sees the whole latent. So there are no seams
and no change of colour, which overlapping tiles with statistics of their own have. Between layers a feature map lies
whole in one place, which may be the host's memory: then the device holds a few tiles and the latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rows = Callable[[int, int], Tensor]
"""rows a to b of a feature map, on the computing device"""


@dataclass(frozen=True)
class Tiling:
    """Size of tiles, and the device of feature maps between layers.

    Args:
        pixels: of a feature map in one tile, at its own resolution.
        offload_device: of feature maps between layers; None for the computing device.
    """

    pixels: int = 2**18
    offload_device: torch.device | None = None

    def tiles(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """First row and row after the last of every tile."""
        rows = max(1, self.pixels // max(width, 1))
        for start in range(0, height, rows):
            yield start, min(start + rows, height)


@dataclass
class LazyFeatureMap:
    """A feature map not necessarily in memory: ``read`` computes the requested rows."""

    shape: torch.Size  # batch, channels, height, width
    read: Rows


def encode(encoder: Any, pictures: Tensor, keep: bool, tiling: Tiling) -> tuple[Tensor, list[Tensor]]:
    """Run ``AutoencoderKL.encoder`` up to its middle block; with ``keep`` also the inputs of its down blocks."""
    tiled, kept = _Tiled(tiling, encoder), []
    hidden = tiled.convolve(tiled.read(pictures), encoder.conv_in)
    for block in encoder.down_blocks:
        if keep:
            kept.append(hidden)
        for resnet in block.resnets:
            hidden = tiled.resnet(hidden, resnet)
        for sampler in block.downsamplers or ():
            pads = (0, 1) if sampler.padding == 0 else None
            hidden = tiled.convolve(tiled.read(hidden), sampler.conv, pads)
    return hidden.to(tiled.device), kept


def decode(
    decoder: Any, hidden: Tensor, skips: nn.ModuleList | None, gamma: float, kept: Sequence[Tensor], tiling: Tiling
) -> Tensor:
    """Run ``AutoencoderKL.decoder`` from its middle block on, skips added before each up block."""
    tiled, sources = _Tiled(tiling, decoder), list(kept)
    for number, block in enumerate(decoder.up_blocks):
        if skips is not None:
            hidden = tiled.add_skip(hidden, sources.pop(), skips[number], gamma)
        for resnet in block.resnets:
            hidden = tiled.resnet(hidden, resnet)
        for sampler in block.upsamplers or ():
            hidden = tiled.convolve(_upsample2x(tiled.read(hidden)), sampler.conv)
    out = tiled.convolve(tiled.normalise(hidden, decoder.conv_norm_out, decoder.conv_act), decoder.conv_out)
    return out.to(tiled.device)


def _upsample2x(source: LazyFeatureMap) -> LazyFeatureMap:
    """Enlarge by two, nearest neighbour."""
    batch, channels, height, width = source.shape

    def read(a: int, b: int) -> Tensor:
        first = a // 2
        large = F.interpolate(source.read(first, (b + 1) // 2), scale_factor=2.0, mode="nearest")
        return large[:, :, a - 2 * first : b - 2 * first]

    return LazyFeatureMap(torch.Size((batch, channels, 2 * height, 2 * width)), read)


class _Tiled:
    """Layers of an autoencoder, computed tile by tile on the device of a network."""

    def __init__(self, tiling: Tiling, network: nn.Module):
        self.tiling = tiling
        self.device = next(network.parameters()).device

    def read(self, tensor: Tensor) -> LazyFeatureMap:
        return LazyFeatureMap(tensor.shape, lambda a, b: tensor[:, :, a:b].to(self.device))

    def normalise(self, tensor: Tensor, norm: nn.GroupNorm, activation: Callable[[Tensor], Tensor]) -> LazyFeatureMap:
        """Group normalisation by the statistics of the whole map, then the activation."""
        source = self.read(tensor)
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for a, b in self.tiling.tiles(*tensor.shape[2:]):
            tile = source.read(a, b).float().reshape(tensor.shape[0], norm.num_groups, -1)
            size, centre = tile.shape[-1], tile.mean(-1).double()
            deviations = (tile - centre[..., None].float()).square().sum(-1).double()
            # Chan et al. (1979): merge means and sums of squared deviations without cancellation.
            if count == 0:
                count, mean, squares = size, centre, deviations
            else:
                shift = centre - mean
                squares = squares + deviations + shift.square() * (count * size / (count + size))
                mean = mean + shift * (size / (count + size))
                count += size
        scale = (squares / count + norm.eps).rsqrt()
        each = tensor.shape[1] // norm.num_groups
        gain = scale.repeat_interleave(each, 1).float() * norm.weight.float()
        offset = norm.bias.float() - mean.repeat_interleave(each, 1).float() * gain

        def read(a: int, b: int) -> Tensor:
            tile = source.read(a, b)
            return activation((tile.float() * gain[..., None, None] + offset[..., None, None]).to(tile.dtype))

        return LazyFeatureMap(tensor.shape, read)

    def convolve(
        self,
        source: LazyFeatureMap,
        layer: nn.Conv2d,
        pads: tuple[int, int] | None = None,
        finish: Callable[[Tensor, int, int], Tensor] = lambda tile, a, b: tile,
    ) -> Tensor:
        """Convolve with zero padding.

        Args:
            source: its input.
            layer: its weights.
            pads: zeros before and after, both ways; None for the layer's own.
            finish: applied to rows a to b of the result.
        """
        batch, _, height, width = source.shape
        kernel, stride, padding = int(layer.kernel_size[0]), int(layer.stride[0]), int(layer.padding[0])
        before, after = pads or (padding, padding)
        tall, wide = ((side + before + after - kernel) // stride + 1 for side in (height, width))

        def rows(a: int, b: int) -> Tensor:
            low, high = a * stride - before, (b - 1) * stride + kernel - before
            tile = source.read(max(low, 0), min(high, height))
            tile = F.pad(tile, (before, after, max(-low, 0), max(high - height, 0)))
            return finish(F.conv2d(tile, layer.weight, layer.bias, stride), a, b)

        return self.collect(torch.Size((batch, layer.out_channels, tall, wide)), rows)

    def collect(self, shape: torch.Size, rows: Rows) -> Tensor:
        """Compute a feature map tile by tile."""
        whole: Tensor | None = None
        for a, b in self.tiling.tiles(shape[2], shape[3]):
            tile = rows(a, b)
            if whole is None:
                whole = torch.empty(shape, dtype=tile.dtype, device=self.tiling.offload_device or tile.device)
            whole[:, :, a:b] = tile
        assert whole is not None
        return whole

    def resnet(self, hidden: Tensor, block: Any) -> Tensor:
        """Run a ``ResnetBlock2D`` without time embedding, as the autoencoder's are."""
        source = self.read(hidden)
        inner = self.convolve(self.normalise(hidden, block.norm1, block.nonlinearity), block.conv1)

        def add(tile: Tensor, a: int, b: int) -> Tensor:
            straight = source.read(a, b)
            if block.conv_shortcut is not None:
                straight = block.conv_shortcut(straight)
            return (straight + tile) / block.output_scale_factor

        return self.convolve(self.normalise(inner, block.norm2, block.nonlinearity), block.conv2, finish=add)

    def add_skip(self, hidden: Tensor, source: Tensor, skip: nn.Module, gamma: float) -> Tensor:
        straight, skipped = self.read(hidden), self.read(source)
        return self.collect(hidden.shape, lambda a, b: straight.read(a, b) + skip(skipped.read(a, b) * gamma))
