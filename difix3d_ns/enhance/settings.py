"""How finished renders are enhanced, as a setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from difix3d_ns.errors import UserError
from difix3d_ns.priors.settings import FixerConfig, Precision

Enhance = Literal["off", "key", "rgb"]


@dataclass
class EnhancerConfig:
    """What repairs finished renders, in the viewer, in ns-render and in ns-eval."""

    name: str | None = None
    """a fixer, named as for --pipeline.guidance.fixer.name (unset: the guidance's, or embedded if it has none)"""
    weights: str | None = None
    """a file or folder of weights, or for difix a hub id, which downloads (unset: the guidance's if it is the same
    fixer, else the fixer's own)"""
    references: int | None = None
    """photographs shown to the fixer (unset: the guidance's, or 3)"""
    dtype: Precision | None = None
    """precision of the fixer's networks (unset: the guidance's, or the fastest the device handles well)"""
    compile: bool = False
    """compile the networks of the fixer difix for each size of pictures"""
    strength: float = 0.5
    """0 = the render, 1 = the fixer's picture, in the enhanced output; a splat trained with pseudo-views has learnt
    most of what the fixer knows, and half of the change did best there. Plain splats gain most from 1"""
    mode: Enhance = "key"
    """key: an output "enhanced"; rgb: the output rgb itself is the enhanced picture and the plain render is called raw;
    off: neither"""
    from_environment: tyro.conf.Suppress[bool] = True
    """whether DIFIX3D_* variables change how a finished training is shown; False: for measurements"""

    def resolve(self, guidance: FixerConfig | None = None) -> FixerConfig:
        """The fixer, where unset that of the guidance, or the embedded one."""
        base = FixerConfig() if guidance is None else guidance
        same = self.name in (None, base.name)
        return FixerConfig(
            name=self.name or base.name,
            weights=self.weights or (base.weights if same else None),
            references=base.references if self.references is None else self.references,
            dtype=self.dtype or (base.dtype if same else None),
            compile=self.compile or (same and base.compile),
        )

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if a setting cannot work."""
        if not 0 <= self.strength <= 1:
            raise UserError(f"{flag}.strength {self.strength}: a number in [0, 1] is needed")
        if self.references is not None and self.references < 0:
            raise UserError(f"{flag}.references {self.references}: at least 0 is needed")
