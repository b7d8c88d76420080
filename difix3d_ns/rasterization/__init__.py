"""Gaussians to image and gradients on a CPU, behind gsplat's signature.

These functions load their kernels (numba) on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from difix3d_ns.rasterization.median import median_depth, surface_depth
    from difix3d_ns.rasterization.rasterize import rasterization

__all__ = ["median_depth", "rasterization", "surface_depth"]

_HOMES = {"median_depth": "median", "rasterization": "rasterize", "surface_depth": "median"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
