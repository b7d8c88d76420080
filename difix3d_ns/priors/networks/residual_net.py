"""A network that estimates what a large picture shows beyond its small one: the core of the embedded upscaler.

Its latent is no autoencoder's: the difference to the back-projected enlargement, scaled to about unit variance, four by
four pixels to a place. So a picture is encoded and decoded exactly, low frequencies cost nothing, and the network works
at the large picture's size whatever the factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from difix3d_ns.geometry.resampling import back_project, resample
from difix3d_ns.priors.networks.blend_net import silence

PATCH = 4  # pixels of a latent place, along each side
_SIDE = 2 * PATCH  # sides are padded to multiples of it: the network halves the latent once
_CHANNELS = 3 * PATCH**2
_CONDITIONS = 2 * _CHANNELS + 3
_TIMES = 32  # numbers that stand for a timestep
_SPREAD = 0.7  # variance of a latent, given its photograph, in units of that of all


class Enlargement:
    """A photograph enlarged by back-projection, and the latent space of larger pictures relative to that.

    Args:
        low: [B, 3, h, w] in [0, 1], the photographs.
        size: height and width of the large pictures.
        scales: of the differences, by factor.
    """

    def __init__(self, low: Tensor, size: tuple[int, int], scales: Mapping[float, float]) -> None:
        self.factor = math.sqrt(size[0] * size[1] / (low.shape[-2] * low.shape[-1]))
        self.size = size
        self._scale = _interpolated(scales, self.factor)
        smooth = resample(low, *size).clamp(0, 1)
        self.picture = back_project(smooth, low)
        self._smooth = smooth

    def encode(self, pictures: Tensor) -> Tensor:
        """Latent [B, 48, H/4, W/4] of pictures [B, 3, H, W] of the large size; sides are padded to multiples of 8."""
        return self._unshuffled((pictures - self.picture) * self._scale)

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures [B, 3, H, W], not clamped, of a latent."""
        height, width = self.size
        return self.picture + F.pixel_shuffle(latent, PATCH)[..., :height, :width] / self._scale

    def conditions(self) -> Tensor:
        """Compute what the network knows of the photograph, [B, 99, H/4, W/4], each channel of about unit variance.

        The enlargement's patches as cosine transforms, whose means differ from their neighbours' the more clearly
        without the wider surroundings'; and what the enlargement gained on a bicubic one.
        """
        patches = cosine_transformed(self._unshuffled(self.picture))
        means, details = patches[:, :3] / PATCH, patches[:, 3:]
        nearby = means - F.avg_pool2d(means, 5, 1, 2, count_include_pad=False)
        gained = cosine_transformed(self._unshuffled(self.picture - self._smooth))
        scale = self._scale
        return torch.cat([2 * means - 1, nearby * (scale / 2), details * scale, gained * (3 * scale)], 1)

    def _unshuffled(self, values: Tensor) -> Tensor:
        height, width = self.size
        return F.pixel_unshuffle(F.pad(values, (0, -width % _SIDE, 0, -height % _SIDE), mode="replicate"), PATCH)


def _interpolated(scales: Mapping[float, float], factor: float) -> float:
    """Between the factors of a table, both by their logarithms; the outermost beyond them."""
    factors = sorted(scales)
    known = [math.log(scales[one]) for one in factors]
    return math.exp(float(np.interp(math.log(factor), np.log(factors), known)))


def cosine_transformed(patches: Tensor) -> Tensor:
    """Orthonormal cosine transform of each patch and colour, [B, 48, h, w]; lowest frequencies first."""
    places = torch.arange(PATCH, device=patches.device) + 0.5
    rows = (
        torch.cos(math.pi / PATCH * torch.arange(PATCH, device=patches.device)[:, None] * places) * (2 / PATCH) ** 0.5
    )
    rows[0] /= 2**0.5
    basis = torch.einsum("ai,bj->abij", rows, rows).reshape(PATCH**2, PATCH**2)
    colours = patches.unflatten(1, (3, PATCH**2))
    return torch.einsum("kp,bcphw->bkchw", basis, colours).flatten(1, 2)


