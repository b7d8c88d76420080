"""Random crops with colour jitter, the same for all pictures of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


def integer(below: int, generator: Generator) -> int:
    """Draw from 0 to ``below`` - 1."""
    return int(torch.randint(below, (1,), generator=generator))


def corner(whole: Sequence[int], size: Sequence[int], generator: Generator) -> tuple[int, int]:
    """Draw row and column at which a crop of some height and width begins."""
    top, left = (integer(side - part + 1, generator) for side, part in zip(whole, size, strict=True))
    return top, left


def colour_jitter(generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw gains [3] and an order [3] of the channels.

    Exposure and white balance are the whole scene's: the same for render, references and truth. Never above 1, where
    photographs would clip.
    """
    gain = 1 - 0.2 * torch.rand(3, generator=generator) - 0.2 * torch.rand(1, generator=generator)
    return gain, torch.randperm(3, generator=generator) if integer(2, generator) else torch.arange(3)


def to_bytes(values: Tensor) -> Tensor:
    """Turn values in [0, 1] into uint8."""
    return (values.clamp(0, 1) * 255).round().byte().contiguous()


def to_unit(values: Tensor) -> Tensor:
    """Turn uint8 or float16 into float32 in [0, 1]."""
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()


def common_size(wanted: tuple[int, int], pictures: Sequence[Tensor]) -> tuple[int, int]:
    """Height and width of the crops of a batch: as wanted, or less where a picture [..., H, W] is smaller."""
    height, width = (min(sides) for sides in zip(wanted, *(picture.shape[-2:] for picture in pictures), strict=True))
    return height, width


@dataclass(frozen=True)
class Crop:
    """A place to cut, a way to turn, and what a camera's exposure and white balance might have been."""

    top: int
    left: int
    size: tuple[int, int]
    flips: tuple[int, ...]  # axes
    turned: bool  # rows become columns; squares alone
    gain: Tensor  # [3, 1, 1]
    colours: Tensor  # [3] order

    @classmethod
    def draw(cls, picture: Sequence[int], size: tuple[int, int], generator: Generator) -> Crop:
        """Draw one anywhere in a picture of some height and width."""
        top, left = corner(picture, size, generator)
        flips = tuple(axis for axis in (-1, -2) if integer(2, generator))
        turned = bool(integer(2, generator)) and size[0] == size[1]
        gain, colours = colour_jitter(generator)
        return cls(top, left, size, flips, turned, gain[:, None, None], colours)

    def cut(self, values: Tensor) -> Tensor:
        """Cut maps [..., H, W] to [..., h, w]."""
        values = values[..., self.top : self.top + self.size[0], self.left : self.left + self.size[1]]
        values = values.flip(self.flips) if self.flips else values
        return values.transpose(-1, -2) if self.turned else values

    def colour(self, pictures: Tensor) -> Tensor:
        """Cut and colour kept pictures [..., 3, H, W]: [..., 3, h, w] in [0, 1]."""
        return to_unit(self.cut(pictures)).index_select(-3, self.colours) * self.gain
