"""Estimates of the time, memory and disk that a training on upscaled photographs takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from difix3d_ns.guidance.enlargement_factor import STEP_BYTES
from difix3d_ns.guidance.upscaled_photos import EnlargedPhotos
from difix3d_ns.io.durations import duration
from difix3d_ns.priors.base import Upscaler

_STEP_SECONDS = {"cpu": 6e-7, "cuda": 5e-9}
"""of a step for each pixel, an estimate"""
_TRIED = 96
"""pixels of a side of the picture that an upscaler is timed on"""


@dataclass(frozen=True)
class Cost:
    """Estimates of a training on upscaled photographs."""

    seconds: float
    memory: float  # bytes, beside what training on the photographs takes
    disk: float  # bytes

    def describe(self) -> str:
        """Return a phrase for people."""
        memory, disk = (max(0.1, size / 2**30) for size in (self.memory, self.disk))
        return f"about {duration(self.seconds)}, {memory:.1f} GiB of memory and {disk:.1f} GiB on the disk"


def estimate_cost(
    photos: EnlargedPhotos, count: int, upscaler: Upscaler, results: int, steps: int, device: str
) -> Cost:
    """Time an upscaler on a small picture, and estimate from that what a training takes.

    Args:
        photos: to be upscaled.
        count: how many.
        upscaler: which.
        results: it makes of each.
        steps: of training on them.
        device: cpu or cuda.
    """
    low = photos.low(0)[:_TRIED, :_TRIED]
    whole = photos.factor.denominator
    height, width = (side // whole * whole for side in low.shape[:2])
    size = (int(height * photos.factor), int(width * photos.factor))
    started = time.perf_counter()
    state = upscaler.start([low[:height, :width]], [size], [0])
    calls = upscaler.steps_left(state)
    made = time.perf_counter()
    if calls:
        state = upscaler.step(state)
    stepped = time.perf_counter()
    seconds = made - started + calls * (stepped - made)
    bytes_of_state = sum(values.nbytes for values in state.values())
    pixels = [h * w for h, w in (photos.high_size(index) for index in range(count))]
    tried = size[0] * size[1]
    disk = sum(pixels) * (6 + bytes_of_state / tried)
    return Cost(
        sum(pixels) / tried * results * seconds + steps * sum(pixels) / count * _STEP_SECONDS[device],
        max(pixels) * STEP_BYTES + min(disk, 2**30),
        disk,
    )
