"""Photographs at a multiple of their size: which multiple, cameras, maps, records, files, and what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path, PurePath

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.device_memory import free_memory
from difix3d_ns.io.durations import duration
from difix3d_ns.priors.base import Upscaler
from difix3d_ns.views.protocols import Scene
from difix3d_ns.views.records import About, ViewRecord, panels_of
from difix3d_ns.views.view import TrainView

FACTORS = (4.0, 3.0, 2.0, 1.5)
"""tried in this order, unless one is given"""
PARTS = 4
"""a factor is a multiple of one fourth, so that at most three rows or columns of a photo are cropped"""
UPSCALED_FOLDER = "upscaled"
"""in a training's: photos as they were upscaled last, for people"""
CPU_LONG_SIDE = 1600
"""pixels of an upscaled photo: a step takes some half a second at that size"""
_CUDA_LONG_SIDE = 4096
_STEP_BYTES = 900
"""of a step for each pixel, an estimate: maps and losses of two sizes, forward and backward (280 measured for one)"""
_CUDA_SHARE = 0.4
"""of the free memory, for a step; the splat grows, and upscalers want their own"""
_STEP_SECONDS = {"cpu": 6e-7, "cuda": 5e-9}
"""of a step for each pixel, an estimate"""
_TRIED = 96
"""pixels of a side of the picture that an upscaler is timed on"""
_RECORD_LONG_SIDE = 960
LOW, HIGH, RENDER = "Enlarged", "Upscaled", "Render"

ABOUT_UPSCALED = About(
    "Photos, upscaled",
    "Each photo as it is (enlarged bicubically), and as the upscaler made it in each round. From the second round on "
    "the upscaler is shown the splat's render at the photo's camera, which has learnt from all photos. Training learns "
    "from the result.",
    "Upscaled photos",
    24,
)


def view_key(index: int) -> str:
    """Return the key of a photograph's upscaled view."""
    return f"photo/{index:04d}"


def choose_factor(
    longest: int, long_side: int | None, device: torch.device, given: float | None, aspect: float = 1.5
) -> float:
    """Choose the largest factor whose pictures the device can train on.

    Args:
        longest: pixels of the longest side of all photographs.
        long_side: most pixels of an upscaled one; None: by the device and its memory.
        device: of training.
        given: the factor that the user wants, or None.
        aspect: longer side over shorter.

    Raises:
        UserError: not even the smallest fits, or the given one does not fit what is given.
    """
    bound = _default_long_side(device, aspect) if long_side is None else long_side
    if given is not None and (long_side is None or _enlarged_side(longest, Fraction(given)) <= bound):
        return given
    fitting = next((factor for factor in FACTORS if _enlarged_side(longest, Fraction(factor)) <= bound), None)
    if given is None and fitting is not None:
        return fitting
    smallest = FACTORS[-1] if given is None else given
    needed, share = _enlarged_side(longest, Fraction(smallest)), math.floor(1000 * bound / smallest / longest) / 1000
    raise UserError(
        f"photos of {longest} px cannot be upscaled by {smallest:g}: that is {needed} px, and at most {bound} fit. "
        f"Allow more with --pipeline.guidance.long-side {needed}, train on smaller photos with "
        f"--pipeline.datamanager.camera-res-scale-factor {share:.3f} (times the one you give now, if you do), or use "
        "sparse-splatfacto, which trains at the photos' own size"
    )


