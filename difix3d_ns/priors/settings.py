"""Which fixer, with which weights, as a setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.priors.base import Fixer

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass
class FixerConfig:
    """Which fixer repairs renders."""

    name: str = "embedded"
    """none, blend, embedded, any other fixer in difix3d_ns/priors, or package.module of a fixer of yours"""
    weights: str | None = None
    """a file or folder of weights, or for difix a hub id, which downloads (unset: the fixer's own)"""
    references: int = 3
    """photographs shown to the fixer: the gain of a fourth was within noise, of the third it was not"""
    dtype: Precision | None = None
    """precision of the fixer's networks: float32, bfloat16 or float16 (unset: the fastest the device handles well)"""
    compile: bool = False
    """compile the networks of the fixer difix for each size of pictures: minutes once, faster afterwards on CUDA"""

    def load(self, device: torch.device) -> Fixer:
        """The fixer, loaded once per process.

        Raises:
            UserError: its name or weights are unusable.
        """
        from difix3d_ns.priors.registry import load_fixer

        dtype = getattr(torch, self.dtype) if self.dtype else None
        try:
            return load_fixer(self.name, self.weights, str(device), dtype, self.compile)
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(
                f"the fixer {self.name!r} cannot be loaded (--pipeline.guidance.fixer.name, "
                f"--pipeline.guidance.fixer.weights, the same of --pipeline.enhancer, or DIFIX3D_WEIGHTS): {error}"
            ) from error

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if a setting cannot work."""
        if self.references < 0:
            raise UserError(f"{flag}.references {self.references}: at least 0 is needed")
