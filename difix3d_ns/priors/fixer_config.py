"""Flags that select a fixer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.priors.base import Fixer, default_references
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.registry import check_prior_name, load_fixer

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass
class FixerConfig:
    """A fixer, its weights and how it is run."""

    kept: ClassVar[tuple[str, ...]] = ("name", "weights", "references")
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    name: str = "embedded"
    """embedded, difix, blend, none, any other fixer in difix3d_ns/priors, or package.module of a fixer of yours"""
    weights: str | None = None
    """a file or folder of weights, or for difix a hub id, which downloads (unset: the fixer's own)"""
    references: int | None = None
    """photos the fixer gets (unset: the fixer's own number: 3 for embedded, 1 for nvidia/difix_ref, none for
    nvidia/difix)"""
    dtype: Precision | None = None
    """precision of the fixer's networks: float32, bfloat16 or float16 (unset: the fastest the device handles well)"""
    compile: bool = False
    """compile the networks of the fixer difix for each size of pictures: minutes once, faster afterwards on CUDA"""

    def check(self, flag_prefix: str) -> None:
        """Check the name and the numbers; ``load`` checks the weights.

        Args:
            flag_prefix: common beginning of its flags: ``--pipeline.guidance.fixer``.

        Raises:
            UserError: naming the flag.
        """
        if self.references is not None and self.references < 0:
            raise UserError(f"{flag_prefix}.references {self.references}: at least 0 is needed")
        check_prior_name(Fixer, self.name, flag_prefix)

    def load(self, device: torch.device, flag_prefix: str = "--pipeline.guidance.fixer") -> Fixer:
        """Load the fixer, once per process.

        Args:
            device: where its networks live.
            flag_prefix: as of ``check``, for the message of a failure.

        Raises:
            UserError: its name or weights are unusable.
        """
        dtype = getattr(torch, self.dtype) if self.dtype else None
        try:
            return load_fixer(self.name, self.weights, str(device), dtype, self.compile)
        except (ValueError, OSError, RuntimeError) as error:
            raise self._unusable(flag_prefix, error) from error

    def fetch(self, flag_prefix: str) -> None:
        """Download weights that are a hub id, so that ``load`` only reads files.

        Args:
            flag_prefix: as of ``check``, for the message of a failure.

        Raises:
            UserError: they cannot be reached.
        """
        if self.name != "difix" or self.weights is None or not hub.is_hub_id(self.weights):
            return
        try:
            if not (hub.download(self.weights) / hub.CACHE).is_file():
                hub.download(self.weights, hub.TEXT)
        except OSError as error:
            raise self._unusable(flag_prefix, error) from error

    def _unusable(self, flag_prefix: str, error: Exception) -> UserError:
        """Return the error of a fixer that cannot be loaded."""
        variable = " or DIFIX3D_WEIGHTS" if flag_prefix == "--pipeline.enhancer" else ""  # trainings ignore it
        return UserError(
            f"the fixer {self.name!r} cannot be loaded ({flag_prefix}.name, {flag_prefix}.weights{variable}): {error}"
        )

    def references_for(self, fixer: Fixer) -> int:
        """Number of references that the loaded fixer is shown."""
        return default_references(fixer) if self.references is None else self.references
