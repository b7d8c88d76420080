"""Fixers, usable alone: ``from difix3d_ns.fixers import load_fixer``.

A fixer is one file in this folder with a function ``load(weights, device, dtype) -> Fixer``; the file's name is the
fixer's name (dashes for underscores).
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

import torch

from difix3d_ns.fixers.contract import Fixer, FixRequest, FixResult, Reference

__all__ = ["FixRequest", "FixResult", "Fixer", "Reference", "available_fixers", "load_fixer"]


def available_fixers() -> tuple[str, ...]:
    """Names ``load_fixer`` accepts."""
    files = (m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg and m.name != "contract")
    return tuple(sorted(name.replace("_", "-") for name in files))


@functools.lru_cache(maxsize=4)
def load_fixer(
    name: str = "embedded",
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Fixer:
    """Load a fixer, once per process.

    Args:
        name: one of ``available_fixers()``.
        weights: a file, a folder or a hub id, as the fixer understands it; None for its own.
        device: where its networks live.
        dtype: their precision; None for the fastest that the device handles well (see ``fast_dtype``).

    Raises:
        ValueError: no such fixer.
        FileNotFoundError, RuntimeError: the weights cannot be read; the message names them.
    """
    if name not in available_fixers():
        raise ValueError(f"unknown fixer {name!r}; --pipeline.fixer.name takes one of {', '.join(available_fixers())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return module.load(weights=weights, device=torch.device(device), dtype=dtype)
