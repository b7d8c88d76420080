"""Flags that select what makes an orbit of one photograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from difix3d_ns.priors.base import OrbitGenerator
from difix3d_ns.priors.prior_config import Precision, PriorConfig
from difix3d_ns.priors.registry import DEFAULTS


@dataclass
class OrbitGeneratorConfig(PriorConfig[OrbitGenerator]):
    """A generator of orbits, its weights and how it is run."""

    capability: ClassVar[type] = OrbitGenerator
    flag: ClassVar[str] = "--pipeline.datamanager.photo.generator"
    name: str = DEFAULTS[OrbitGenerator]
    """photo-volume (embedded: a small network that knows procedural solids), inflation (no network: the silhouette is
    inflated), orbit-video (published weights, from difix3d convert), or package.module of a generator of yours"""
    weights: str | None = None
    """a file or folder of weights (unset: the generator's own)"""
    dtype: Precision | None = None
    """precision of its networks, if it has a choice: float32, bfloat16 or float16 (unset: the generator's own)"""
    seed: int = 0
    """of its random draws, if it makes any"""
