"""Flags that select a refiner of orbits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from difix3d_ns.io.config_fields import check_at_least
from difix3d_ns.priors.base import OrbitRefiner
from difix3d_ns.priors.prior_config import Precision, PriorConfig
from difix3d_ns.priors.registry import DEFAULTS


@dataclass
class OrbitRefinerConfig(PriorConfig[OrbitRefiner]):
    """A refiner of orbits, its weights and how it is run."""

    capability: ClassVar[type] = OrbitRefiner
    flag: ClassVar[str] = "--pipeline.guidance.orbit-refiner"
    OPTIONS: ClassVar[tuple[str, ...]] = ("agreement",)
    kept: ClassVar[tuple[str, ...]] = ("weights", "agreement")
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    name: str = DEFAULTS[OrbitRefiner]
    """hi3d (embedded), hi3d-video (published weights that you name), or package.module of a refiner of yours"""
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
        super().check(flag_prefix)
