"""Flags that select what makes an orbit of one photograph."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from difix3d_ns.priors.base import OrbitGenerator
from difix3d_ns.priors.fixer_config import Precision
from difix3d_ns.priors.registry import check_prior_name, load_orbit_generator, load_selected


@dataclass
class OrbitGeneratorConfig:
    """A generator of orbits, its weights and how it is run."""

    name: str = "photo-volume"
    """photo-volume (embedded: a small network that knows procedural solids), inflation (no network: the silhouette is
    inflated), orbit-video (published weights, from difix3d convert), or package.module of a generator of yours"""
    weights: str | None = None
    """a file or folder of weights (unset: the generator's own)"""
    dtype: Precision | None = None
    """precision of its networks, if it has a choice: float32, bfloat16 or float16 (unset: the generator's own)"""
    seed: int = 0
    """of its random draws, if it makes any"""

    def check(self, flag_prefix: str) -> None:
        """Check the name; ``load`` checks the weights.

        Args:
            flag_prefix: common beginning of its flags: ``--pipeline.datamanager.photo.generator``.

        Raises:
            UserError: naming the flag.
        """
        check_prior_name(OrbitGenerator, self.name, flag_prefix)

    def load(self, device: torch.device, flag_prefix: str = "--pipeline.datamanager.photo.generator") -> OrbitGenerator:
        """Load the generator, once per process.

        Args:
            device: where its networks live.
            flag_prefix: as of ``check``, for the message of a failure.

        Raises:
            UserError: its name or weights are unusable.
        """
        return load_selected(load_orbit_generator, OrbitGenerator, self, device, flag_prefix)
