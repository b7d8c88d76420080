"""Base of the flags that select a prior."""

from __future__ import annotations

from typing import ClassVar, Generic, Literal, TypeVar

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.priors.registry import check_prior_name, kind, load_selected

Precision = Literal["float32", "bfloat16", "float16"]
Prior = TypeVar("Prior")


class PriorConfig(Generic[Prior]):
    """Flags that select a prior by its name, its weights and how it is run.

    Subclasses are dataclasses with fields of these names, each with help of its own.
    """

    capability: ClassVar[type]
    """protocol of ``priors.base`` that the prior keeps"""
    flag: ClassVar[str]
    """common beginning of its flags where nothing else is said"""
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """fields that are arguments of the prior's ``load``; those at their defaults are left out"""

    name: str | None
    weights: str | None
    dtype: Precision | None = None

    def check(self, flag_prefix: str) -> None:
        """Check the name, and in subclasses the numbers; ``load`` checks the weights.

        Args:
            flag_prefix: common beginning of its flags: ``--pipeline.guidance.fixer``.

        Raises:
            UserError: naming the flag.
        """
        check_prior_name(self.capability, str(self.name), f"{flag_prefix}.name")

    def load(self, device: torch.device, flag_prefix: str | None = None) -> Prior:
        """Load the prior, once per process.

        Args:
            device: where its networks live.
            flag_prefix: as of ``check``, for the message of a failure; None for ``flag``.

        Raises:
            UserError: its name, weights or options are unusable.
        """
        dtype = getattr(torch, self.dtype) if self.dtype else None
        given = {name: getattr(self, name) for name in self.OPTIONS}
        options = {name: value for name, value in given.items() if value != getattr(type(self), name)}
        prefix = flag_prefix or self.flag
        flags = [*self._sources(prefix), *(f"{prefix}.{name.replace('_', '-')}" for name in options)]
        return load_selected(
            self.capability, flags, str(self.name), self.weights, device, dtype, tuple(options.items())
        )

    def check_resumed(self, name: str | None) -> None:
        """Refuse to go on with another prior.

        Args:
            name: of the prior that the training was begun with.

        Raises:
            UserError: naming the flag.
        """
        if name != self.name:
            raise UserError(
                f"this training was begun with the {kind(self.capability)} {name}: give {self.flag}.name {name}"
            )

    def _sources(self, prefix: str) -> tuple[str, ...]:
        """Flags of name and weights, and what else they may come from."""
        return f"{prefix}.name", f"{prefix}.weights"
