"""Bicubic enlargement: nothing new is shown. The simplest upscaler, and the yardstick of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from difix3d_ns.geometry.resampling import back_project, resample
from difix3d_ns.priors.base import State, Upscaler


class BicubicUpscaler(Upscaler):
    """Antialiased bicubic enlargement in one round; see ``priors.base.Upscaler``.

    Args:
        device: where it is computed.
        back_projections: how often the result is made to agree with the photograph; 0 for plain bicubic.
    """

    joint = False
    rounds = 1

    def __init__(self, device: torch.device, back_projections: int = 0) -> None:
        self._device, self._times = device, back_projections

    def level(self, round: int) -> str:
        return ""

    def start(
        self,
        lows: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        seeds: Sequence[int],
        renders: Sequence[Tensor] | None = None,
    ) -> State:
        (low,), (size,) = lows, sizes
        return {"low": low.detach().float().cpu(), "size": torch.tensor(size)}

    def steps_left(self, state: State) -> int:
        return 0

    def step(self, state: State) -> State:
        return state

    def result(self, state: State) -> list[Tensor]:
        low = state["low"].to(self._device).permute(2, 0, 1)[None]
        height, width = state["size"].tolist()
        high = back_project(resample(low, height, width).clamp(0, 1), low, self._times)
        return [high[0].permute(1, 2, 0).contiguous()]

    def advance(self, state: State, renders: Sequence[Tensor]) -> State:
        return state


def load(
    weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> BicubicUpscaler:
    """Create it; it computes in float32.

    Raises:
        ValueError: weights were given, and it has none.
    """
    refuse_weights("bicubic", weights)
    return BicubicUpscaler(torch.device(device))


def refuse_weights(name: str, weights: str | None) -> None:
    """Raise a ValueError if an upscaler that has no weights is given some."""
    if weights is not None:
        raise ValueError(f"the upscaler {name} has no weights: leave {weights} out, or name another")
