"""Flags that select a generator of views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from difix3d_ns.priors.base import ViewGenerator
from difix3d_ns.priors.fixer_config import Precision
from difix3d_ns.priors.registry import check_prior_name, load_selected, load_view_generator


@dataclass
class ViewGeneratorConfig:
    """A generator of views, its weights and how it is run."""

    kept: ClassVar[tuple[str, ...]] = ("weights", "everywhere")
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    name: str = "epipolar-views"
    """epipolar-views (embedded: predicted from the photos), sparsefusion (embedded: and a diffusion model adds what
    they do not show), or package.module of a generator of yours"""
    weights: str | None = None
    """a file or folder of weights (unset: the generator's own)"""
    dtype: Precision | None = None
    """precision of its networks, if it has a choice: float32, bfloat16 or float16 (unset: the generator's own)"""
    everywhere: bool | None = None
    """use what the diffusion model of sparsefusion makes also where photos show the surface, as in the paper (unset:
    no)"""

    def check(self, flag_prefix: str) -> None:
        """Check the name; ``load`` checks the weights.

        Args:
            flag_prefix: common beginning of its flags: ``--pipeline.guidance.view-generator``.

        Raises:
            UserError: naming the flag.
        """
        check_prior_name(ViewGenerator, self.name, flag_prefix)

    def load(self, device: torch.device, flag_prefix: str = "--pipeline.guidance.view-generator") -> ViewGenerator:
        """Load the generator, once per process.

        Args:
            device: where its networks live.
            flag_prefix: as of ``check``, for the message of a failure.

        Raises:
            UserError: its name or weights are unusable.
        """
        given = () if self.everywhere is None else (("everywhere", self.everywhere),)
        return load_selected(load_view_generator, ViewGenerator, self, device, flag_prefix, given)
