"""Count the memory that a CUDA device needs, by tensors without values: no GPU is needed, and no time.

    python benchmarks/memory.py

Tensors of the device "meta" have sizes and lifetimes, so the peak of what lives at once is exact for what this package
and torch allocate by name. Not in it: workspaces of cuDNN, gaps between blocks of torch's allocator, the context of
CUDA and gsplat's own buffers, which ``difix3d_ns.ns.training_memory`` estimates. Attention is counted as flash
attention allocates. Prints the tables of docs/cuda.md; the exit status is 1 if a bound that the package works with is
below what was counted, or more than a tenth above.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.ns.training_memory import LOSS_BYTES, memory_needed
from difix3d_ns.priors.alignment import aligner
from difix3d_ns.priors.embedded import load, memory_of_call
from difix3d_ns.splats.losses.ssim import FusedSSIM

SIZES = [(960, 640), (1600, 1064), (1920, 1080), (3840, 2160)]
GAUSSIANS = [100_000, 1_000_000, 3_000_000, 5_000_000]
REFERENCES = 3
PHOTOGRAPHS = 100
GIB = 2**30


class PeakMemory(TorchDispatchMode):
    """Most bytes of tensors made within that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.device.type == "meta":
                self._add(value.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def peak(run: Callable[[], object]) -> int:
    """Return the bytes of tensors that lived at once while something ran, beyond those it was given."""
    with PeakMemory() as memory:
        run()
    return memory.peak


def _planes(count: int, width: int, height: int, channels: int) -> Tensor:
    return torch.empty(count, channels, height, width, device="meta")


def _attention(query: Tensor, *others: Tensor, **options: object) -> Tensor:
    return torch.empty_like(query)


def networks(width: int, height: int, views: int) -> int:
    """Return the peak of the chain behind the aligner, in bfloat16."""
    chain = load(dtype=torch.bfloat16).chain.to("meta")
    maps = _planes(views, width, height, 3), _planes(views, width, height, 1)
    warps = torch.empty(views, REFERENCES, 3, height, width, device="meta")
    with torch.no_grad(), mock.patch.object(F, "scaled_dot_product_attention", _attention):
        return peak(lambda: chain(*maps, warps, warps[:, :, :1]))


def alignment(width: int, height: int) -> int:
    """Return the peak of the aligner for one view."""
    align = load(dtype=torch.bfloat16).chain.align.to("meta")
    image, plane = torch.empty(height, width, 3, device="meta"), torch.empty(height, width, 1, device="meta")
    camera = Pinhole(
        torch.eye(4), torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]), width, height
    )
    references = [PosedImage(image, camera, plane, plane)] * REFERENCES
    known = mock.patch.object(aligner, "depth_range", return_value=(1.0, 10.0))  # the only values that decide
    with torch.no_grad(), known, mock.patch.object(F, "scaled_dot_product_attention", _attention):
        return peak(lambda: align(camera, image, plane, plane, references))


def losses(width: int, height: int) -> int:
    """Return the peak of the losses of a picture, forward and backward."""
    ssim = FusedSSIM()

    def run() -> None:
        picture = _planes(1, width, height, 3).requires_grad_()
        truth = _planes(1, width, height, 3)
        ((picture - truth).abs().mean() + 1 - ssim(truth, picture)).backward()

    return peak(run)


def check(width: int, height: int, counted: int, views: int) -> bool:
    """Return whether the package's bound for a call of some views is above what was counted, and near it."""
    return counted <= memory_of_call(width, height, views) <= 1.1 * counted


def main() -> int:
    """Print the tables; return 1 if a bound does not fit."""
    fits = True
    print("| picture | aligner | networks, 1 view | networks, 4 views | losses |")
    print("| --- | --- | --- | --- | --- |")
    for width, height in SIZES:
        aligning, one, four = alignment(width, height), networks(width, height, 1), networks(width, height, 4)
        loss = losses(width, height)
        fits &= check(width, height, max(aligning, one), 1) and check(width, height, max(aligning, four), 4)
        fits &= loss <= LOSS_BYTES * width * height <= 1.1 * loss
        print(
            f"| {width} x {height} | " + " | ".join(f"{size / GIB:.2f}" for size in (aligning, one, four, loss)) + " |"
        )
    print(f"\n| picture, {PHOTOGRAPHS} photos | " + " | ".join(f"{count / 1e6:g} M" for count in GAUSSIANS) + " |")
    print("| --- " * (1 + len(GAUSSIANS)) + "|")
    for width, height in SIZES:
        for rounds in (False, True):
            needed = (memory_needed(width, height, PHOTOGRAPHS, count, rounds) / GIB for count in GAUSSIANS)
            print(f"| {width} x {height}{', rounds' * rounds} | " + " | ".join(f"{size:.1f}" for size in needed) + " |")
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
