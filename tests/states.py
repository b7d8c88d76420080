"""States of trainings, compared bit by bit."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
import torch

_NONE = object()


def first_difference(a: Any, b: Any, where: str = "") -> str:
    """Place in two nested states where they differ, in words; empty where all bits are equal."""
    if type(a) is not type(b):
        return f"{where}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b)
        return "" if same else f"{where}: {_count(a, b)}"
    if isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return "" if same else f"{where}: arrays differ"
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"{where}: keys {sorted(map(str, a.keys() ^ b.keys())) or 'in another order'}"
        return next(filter(None, (first_difference(a[key], b[key], f"{where}/{key}") for key in a)), "")
    if isinstance(a, (list, tuple)):
        pairs = enumerate(zip_longest(a, b, fillvalue=_NONE))
        return next(filter(None, (first_difference(x, y, f"{where}/{i}") for i, (x, y) in pairs)), "")
    return "" if a == b or (a != a and b != b) else f"{where}: {a!r} and {b!r}"


def _bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _count(a: torch.Tensor, b: torch.Tensor) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
    return f"{int((a != b).sum())} of {a.numel()} values differ"