def _enlarged_side(pixels: int, factor: Fraction) -> int:
    """Pixels of a side that is cropped to where the factor makes whole pixels of it."""
    return int(pixels // factor.denominator * factor.denominator * factor)


def _default_long_side(device: torch.device, aspect: float) -> int:
    free = free_memory(device)
    if free is None:
        return CPU_LONG_SIDE
    return min(_CUDA_LONG_SIDE, int((free * _CUDA_SHARE / _STEP_BYTES * aspect) ** 0.5))


def path_order(cameras: Sequence[Pinhole]) -> list[int]:
    """Order cameras along the path they were taken on: from the outermost always to the nearest one that is left."""
    positions = torch.stack([camera.position.double().cpu() for camera in cameras])
    left = list(range(len(cameras)))
    order = [int((positions - positions.mean(0)).norm(dim=1).argmax())]
    left.remove(order[0])
    while left:
        distances = (positions[left] - positions[order[-1]]).norm(dim=1)
        order.append(left.pop(int(distances.argmin())))
    return order


class EnlargedPhotos:
    """Photographs of a scene with what belongs to each at a multiple of its size.

    Where the multiple of a side is no whole number, rows or columns at its end are cropped, nothing is squashed.

    Args:
        scene: the photographs.
        factor: a multiple of a fourth.
    """

    def __init__(self, scene: Scene, factor: float) -> None:
        self._scene = scene
        self.factor = Fraction(factor).limit_denominator(PARTS)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a photograph, cropped."""
        camera, whole = self._scene.unoptimized_camera(index), self.factor.denominator
        return camera.height // whole * whole, camera.width // whole * whole

    def high_size(self, index: int) -> tuple[int, int]:
        """Height and width of its upscaled picture."""
        camera = self._scene.unoptimized_camera(index)
        return _enlarged_side(camera.height, self.factor), _enlarged_side(camera.width, self.factor)

    def camera(self, index: int, optimised: bool = False) -> Pinhole:
        """Camera of the upscaled picture, with or without the photograph's pose correction."""
        camera = self._scene.camera(index) if optimised else self._scene.unoptimized_camera(index)
        height, width = self.size(index)
        high_height, high_width = self.high_size(index)
        return replace(camera, width=width, height=height).resized(high_width, high_height)

    def low(self, index: int) -> Tensor:
        """Photograph [h, w, 3], cropped; a cut-out one stands before the scene's background."""
        height, width = self.size(index)
        return self._scene.photo(index).image[:height, :width]

    def low_maps(self, index: int) -> dict[str, Tensor]:
        """Return what the small loss needs of a photograph: "low", and where it has them "used" and "alpha"."""
        height, width = self.size(index)
        maps = {"low": self.low(index), "used": self._scene.used(index), "alpha": self._scene.alpha(index)}
        return {name: values[:height, :width] for name, values in maps.items() if values is not None}

    def enlarged(self, index: int) -> Tensor:
        """Photograph enlarged bicubically [H, W, 3]."""
        return resampled(self.low(index), *self.high_size(index))

    def view(self, index: int, picture: Tensor) -> TrainView:
        """Return the view that stands for a photograph, with an upscaled picture [H, W, 3] of it."""
        maps, size = self.low_maps(index), self.high_size(index)
        return TrainView(
            view_key(index),
            self.camera(index),
            picture,
            photo=index,
            valid=resized(maps["used"], *size, "nearest-exact") if "used" in maps else None,
            alpha=resampled(maps["alpha"], *size) if "alpha" in maps else None,
        )


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
    calls, bytes_of_state = upscaler.steps_left(state), 0
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
        max(pixels) * _STEP_BYTES + min(disk, 2**30),
        disk,
    )


def record_upscaled(
    index: int,
    name: str,
    group: str,
    order: int,
    step: int,
    seconds: float,
    low: Tensor,
    high: Tensor,
    render: Tensor | None = None,
) -> ViewRecord:
    """Keep small pictures of an upscaled photograph.

    Args:
        index, name: of the photograph.
        group, order: of the round.
        step: of training.
        seconds: it took.
        low: [H, W, 3] the photograph, enlarged.
        high: [H, W, 3] upscaled.
        render: [H, W, 3] that the upscaler was shown, if it was.

    Returns:
        A record with the number "added", the mean absolute difference of the enlarged and the upscaled photograph.
    """
    pictures = {LOW: low.cpu(), HIGH: high.cpu()} | ({} if render is None else {RENDER: render.cpu()})
    return ViewRecord(
        key=view_key(index),
        group=group,
        order=order,
        title=name,
        step=step,
        seconds=seconds,
        pairs=((LOW, HIGH), *(((RENDER, HIGH),) if render is not None else ())),
        numbers={"added": float((pictures[HIGH] - pictures[LOW]).abs().mean())},
        panels=panels_of(pictures, _RECORD_LONG_SIDE),
    )


def file_names(names: Sequence[str]) -> list[Path]:
    """Names of PNG files for photographs: theirs, with their endings where they differ in nothing else."""
    plain = [PurePath(name).with_suffix(".png") for name in names]
    distinct = len(set(plain)) == len(plain)
    return [Path(short if distinct else PurePath(f"{name}.png")) for name, short in zip(names, plain, strict=True)]
