"""Settings of the enhancer: on or off, and with which fixer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from difix3d_ns.io.config_fields import check_share
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.priors.prior_config import Precision

EnhanceMode = Literal["off", "key", "rgb"]


@dataclass
class EnhancerConfig:
    """The fixer on finished renders: the guidance's, if it has one, or one of its own."""

    mode: EnhanceMode = "key"
    """off: no enhanced output; key: it is the output 'enhanced'; rgb: it is 'rgb', and the render is 'raw'"""
    strength: float = 0.5
    """0 = the render, 1 = the fixer's picture, in the enhanced output; a splat trained with pseudo-views has learnt
    most of what the fixer knows, and half of the change did best there. Plain splats gain most from 1"""
    name: str | None = None
    """which fixer, by the names that the guidance's fixer has (unset: the guidance's, embedded if it has none)"""
    weights: str | None = None
    """a file or folder of weights, or for difix a hub id, which downloads (unset: the guidance's if it has the same
    fixer, else the fixer's own)"""
    references: int | None = None
    """photos shown to the fixer (unset: as many as to the guidance's fixer if it is the same, else the fixer's own
    number)"""
    dtype: Precision | None = None
    """precision of the fixer's networks: float32, bfloat16 or float16 (unset: that of the guidance's fixer if it is
    the same, else the fastest the device handles well)"""
    compile: bool | None = None
    """compile the networks of the fixer difix for each size of pictures (unset: if that is done for the guidance's
    and it is the same)"""
    from_environment: tyro.conf.Suppress[bool] = True
    """whether DIFIX3D_* variables change how a finished training is shown; False: for measurements"""

    def fixer(self, guidance: FixerConfig | None = None) -> FixerConfig:
        """Return the fixer to use, with what is unset here filled in.

        Args:
            guidance: its fixer, if what guides the training is one.
        """
        name = self.name or (guidance.name if guidance else FixerConfig.name)
        same = guidance if guidance and guidance.name == name else FixerConfig(name)
        return FixerConfig(
            name,
            weights=same.weights if self.weights is None else self.weights,
            references=same.references if self.references is None else self.references,
            dtype=same.dtype if self.dtype is None else self.dtype,
            compile=same.compile if self.compile is None else self.compile,
        )

    def check(self, flag_prefix: str = "--pipeline.enhancer") -> None:
        """Refuse settings that cannot work.

        Args:
            flag_prefix: what its flags begin with.

        Raises:
            UserError: naming the flag.
        """
        check_share(self, flag_prefix, "strength")
        self.fixer().check(flag_prefix)
