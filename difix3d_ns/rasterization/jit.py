"""numba's compiler with the options every kernel here wants."""

from __future__ import annotations

from collections.abc import Callable

import numba as nb


def jit(**options) -> Callable:
    """A decorator like `numba.njit` without the GIL, its result cached on disk wherever some cache folder is writable.

    numba keeps the cache beside the source, or else in the user's cache folder (or `NUMBA_CACHE_DIR`). Where neither can be
    written it refuses to compile at all; then every process compiles anew.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return nb.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:
            return nb.njit(nogil=True, **options)(function)

    return decorate
