"""nerfstudio's checkpoints, which ``torch.load`` refuses since torch 2.6."""

from __future__ import annotations

import codecs
from typing import Any

import numpy as np
import torch


def apply() -> None:
    """Let ``torch.load`` read nerfstudio's checkpoints where it reads nothing but weights (the default since 2.6).

    They hold two numpy float64 scalars (a learning rate), which ``weights_only=True`` refuses (nerfstudio #3683).
    """
    scalar = np.float64(0).__reduce__()[0]
    major, minor = (int(number) for number in torch.__version__.split(".")[:2])
    if (major, minor) < (2, 6):  # takes no other names than things have, and does not know of bytes
        names: list[Any] = [scalar, codecs.encode]
    else:  # numpy 1 and numpy 2 call it differently
        names = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    torch.serialization.add_safe_globals([np.dtype, type(np.dtype("f8")), *names])
