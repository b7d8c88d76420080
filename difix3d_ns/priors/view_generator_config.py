"""Flags that select a generator of views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from difix3d_ns.priors.base import ViewGenerator
from difix3d_ns.priors.prior_config import Precision, PriorConfig
from difix3d_ns.priors.registry import DEFAULTS


@dataclass
class ViewGeneratorConfig(PriorConfig[ViewGenerator]):
    """A generator of views, its weights and how it is run."""

    capability: ClassVar[type] = ViewGenerator
    flag: ClassVar[str] = "--pipeline.guidance.view-generator"
    OPTIONS: ClassVar[tuple[str, ...]] = ("everywhere",)
    kept: ClassVar[tuple[str, ...]] = ("name", "weights", "everywhere")
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    name: str = DEFAULTS[ViewGenerator]
    """epipolar-views (embedded: predicted from the photos), sparsefusion (embedded: and a diffusion model adds what
    they do not show), or package.module of a generator of yours"""
    weights: str | None = None
    """a file or folder of weights (unset: the generator's own)"""
    dtype: Precision | None = None
    """precision of its networks, if it has a choice: float32, bfloat16 or float16 (unset: the generator's own)"""
    everywhere: bool | None = None
    """use what the diffusion model of sparsefusion makes also where photos show the surface, as in the paper (unset:
    no)"""
