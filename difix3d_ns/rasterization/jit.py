"""Common ground of the kernels: compiler options, a lock, arrays out of tensors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numba as nb
import numpy as np
import torch
from torch import Tensor

# numba's OpenMP threads, started at its first parallel kernel, would otherwise spin for milliseconds after each
# kernel and so keep torch's threads off the cores (measured: 2 to 5 times slower training steps on a busy machine).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# numba's fallback threading layer must not be entered by two Python threads at once; the kernels use every core anyway.
KERNELS = threading.RLock()

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}  # not nnan/ninf: comparisons must hold for any input


def slots(limit: int) -> int:
    """Number of parts that a kernel's work is split into: one per thread, at least one, at most ``limit``."""
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


def as_array(tensor: Tensor) -> np.ndarray:
    """Convert a tensor to a contiguous float32 array, without a copy where it is one already."""
    return tensor.detach().to(torch.float32).contiguous().numpy()
