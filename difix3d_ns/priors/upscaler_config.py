"""Flags that select an upscaler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from difix3d_ns.io.config_fields import check_at_least, check_share
from difix3d_ns.priors.base import Upscaler
from difix3d_ns.priors.prior_config import Precision, PriorConfig
from difix3d_ns.priors.registry import DEFAULTS


@dataclass
class UpscalerConfig(PriorConfig[Upscaler]):
    """An upscaler, its weights and how it is run."""

    capability: ClassVar[type] = Upscaler
    flag: ClassVar[str] = "--pipeline.guidance.upscaler"
    OPTIONS: ClassVar[tuple[str, ...]] = ("transition", "eta", "samples", "back_projection")
    kept: ClassVar[tuple[str, ...]] = ("name", "weights", *OPTIONS)
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    name: str = DEFAULTS[Upscaler]
    """residual (embedded), latent (published weights), realesrgan, backprojection, bicubic, any other upscaler in
    difix3d_ns/priors, or package.module of an upscaler of yours"""
    weights: str | None = None
    """a file or folder of weights, or for latent a hub id, which downloads (unset: the upscaler's own)"""
    dtype: Precision | None = None
    """precision of its networks: float32, bfloat16 or float16 (unset: the fastest the device handles well)"""
    transition: Literal["ddim", "posterior", "fresh", "released"] | None = None
    """how a diffusion model goes on after a round: the paper's DDIM step, a draw from the posterior, other noise, or as
    the released code does (unset: the upscaler's own)"""
    eta: float | None = None
    """noise of the DDIM step, from 0 to 1 (unset: the upscaler's own)"""
    samples: int | None = None
    """number of estimates from different noise whose mean is taken (unset: the upscaler's own, 1)"""
    back_projection: bool | None = None
    """make each result agree with its photo (unset: yes)"""

    def check(self, flag_prefix: str) -> None:
        """Check the name and the numbers (see ``PriorConfig``)."""
        check_share(self, flag_prefix, "eta")
        check_at_least(self, flag_prefix, {"samples": 1})
        super().check(flag_prefix)
