"""Flags that select a refiner of orbits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.io.config_fields import check_at_least
from difix3d_ns.priors.base import OrbitRefiner
from difix3d_ns.priors.prior_config import Precision, PriorConfig

NO_REFINER = "none"


@dataclass
class OrbitRefinerConfig(PriorConfig[OrbitRefiner | None]):
    """A refiner of orbits, its weights and how it is run."""

    capability: ClassVar[type] = OrbitRefiner
    flag: ClassVar[str] = "--pipeline.guidance.orbit-refiner"
    OPTIONS: ClassVar[tuple[str, ...]] = ("agreement",)
    kept: ClassVar[tuple[str, ...]] = ("name", "weights", "agreement")
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    name: str | None = None
    """none, hi3d (embedded), hi3d-video (published weights that you name), or package.module of a refiner of yours
    (unset: hi3d for frames made of one photo, or with weights; else none)"""
    weights: str | None = None
    """a file or folder of weights, or for hi3d-video a hub id (unset: the refiner's own)"""
    dtype: Precision | None = None
    """precision of its network: float32, bfloat16 or float16 (unset: the fastest the device handles well)"""
    agreement: float | None = None
    """weight of a neighbouring frame that shows the same surface, against 1 of a frame itself; 0 refines each frame
    alone (unset: the refiner's own)"""

    def check(self, flag_prefix: str) -> None:
        """Check the name and the weight of neighbours (see ``PriorConfig``)."""
        check_at_least(self, flag_prefix, {"agreement": 0})
        if self.name not in (None, NO_REFINER):
            super().check(flag_prefix)
        elif self.name and self.weights:
            raise UserError(f"{flag_prefix}.weights {self.weights}: there is no refiner; give {flag_prefix}.name hi3d")

    def load(self, device: torch.device, flag_prefix: str | None = None) -> OrbitRefiner | None:
        """Load the refiner (see ``PriorConfig``); None if there is none."""
        return None if self.name in (None, NO_REFINER) else super().load(device, flag_prefix)
