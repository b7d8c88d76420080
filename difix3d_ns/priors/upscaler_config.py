"""Flags that select an upscaler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.priors.base import Upscaler
from difix3d_ns.priors.fixer_config import Precision
from difix3d_ns.priors.registry import check_prior_name, load_selected, load_upscaler

_OPTIONS = ("transition", "eta", "samples", "back_projection")


@dataclass
class UpscalerConfig:
    """An upscaler, its weights and how it is run."""

    kept: ClassVar[tuple[str, ...]] = ("weights", *_OPTIONS)
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    name: str = "residual"
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
        """Check the name and the numbers; ``load`` checks the weights.

        Args:
            flag_prefix: common beginning of its flags: ``--pipeline.guidance.upscaler``.

        Raises:
            UserError: naming the flag.
        """
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise UserError(f"{flag_prefix}.eta {self.eta}: a number from 0 to 1 is needed")
        if self.samples is not None and self.samples < 1:
            raise UserError(f"{flag_prefix}.samples {self.samples}: at least 1 is needed")
        check_prior_name(Upscaler, self.name, flag_prefix)

    def load(self, device: torch.device, flag_prefix: str = "--pipeline.guidance.upscaler") -> Upscaler:
        """Load the upscaler, once per process.

        Args:
            device: where its networks live.
            flag_prefix: as of ``check``, for the message of a failure.

        Raises:
            UserError: its name, weights or options are unusable.
        """
        given = tuple((name, value) for name in _OPTIONS if (value := getattr(self, name)) is not None)
        return load_selected(load_upscaler, Upscaler, self, device, flag_prefix, given)
