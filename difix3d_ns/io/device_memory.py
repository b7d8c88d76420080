"""Memory of the device that networks and splats are on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a CUDA device has left for this process; None elsewhere, where nothing is bounded.

    What torch holds without using it counts: it is given to the next tensor.
    """
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def return_unused_memory() -> None:
    """Return what torch holds without using it, so that large pieces can be had again after memory ran out."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_in_chunks(run: Callable[[list[Item]], list[Result]], items: Sequence[Item], together: int) -> list[Result]:
    """Run a function over all items, some at a time; where memory runs out, half as many.

    Args:
        run: returns one result for each item.
        items: any number.
        together: how many at a time.

    Raises:
        torch.cuda.OutOfMemoryError: one alone does not fit.
    """
    results: list[Result] = []
    while len(results) < len(items):
        chunk = list(items[len(results) : len(results) + together])
        try:
            results += run(chunk)
            continue
        except torch.cuda.OutOfMemoryError:
            if len(chunk) == 1:
                raise
        # outside of that clause the failed attempt's tensors are gone
        return_unused_memory()
        together = len(chunk) // 2
    return results
