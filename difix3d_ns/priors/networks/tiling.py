"""An autoencoder's encoder and decoder in horizontal strips, equal to the whole but for rounding.

Every convolution reads a strip with the rows it needs from its neighbours, every group normalisation uses the
statistics of the whole picture, and the middle block with its attention sees the whole latent. So there are no seams
and no change of colour, which overlapping tiles with statistics of their own have. Between layers a feature map lies
whole in one place, which may be the host's memory: then the device holds a few strips and the latent.
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
    """How to cut, and where feature maps rest.

    Args:
        pixels: of a feature map in one strip, at its own resolution.
        rest: the device of feature maps between layers; None for the computing device.
    """

    pixels: int = 2**18
    rest: torch.device | None = None

    def cut(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """First row and row after the last of every strip."""
        rows = max(1, self.pixels // max(width, 1))
        for start in range(0, height, rows):
            yield start, min(start + rows, height)


@dataclass
class _Map:
    """A feature map not necessarily in memory: ``read`` makes the rows asked for."""

    shape: tuple[int, int, int, int]
    read: Rows


def encode(encoder: Any, pictures: Tensor, keep: bool, how: Tiling) -> tuple[Tensor, list[Tensor]]:
    """``AutoencoderKL.encoder`` before its middle block, and the inputs of its down blocks if ``keep``."""
    place, kept = _computing(encoder), []
    hidden = _convolve(_at(pictures, place), encoder.conv_in, how)
    for block in encoder.down_blocks:
        if keep:
            kept.append(hidden)
        for resnet in block.resnets:
            hidden = _resnet(hidden, resnet, how, place)
        for sampler in block.downsamplers or ():
            pads = (0, 1) if sampler.padding == 0 else None
            hidden = _convolve(_at(hidden, place), sampler.conv, how, pads)
    return hidden.to(place), kept


def decode(
    decoder: Any, hidden: Tensor, skips: nn.ModuleList | None, gamma: float, kept: Sequence[Tensor], how: Tiling
) -> Tensor:
    """The rest of ``AutoencoderKL.decoder`` after its middle block, skips added before each up block."""
    place = _computing(decoder)
    sources = list(kept)
    for number, block in enumerate(decoder.up_blocks):
        if skips is not None:
            hidden = _add_skip(hidden, sources.pop(), skips[number], gamma, how, place)
        for resnet in block.resnets:
            hidden = _resnet(hidden, resnet, how, place)
        for sampler in block.upsamplers or ():
            hidden = _convolve(_doubled(_at(hidden, place)), sampler.conv, how)
    out = _convolve(_normed(hidden, decoder.conv_norm_out, decoder.conv_act, how, place), decoder.conv_out, how)
    return out.to(place)


def _computing(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _at(tensor: Tensor, place: torch.device) -> _Map:
    return _Map(_shape(tensor), lambda a, b: tensor[:, :, a:b].to(place))


def _normed(
    tensor: Tensor, norm: nn.GroupNorm, activation: Callable[[Tensor], Tensor], how: Tiling, place: torch.device
) -> _Map:
    """Group normalisation by the statistics of the whole map, then the activation."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for a, b in how.cut(*tensor.shape[2:]):
        strip = tensor[:, :, a:b].to(place).float().reshape(tensor.shape[0], norm.num_groups, -1)
        size, centre = strip.shape[-1], strip.mean(-1).double()
        spread = (strip - centre[..., None].float()).square().sum(-1).double()
        # Chan et al. (1979): merge means and sums of squared deviations without cancellation.
        if count == 0:
            count, mean, squares = size, centre, spread
        else:
            shift = centre - mean
            squares = squares + spread + shift.square() * (count * size / (count + size))
            mean = mean + shift * (size / (count + size))
            count += size
    scale = (squares / count + norm.eps).rsqrt()
    each = tensor.shape[1] // norm.num_groups
    gain = scale.repeat_interleave(each, 1).float() * norm.weight.float()
    offset = norm.bias.float() - mean.repeat_interleave(each, 1).float() * gain

    def read(a: int, b: int) -> Tensor:
        strip = tensor[:, :, a:b].to(place)
        return activation((strip.float() * gain[..., None, None] + offset[..., None, None]).to(strip.dtype))

    return _Map(_shape(tensor), read)


def _doubled(source: _Map) -> _Map:
    """Nearest-neighbour enlargement by two."""
    batch, channels, height, width = source.shape

    def read(a: int, b: int) -> Tensor:
        first = a // 2
        large = F.interpolate(source.read(first, (b + 1) // 2), scale_factor=2.0, mode="nearest")
        return large[:, :, a - 2 * first : b - 2 * first]

    return _Map((batch, channels, 2 * height, 2 * width), read)


def _convolve(
    source: _Map,
    layer: nn.Conv2d,
    how: Tiling,
    pads: tuple[int, int] | None = None,
    finish: Callable[[Tensor, int, int], Tensor] = lambda strip, a, b: strip,
) -> Tensor:
    """A convolution with zero padding.

    Args:
        source: what it reads.
        layer: its weights.
        how: to cut.
        pads: zeros before and after, both ways; None for the layer's own.
        finish: applied to rows a to b of the result.
    """
    batch, _, height, width = source.shape
    kernel, stride, padding = int(layer.kernel_size[0]), int(layer.stride[0]), int(layer.padding[0])
    before, after = pads or (padding, padding)
    tall, wide = ((side + before + after - kernel) // stride + 1 for side in (height, width))

    def rows(a: int, b: int) -> Tensor:
        low, high = a * stride - before, (b - 1) * stride + kernel - before
        strip = source.read(max(low, 0), min(high, height))
        strip = F.pad(strip, (before, after, max(-low, 0), max(high - height, 0)))
        return finish(F.conv2d(strip, layer.weight, layer.bias, stride), a, b)

    return _collect((batch, layer.out_channels, tall, wide), rows, how)


def _collect(shape: tuple[int, int, int, int], rows: Rows, how: Tiling) -> Tensor:
    whole: Tensor | None = None
    for a, b in how.cut(shape[2], shape[3]):
        strip = rows(a, b)
        if whole is None:
            whole = torch.empty(shape, dtype=strip.dtype, device=how.rest or strip.device)
        whole[:, :, a:b] = strip
    assert whole is not None
    return whole


def _resnet(hidden: Tensor, block: Any, how: Tiling, place: torch.device) -> Tensor:
    """A ``ResnetBlock2D`` without time embedding, as the autoencoder's are."""
    inner = _convolve(_normed(hidden, block.norm1, block.nonlinearity, how, place), block.conv1, how)

    def add(strip: Tensor, a: int, b: int) -> Tensor:
        straight = hidden[:, :, a:b].to(place)
        if block.conv_shortcut is not None:
            straight = block.conv_shortcut(straight)
        return (straight + strip) / block.output_scale_factor

    return _convolve(_normed(inner, block.norm2, block.nonlinearity, how, place), block.conv2, how, finish=add)


def _add_skip(
    hidden: Tensor, source: Tensor, skip: nn.Module, gamma: float, how: Tiling, place: torch.device
) -> Tensor:
    def rows(a: int, b: int) -> Tensor:
        return hidden[:, :, a:b].to(place) + skip(source[:, :, a:b].to(place) * gamma)

    return _collect(_shape(hidden), rows, how)


def _shape(tensor: Tensor) -> tuple[int, int, int, int]:
    batch, channels, height, width = tensor.shape
    return batch, channels, height, width
