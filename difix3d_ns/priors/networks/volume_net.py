"""A network that sees one photograph of an object, and says what is where along each of its rays.

The field is that of the photograph's own rays: what is outside of the silhouette is known to be empty, and what is
inside of it is described by numbers along each ray, so that convolutions over the picture alone are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64
"""pixels of the square picture"""
KNOWN = 8
"""channels of its input: colours inside of the silhouette, silhouette, inflated depth, distance to the outline, place:
3, 1, 1, 1, 2"""


class Field(NamedTuple):
    """Logits of what is where along the rays of a photograph."""

    solid: Tensor  # [B, D, 64, 64] that a place is inside of the object
    colours: Tensor  # [B, 3, D / 2, 32, 32] of the surface that is there, if one is


class Elevation(NamedTuple):
    """Elevation of the camera that a photograph was taken with, by Laplace's distribution."""

    mean: Tensor  # [B] degrees
    log_scale: Tensor  # [B] of degrees


class _Block(nn.Module):
    """Two convolutions beside a way past them, scaled and shifted by what is known of the whole."""

    def __init__(self, width: int, known: int = 0) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm, self.middle = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.known = nn.Linear(known, 2 * width) if known else None

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        y = self.middle(self.first(F.silu(self.norm(x))))
        if self.known is not None:
            scale, shift = self.known(known)[..., None, None].chunk(2, 1)
            y = y * (1 + scale) + shift
        return x + self.second(F.silu(y))


class _Attention(nn.Module):
    """Attention among all places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(8, width), heads
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, wide = x.shape
        tokens = self.enter(self.norm(x).flatten(2).transpose(1, 2))
        parts = tokens.view(batch, height * wide, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(batch, height * wide, width)
        return x + self.leave(found).transpose(1, 2).view_as(x)


class VolumeNet(nn.Module):
    """A U-Net over the photograph.

    Args:
        widths: channels at 32, 16 and 8 pixels.
        depths: places along each ray, an even number.
        blocks: at each size, before and after the smallest.
        heads: of attention at the smallest size.
    """

    def __init__(self, widths: Sequence[int] = (56, 72, 88), depths: int = 48, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        if depths % 2 or len(widths) != 3:
            raise ValueError("an even number of depths and three widths are needed")
        self.depths = depths
        first, second, third = widths
        known = 48
        self.fine = nn.Conv2d(KNOWN, 24, 3, padding=1)
        self.enter = nn.Conv2d(4 * 24, first, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in ((first, second), (second, third)))
        self.before = nn.ModuleList(nn.ModuleList(_Block(width) for _ in range(blocks)) for width in widths)
        self.tilt = nn.Linear(2 * third, 2)
        self.elevation = nn.Sequential(nn.Linear(4, known), nn.SiLU(), nn.Linear(known, known), nn.SiLU())
        self.attention = _Attention(third, heads)
        self.middle = nn.ModuleList(_Block(third, known) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in ((third + second, second), (second + first, first)))
        self.after = nn.ModuleList(
            nn.ModuleList(_Block(width, known) for _ in range(blocks)) for width in (second, first)
        )
        self.leave = nn.Sequential(nn.GroupNorm(8, first), nn.SiLU())
        self.solid = nn.Conv2d(first, 4 * 32, 3, padding=1)
        self.depth = nn.Conv2d(32 + 24, depths, 1)
        self.colours = nn.Conv2d(first, 3 * depths // 2, 1)

    def forward(self, picture: Tensor, elevation: Tensor) -> tuple[Field, Elevation]:
        """Describe what a photograph shows and hides.

        Args:
            picture: [B, 8, 64, 64], see ``KNOWN``.
            elevation: [B] of the camera, degrees; the elevation found does not depend on it.
        """
        fine = self.fine(picture)
        x = self.enter(F.pixel_unshuffle(F.silu(fine), 2))
        kept = []
        for number, blocks in enumerate(self.before):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
            if number < len(self.down):
                kept.append(x)
                x = self.down[number](x)
        tilt = self.tilt(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)).float()
        angle = torch.deg2rad(elevation)[:, None]
        known = self.elevation(torch.cat([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], 1))
        x = self.attention(x)
        for block in self.middle:
            x = block(x, known)
        for up, blocks in zip(self.up, self.after, strict=True):
            x = up(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), kept.pop()], 1))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, known)
        x = self.leave(x)
        solid = self.depth(torch.cat([F.silu(F.pixel_shuffle(self.solid(x), 2)), F.silu(fine)], 1))
        colours = self.colours(x).unflatten(1, (3, self.depths // 2))
        found = Elevation(15 + 10 * tilt[:, 0], tilt[:, 1] + 2)
        return Field(solid.float(), colours.float()), found
