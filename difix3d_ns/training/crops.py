"""Random crops with colour jitter, the same for all pictures of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from difix3d_ns.training import prior_recipe


def integer(below: int, generator: Generator) -> int:
    """From 0 to ``below`` - 1."""
    return int(torch.randint(below, (1,), generator=generator))


def to_bytes(values: Tensor) -> Tensor:
    """[0, 1] -> uint8."""
    return (values.clamp(0, 1) * 255).round().byte().contiguous()


def to_unit(values: Tensor) -> Tensor:
    """uint8 or float16 -> float32 in [0, 1]."""
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()


def size_of(crop: prior_recipe.Crop, pictures: Sequence[Tensor]) -> tuple[int, int]:
    """Height and width of the crops of a batch: the recipe's, or less where a picture [..., H, W] is smaller."""
    height, width = crop if isinstance(crop, tuple) else (crop, crop)
    return (
        min(height, *(picture.shape[-2] for picture in pictures)),
        min(width, *(picture.shape[-1] for picture in pictures)),
    )


@dataclass(frozen=True)
class Crop:
    """Where to cut, how to turn, and what a camera's exposure and white balance might have been."""

    top: int
    left: int
    size: tuple[int, int]
    flips: tuple[int, ...]  # axes
    turned: bool  # rows become columns; squares alone
    gain: Tensor  # [3, 1, 1]
    colours: Tensor  # [3] order

    @classmethod
    def draw(cls, picture: Sequence[int], size: tuple[int, int], generator: Generator) -> Crop:
        """Anywhere in a picture of height and width."""
        top, left = (integer(whole - part + 1, generator) for whole, part in zip(picture, size, strict=True))
        flips = tuple(axis for axis in (-1, -2) if integer(2, generator))
        turned = bool(integer(2, generator)) and size[0] == size[1]
        # Exposure and white balance are the whole scene's: the same for render, references and truth. Never above 1,
        # where photographs would clip.
        gain = 1 - 0.2 * torch.rand(3, 1, 1, generator=generator) - 0.2 * torch.rand(1, generator=generator)
        colours = torch.randperm(3, generator=generator) if integer(2, generator) else torch.arange(3)
        return cls(top, left, size, flips, turned, gain, colours)

    def cut(self, values: Tensor) -> Tensor:
        """[..., H, W] -> [..., h, w]."""
        values = values[..., self.top : self.top + self.size[0], self.left : self.left + self.size[1]]
        values = values.flip(self.flips) if self.flips else values
        return values.transpose(-1, -2) if self.turned else values

    def colour(self, pictures: Tensor) -> Tensor:
        """[..., 3, H, W] as kept -> [..., 3, h, w] in [0, 1]."""
        return to_unit(self.cut(pictures)).index_select(-3, self.colours) * self.gain
