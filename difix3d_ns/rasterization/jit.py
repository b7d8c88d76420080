"""Common ground of the kernels: compiler options, a lock, arrays out of tensors."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
import torch
from numba.extending import intrinsic
from torch import Tensor

# numba's fallback threading layer must not be entered by two Python threads at once; the kernels use every core anyway.
KERNELS = threading.RLock()

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}  # not nnan/ninf: comparisons must hold for any input


@functools.cache
def yield_cores() -> None:
    """Let OpenMP's threads sleep soon after each kernel instead of spinning for milliseconds (Linux; once a process).

    numba's and torch's kernels share the threads of torch's libgomp, which reads OMP_WAIT_POLICY when it is loaded:
    before us. Spinning threads use up their share of a core that another process wants, and then the next kernel waits
    for them. libgomp spins a thousandth as long once it has more threads than the process has cores, so one more of
    them is started here, asleep (`gomp_throttled_spin_count_var` in libgomp's env.c and wait.h).
    """
    if sys.platform == "linux" and "OMP_WAIT_POLICY" not in os.environ and torch.get_num_threads() > 1:
        threading.Thread(target=_sleep_with_a_thread_pool, name="openmp", daemon=True).start()


def _sleep_with_a_thread_pool() -> None:
    torch.zeros(2**16).exp_()  # as few as torch shares among threads
    threading.Event().wait()


def slots(limit: int) -> int:
    """Number of parts that a kernel's work is split into: one per thread, at least one, at most ``limit``."""
    yield_cores()
    return max(1, min(nb.get_num_threads(), limit))


def jit(**options) -> Callable:
    """Decorate like `numba.njit` without the GIL, the result cached on disk wherever some cache folder is writable.

    numba keeps the cache beside the source, or else in the user's cache folder (or `NUMBA_CACHE_DIR`). Where neither
    can be written it refuses to compile at all; then every process compiles again.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return nb.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:
            return nb.njit(nogil=True, **options)(function)

    return decorate


def _take(typing_context, counter):
    """Return the first number of an int64 array and add 1 to it, at once: threads share work by it."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, context.get_constant(nb.int64, 1), "monotonic")

    return nb.int64(counter), generate


take: Any = intrinsic(_take)  # numba types it as if it were called from Python


def as_array(tensor: Tensor) -> np.ndarray:
    """Convert a tensor to a contiguous float32 array, without a copy where it is one already."""
    return tensor.detach().to(torch.float32).contiguous().numpy()
