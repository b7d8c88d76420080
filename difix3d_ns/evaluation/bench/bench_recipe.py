"""What a benchmark compares: a YAML file of ``configs/bench``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.runs import DEFAULT_METHOD
from difix3d_ns.io import recipes

Value = str | int | float | bool
_EXAMPLE = "configs/bench/default.yaml"
_OURS = (
    "data",
    "output-dir",
    "experiment-name",
    "timestamp",
    "vis",
    "max-num-iterations",
    "steps-per-save",
    "save-only-latest-checkpoint",
    "machine.seed",
    "pipeline.datamanager.train-cameras-sampling-seed",
)
"""Flags that follow from scene, seed and method."""
_COMMON = (*_OURS, "machine.", "load-", "pipeline.datamanager.")
"""How flags begin that one method may not have: all share scene, image size, seed and number of steps."""


@dataclass(frozen=True)
class Method:
    """A row of the table: a training of its own, another look at one, or the best of other rows."""

    name: str
    flags: Mapping[str, Value] | None = None
    """Of its training, beyond those of all; None: it has none of its own."""
    ns_method: str = DEFAULT_METHOD
    """What ns-train is given for it."""
    checkpoints: int = 1
    """Evenly spread over its training, the last at its end."""
    of: str = ""
    """The method whose training is looked at."""
    enhanced: bool = False
    """Its renders as the fixer repairs them."""
    strength: float | None = None
    """Of the fixer there, from 0 to 1; None: as in the training."""
    earlier: bool = False
    """Its checkpoints before the last; that of the best held-out mean over all scenes counts."""
    best_of: tuple[str, ...] = ()
    """Methods of which that with the best held-out mean over all scenes counts."""

    @property
    def training(self) -> str:
        """The method whose training it looks at; empty for the best of others."""
        return self.of or ("" if self.best_of else self.name)


@dataclass(frozen=True)
class Comparison:
    """One method against another, and by how much it has to be better."""

    method: str
    against: str
    bars: Mapping[str, float] = field(default_factory=dict)
    """Least mean gain by metric, in the metric's units; of FLIP and LPIPS less is a gain."""
    worst: float | None = None
    """Least gain of any scene in dB, its standard error allowed for."""
    time: float | None = None
    """Most seconds of training, in those of the other."""

    @property
    def needs(self) -> tuple[str, str]:
        """Both."""
        return self.method, self.against


@dataclass(frozen=True)
class Recipe:
    """What all trainings share, the methods and how they are compared."""

    methods: Mapping[str, Method]
    name: str = "unnamed"
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    """Optimizer steps of every training; None: what the device does by default."""
    flags: Mapping[str, Value] = field(default_factory=dict)
    """Of every training."""
    cpus: int = 2
    """Cores for each scene on a cluster."""
    pictures: int = 3
    """Held-out views of which pictures are kept, of the lowest seed."""
    undecided: float = 0.15
    """dB within which a difference is called so."""
    trained_on: tuple[str, ...] = ()
    """Scenes that weights were trained on: listed, but not counted in means and verdicts."""
    compare: tuple[Comparison, ...] = ()
    on_record: bool = True
    """Whether finished runs are worth being kept in ``benchmarks/results``."""

    def chosen(self, names: Sequence[str] = ()) -> Recipe:
        """The same with these methods alone, and those that they are the best of.

        Raises:
            UserError: it has no such method.
        """
        if unknown := [name for name in names if name not in self.methods]:
            raise UserError(f"--methods {' '.join(unknown)}: the recipe {self.name} has {', '.join(self.methods)}")
        wanted: set[str] = set()
        waiting = list(names) or list(self.methods)
        while waiting:
            name = waiting.pop()
            wanted.add(name)
            method = self.methods[name]
            waiting += [*method.best_of, *([method.of] if method.of else [])]
        kept = {name: method for name, method in self.methods.items() if name in wanted}
        compare = tuple(entry for entry in self.compare if wanted.issuperset(entry.needs))
        return dataclasses.replace(self, methods=kept, compare=compare)

    def trainings(self) -> Iterator[str]:
        """Methods that have to be trained for the methods there are, in the order of the table."""
        yield from dict.fromkeys(method.training for method in self.methods.values() if method.training)

    def looks(self, training: str) -> list[Method]:
        """Methods that look at one training."""
        return [method for method in self.methods.values() if method.training == training]


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by path, or by name from the ``configs/bench`` that ships with the package.

    Raises:
        UserError: no such recipe, or it makes no sense.
    """
    path = recipes.find("bench", name)
    content = recipes.read(path, {f.name for f in fields(Recipe)}, _EXAMPLE)
    try:
        methods = content["methods"]
        if not isinstance(methods, dict) or not methods:
            raise ValueError("there are no methods")
        content["methods"] = {str(key): _method(str(key), entry or {}) for key, entry in methods.items()}
        content["compare"] = tuple(Comparison(**entry) for entry in content.get("compare") or ())
        for key in ("seeds", "trained_on"):
            if key in content:
                content[key] = tuple(content[key])
        return _checked(Recipe(**{"name": path.stem, **content}))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}; see {_EXAMPLE}") from error


def _method(name: str, entry: Mapping[str, Any]) -> Method:
    if "/" in name or "@" in name:
        raise ValueError(f"{name}: a method's name has no / and no @")
    method = Method(name, **{**entry, "best_of": tuple(entry.get("best_of", ()))})
    if sum((method.flags is not None, bool(method.of), bool(method.best_of))) != 1:
        raise ValueError(f"{name} needs exactly one of flags, of and best_of")
    if "ns_method" in entry and method.flags is None:
        raise ValueError(f"{name} has ns_method, but no training of its own")
    for flag in method.flags or ():
        if flag.replace("_", "-").startswith(_COMMON):
            raise ValueError(f"{name} has --{flag}: scene, image size, seed and steps are the same for all methods")
    return method


def _checked(recipe: Recipe) -> Recipe:
    methods = recipe.methods
    for name, method in methods.items():
        if method.of and (method.of not in methods or methods[method.of].flags is None):
            raise ValueError(f"{name} is of {method.of}, which is not trained")
        if method.earlier and methods[method.of].checkpoints < 2:
            raise ValueError(f"{name} needs {method.of} with checkpoints of 2 or more")
        if missing := [member for member in method.best_of if member not in methods or methods[member].best_of]:
            raise ValueError(f"{name} cannot be the best of {', '.join(missing)}")
        if method.strength is not None and not 0 <= method.strength <= 1:
            raise ValueError(f"{name}: strength is from 0 to 1")
    if missing := [name for entry in recipe.compare for name in entry.needs if name not in methods]:
        raise ValueError(f"compare names {', '.join(missing)}, which is no method")
    if not recipe.seeds or len(set(recipe.seeds)) != len(recipe.seeds):
        raise ValueError("seeds are one or more different numbers")
    if recipe.steps is not None and recipe.steps < 1:
        raise ValueError("steps are at least 1")
    for flag in recipe.flags:
        if flag.replace("_", "-") in _OURS:
            raise ValueError(f"flags may not have {flag}")
    return recipe