class ResidualBlock(nn.Module):
    """Residual block that is the identity at first; scaled and shifted by the embedding."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        silence(self.modulate)
        silence(self.second)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding)[..., None, None].chunk(2, 1)
        return hidden + self.second(F.silu(self.first(F.silu(hidden)) * (1 + scale) + shift))


class ResidualNet(nn.Module):
    """A U-Net of two levels that predicts ``x_0``; without attention or normalisation, so that a crop is treated as the
    whole picture is.

    Args:
        widths: channels of the two levels.
        blocks: residual blocks before, in and after the lower level.
        embedding: numbers that stand for timestep and factor.
        scales: of latents by factor, for ``Enlargement``; pairs in JSON.
        extra: channels of conditions besides those of ``Enlargement``.
    """

    def __init__(
        self,
        widths: tuple[int, int] = (80, 112),
        blocks: tuple[int, int, int] = (3, 2, 2),
        embedding: int = 64,
        scales: Sequence[tuple[float, float]] = ((4.0, 20.0),),
        extra: int = 0,
    ) -> None:
        super().__init__()
        upper, lower = widths
        before, inside, after = blocks
        self.scales = {float(factor): float(scale) for factor, scale in scales}
        self.extra = extra
        self.embed = nn.Sequential(
            nn.Linear(_TIMES + 2, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.enter = nn.Conv2d(_CHANNELS + _CONDITIONS + extra, upper, 3, padding=1)
        self.before = nn.ModuleList(ResidualBlock(upper, embedding) for _ in range(before))
        self.down = nn.Conv2d(upper, lower, 2, stride=2)
        self.inside = nn.ModuleList(ResidualBlock(lower, embedding) for _ in range(inside))
        self.up = nn.Conv2d(lower, 4 * upper, 1)
        self.after = nn.ModuleList(ResidualBlock(upper, embedding) for _ in range(after))
        self.leave = nn.Conv2d(upper, _CHANNELS, 3, padding=1)
        silence(self.leave)
        # A place sees so far: one for each convolution, twice that in the lower level, and its neighbour there.
        self._halo = 2 + 2 * before + 4 * inside + 2 * after + 2

    def forward(self, noisy: Tensor, conditions: Tensor, level: Tensor, signal: Tensor, factor: float) -> Tensor:
        """Estimate clean latents.

        Args:
            noisy: [B, 48, h, w], both sides even.
            conditions: [B, 99 + extra, h, w]; see ``Enlargement``.
            level: [B] timesteps.
            signal: [B] ``a_t`` there.
            factor: of the enlargement.
        """
        dtype = self.enter.weight.dtype
        octaves = math.log2(factor)
        hints = torch.tensor([octaves, octaves**2], device=level.device).expand(len(level), 2)
        embedding = self.embed(torch.cat([get_timestep_embedding(level, _TIMES), hints], 1).to(dtype))
        # What the best linear estimate would keep of noise at this level: where there is nothing but noise, the network
        # is not shown any, and need not learn to overlook it.
        kept = signal**0.5 * _SPREAD / (signal * _SPREAD + 1 - signal)
        linear = kept.view(-1, 1, 1, 1) * noisy
        upper = self.enter(torch.cat([linear, conditions], 1).to(dtype, memory_format=torch.channels_last))
        for block in self.before:
            upper = block(upper, embedding)
        lower = self.down(upper)
        for block in self.inside:
            lower = block(lower, embedding)
        upper = upper + F.pixel_shuffle(self.up(F.silu(lower)), 2)
        for block in self.after:
            upper = block(upper, embedding)
        return linear + self.leave(F.silu(upper)).float()

    def in_tiles(
        self, noisy: Tensor, conditions: Tensor, level: Tensor, signal: Tensor, factor: float, tile: int = 192
    ) -> Tensor:
        """``forward`` in tiles of ``tile`` places, each with all that it sees: the same numbers but for rounding."""
        height, width = noisy.shape[-2:]
        if max(height, width) <= tile:
            return self(noisy, conditions, level, signal, factor)
        whole = torch.empty_like(noisy)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                rows, columns = _span(top, tile, height, self._halo), _span(left, tile, width, self._halo)
                cut = (..., slice(*rows), slice(*columns))
                part = self(noisy[cut], conditions[cut], level, signal, factor)
                part = part[..., top - rows[0] :, left - columns[0] :][..., :tile, :tile]
                whole[..., top : top + tile, left : left + tile] = part
        return whole


def _span(start: int, tile: int, whole: int, halo: int) -> tuple[int, int]:
    return max(0, start - halo), min(whole, start + tile + halo)
