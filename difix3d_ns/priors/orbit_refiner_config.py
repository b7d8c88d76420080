"""Flags that select a refiner of orbits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.priors.base import OrbitRefiner
from difix3d_ns.priors.fixer_config import Precision
from difix3d_ns.priors.registry import check_prior_name, load_orbit_refiner, load_selected

NO_REFINER = "none"


@dataclass
class OrbitRefinerConfig:
    """A refiner of orbits, its weights and how it is run."""

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
        """Check the name and the number; ``load`` checks the weights.

        Args:
            flag_prefix: common beginning of its flags: ``--pipeline.guidance.orbit-refiner``.

        Raises:
            UserError: naming the flag.
        """
        if self.agreement is not None and self.agreement < 0:
            raise UserError(f"{flag_prefix}.agreement {self.agreement}: 0 or more is needed")
        if self.name not in (None, NO_REFINER):
            check_prior_name(OrbitRefiner, self.name, flag_prefix)
        elif self.name and self.weights:
            raise UserError(f"{flag_prefix}.weights {self.weights}: there is no refiner; give {flag_prefix}.name hi3d")

    def load(self, device: torch.device, flag_prefix: str = "--pipeline.guidance.orbit-refiner") -> OrbitRefiner | None:
        """Load the refiner, once per process; None if there is none.

        Args:
            device: where its network lives.
            flag_prefix: as of ``check``, for the message of a failure.

        Raises:
            UserError: its name or weights are unusable.
        """
        if self.name in (None, NO_REFINER):
            return None
        given = () if self.agreement is None else (("agreement", self.agreement),)
        return load_selected(
            load_orbit_refiner,
            OrbitRefiner,
            self,  # type: ignore[arg-type]  # its name is not None here
            device,
            flag_prefix,
            given,
        )
