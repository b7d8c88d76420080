"""Flags that select a fixer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from difix3d_ns.errors import UserError
from difix3d_ns.io.config_fields import check_at_least
from difix3d_ns.priors.base import Fixer
from difix3d_ns.priors.prior_config import Precision, PriorConfig
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.registry import DEFAULTS


@dataclass
class FixerConfig(PriorConfig[Fixer]):
    """A fixer, its weights and how it is run."""

    capability: ClassVar[type] = Fixer
    flag: ClassVar[str] = "--pipeline.guidance.fixer"
    OPTIONS: ClassVar[tuple[str, ...]] = ("compile",)
    kept: ClassVar[tuple[str, ...]] = ("name", "weights", "references")
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    name: str = DEFAULTS[Fixer]
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
        """Check the name and the number of references (see ``PriorConfig``)."""
        check_at_least(self, flag_prefix, {"references": 0})
        super().check(flag_prefix)

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
            raise UserError(f"{flag_prefix}.weights {self.weights} cannot be downloaded: {error}") from error

    def _sources(self, prefix: str) -> tuple[str, ...]:
        of_enhancer = prefix == "--pipeline.enhancer"  # the guidance's fixer is no matter of the environment
        return *super()._sources(prefix), *(("DIFIX3D_WEIGHTS",) if of_enhancer else ())

    def references_for(self, fixer: Fixer) -> int:
        """Number of references that the loaded fixer is shown."""
        return fixer.default_references if self.references is None else self.references
