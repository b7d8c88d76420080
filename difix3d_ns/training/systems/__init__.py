"""Systems that can be trained: one file each with ``create(recipe) -> System``; the file's name is the system's."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import Make


class System(Protocol):
    """Networks, and how they meet samples. Prepared samples and batches are (named) tuples or dicts of tensors."""

    variants: tuple[str, ...]
    """Names of what ``pictures`` gives, worst first."""

    def build(self) -> nn.Module:
        """The networks on the CPU, from the recipe's ``start`` or from the global generator.

        Raises:
            UserError: the weights to start from cannot be read.
        """
        ...

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """Parameters that phases can train, by name."""
        ...

    def prepare(self, sample: Sample) -> Any:
        """Reduce a sample to what is kept: all that does not depend on weights or chance, small, on the CPU."""
        ...

    def draw(self, prepared: Sequence[Any], phase: Phase, generator: Generator) -> Any:
        """Draw a batch of crops; all chance comes from the generator."""
        ...

    def loss(self, module: nn.Module, batch: Any, phase: Phase, compare: Loss) -> Tensor:
        """Loss that a phase minimises; ``compare`` is the sum of the recipe's losses."""
        ...

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Functions that make a picture of a sample, by variant, in the precision of use; the module is not changed."""
        ...

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write weights that the prior's ``load`` takes, each file whole or not at all."""
        ...


def available() -> tuple[str, ...]:
    """Names that a recipe's ``system`` may have."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def create(recipe: Recipe) -> System:
    """Create the system that a recipe names.

    Raises:
        UserError: there is none of that name, or the recipe's phases name what it does not have.
    """
    if recipe.system not in available():
        raise UserError(f"recipe: unknown system {recipe.system!r}; known are {', '.join(available())}")
    system: System = importlib.import_module(f"{__name__}.{recipe.system}").create(recipe)
    for phase in recipe.phases:
        if phase.watch not in system.variants:
            raise UserError(f"recipe: a phase watches {phase.watch!r}; known are {', '.join(system.variants)}")
    return system
