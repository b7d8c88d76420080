"""Recipes of benchmarks: YAML files of ``configs/bench`` that name methods and comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.runs import DEFAULT_METHOD
from difix3d_ns.evaluation.table import METRICS
from difix3d_ns.io import recipes
from difix3d_ns.io.splat_files import ENDINGS
from difix3d_ns.metrics.scoring import Scoring

Value = str | int | float | bool
_SET_BY_BENCH = (
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
"""Flags that follow from scene, seed and recipe."""
_COMMON = (*_SET_BY_BENCH, "machine.", "load-", "pipeline.datamanager.")
"""Beginnings of flags that no method may have: all share scene, image size, seed and number of steps."""
_SIZE = "pipeline.datamanager.camera-res-scale-factor"
"""Flag that methods may have where all are scored at one size, whatever they are trained at."""


@dataclass(frozen=True)
class Method:
    """A row of the table: a training of its own, another evaluation of one, or the best of other rows."""

    name: str = ""
    """Its key in the recipe."""
    flags: Mapping[str, Value] | None = None
    """ns-train flags of its training, in addition to the recipe's; None: it has no training of its own."""
    ns_method: str = DEFAULT_METHOD
    """Method of ns-train."""
    checkpoints: int = 1
    """Number of checkpoints, evenly spaced over the training, the last at its end."""
    of: str = ""
    """Method whose training is evaluated."""
    enhanced: bool = False
    """Evaluate renders as the enhancer repairs them."""
    strength: float | None = None
    """Strength of that enhancer, from 0 to 1; None: as in the training."""
    exported: str | None = None
    """Evaluate what difix3d export writes, read back: ending of the file, .ply, .compressed.ply or .spz."""
    earlier: bool = False
    """Evaluate the checkpoints before the last; the one of the best held-out mean over all scenes counts."""
    best_of: tuple[str, ...] = ()
    """Methods of which the one with the best held-out mean over all scenes counts."""
    scored_at: tuple[int | str, float] | None = None
    """The recipe's ``long_side`` and ``factor``, which come from there."""
    scoring: Scoring = field(default_factory=Scoring)
    """The recipe's, which comes from there."""

    @property
    def training(self) -> str:
        """Method whose training is evaluated; empty for the best of others."""
        return self.of or ("" if self.best_of else self.name)

    @property
    def evaluation(self) -> dict[str, Any]:
        """Settings that the numbers depend on, beside the training's."""
        names = ("enhanced", "strength", "earlier")
        file = {} if self.exported is None else {"exported": self.exported}
        size = {} if self.scored_at is None else dict(zip(("long_side", "factor"), self.scored_at, strict=True))
        flavour = {} if self.scoring == Scoring() else {"scoring": dataclasses.asdict(self.scoring)}
        return {"method": self.name, **{name: getattr(self, name) for name in names}, **file, **size, **flavour}


@dataclass(frozen=True)
class Gap:
    """Gain of one method over another, of which others gain a share."""

    method: str
    against: str


@dataclass(frozen=True)
class Comparison:
    """One method against another, and by how much it has to be better."""

    method: str
    against: str
    bars: Mapping[str, float] = field(default_factory=dict)
    """Metric -> smallest mean gain, in the metric's units; of FLIP and LPIPS less is a gain."""
    worst: float | None = None
    """Smallest gain of any scene in dB, its standard error allowed for."""
    time: float | None = None
    """Largest ratio of the training's seconds to the other's."""
    share_of: Gap | None = None
    """The gap that gains are also given as shares of; scenes where it is too small to divide by are not counted."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Metric -> smallest mean share of that gap, 0.3 for 30 %."""
    scenes: tuple[str, ...] = ()
    """Scenes that count, by name or pattern (``procedural-*``); none: all that the recipe counts."""

    @property
    def needs(self) -> tuple[str, str]:
        """Names of both methods."""
        return self.method, self.against

    @property
    def names(self) -> tuple[str, ...]:
        """Names of both methods, and of those of the gap."""
        return self.needs if self.share_of is None else (*self.needs, self.share_of.method, self.share_of.against)


@dataclass(frozen=True)
class Quoted:
    """Rows of a published table."""

    source: str
    """Paper or page, and table."""
    date: str
    """Of publication, or of reading."""
    rows: Mapping[str, Mapping[str, float]]
    """Method -> metric -> value."""
    note: str = ""
    """What has to be known to compare."""


@dataclass(frozen=True)
class Recipe:
    """Settings that all trainings share, the methods, and their comparisons."""

    kind: ClassVar[Literal["recipe", "protocol"]] = "recipe"
    """How it is called, and the flag that names it."""
    methods: Mapping[str, Method]
    name: str = "unnamed"
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    """Optimizer steps of every training; None: the device's default."""
    flags: Mapping[str, Value] = field(default_factory=dict)
    """ns-train flags of every training."""
    cpus: int = 2
    """Cores for each scene on a cluster."""
    pictures: int = 3
    """Number of held-out views on the page, of the lowest seed."""
    shown: tuple[str, ...] = ()
    """Methods whose pictures are on the page, the two that are compared first in front; none: all."""
    undecided: float = 0.15
    """dB below which a difference is called undecided."""
    undecided_gap: float = 0.3
    """dB of a gap below which no share of it is counted."""
    long_side: int | Literal["photos"] | None = None
    """Pixels of the long side of the truth, from the photos' files, at which all methods are rendered and scored,
    whatever they are trained at; photos: at the size of the files; None: at the size of training."""
    factor: float = 4.0
    """Sides of that truth over those of the small photos that methods learn from; with ``long_side``."""
    trained_on: tuple[str, ...] = ()
    """Scenes that weights were trained on: listed, but not counted in means and verdicts."""
    compare: tuple[Comparison, ...] = ()
    scoring: Scoring = field(default_factory=Scoring)
    """Flavour of the metrics."""
    quoted: tuple[Quoted, ...] = ()
    """Published rows that are shown beside the means over scenes."""
    on_record: bool = True
    """True if rows are to be kept in ``benchmarks/results``."""

    def __post_init__(self) -> None:
        scored = None if self.long_side is None else (self.long_side, self.factor)
        named = {
            name: dataclasses.replace(method, name=name, scored_at=scored, scoring=self.scoring)
            for name, method in self.methods.items()
        }
        object.__setattr__(self, "methods", named)
        _check(self)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Paragraphs that belong beside published rows."""
        return ()

    def chosen(self, names: Sequence[str] = ()) -> Recipe:
        """The recipe with these methods alone, and those that they need.

        Raises:
            UserError: it has no such method.
        """
        if unknown := [name for name in names if name not in self.methods]:
            raise UserError(f"--methods {' '.join(unknown)}: the {self.kind} {self.name} has {', '.join(self.methods)}")
        wanted = set(names) or set(self.methods)
        wanted |= {member for name in wanted for member in self.methods[name].best_of}
        wanted |= {self.methods[name].of for name in wanted}
        kept = {name: method for name, method in self.methods.items() if name in wanted}
        compare = tuple(entry for entry in self.compare if wanted.issuperset(entry.names))
        shown = tuple(name for name in self.shown if name in wanted)
        return dataclasses.replace(self, methods=kept, compare=compare, shown=shown)

    def trainings(self) -> Iterator[str]:
        """Methods that have to be trained, in the order of the table."""
        yield from dict.fromkeys(method.training for method in self.methods.values() if method.training)

    def evaluations(self, training: str) -> list[Method]:
        """Methods that evaluate one training."""
        return [method for method in self.methods.values() if method.training == training]

    def training_flags(self, training: str, seed: int) -> list[str]:
        """Flags of a training's ns-train, beyond scene and output: --NAME VALUE by turns."""
        method = self.methods[training]
        assert method.flags is not None and self.steps is not None
        shared: dict[str, Value] = {
            "max-num-iterations": self.steps,
            "steps-per-save": max(1, self.steps // method.checkpoints),
            "save-only-latest-checkpoint": False,
            "machine.seed": seed,
            "pipeline.datamanager.train-cameras-sampling-seed": 42 + seed,
        }
        return flag_words({**shared, **self.flags, **method.flags})


def flag_words(flags: Mapping[str, Value]) -> list[str]:
    """--NAME VALUE by turns."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by path, or by name from the ``configs/bench`` that ships with the package.

    Raises:
        UserError: no such recipe, or it makes no sense.
    """
    return recipes.load(recipes.find("bench", name), Recipe, "configs/bench/default.yaml")


def _check(recipe: Recipe) -> None:
    """Raise ValueError where methods, comparisons or numbers make no sense."""
    methods = recipe.methods
    if not methods:
        raise ValueError("there are no methods")
    for name, method in methods.items():
        if "/" in name or "@" in name:
            raise ValueError(f"{name}: a method's name has no / and no @")
        if sum((method.flags is not None, bool(method.of), bool(method.best_of))) != 1:
            raise ValueError(f"{name} needs exactly one of flags, of and best_of")
        if method.ns_method != DEFAULT_METHOD and method.flags is None:
            raise ValueError(f"{name} has ns_method, but no training of its own")
        for flag in method.flags or ():
            dashed = flag.replace("_", "-")
            if dashed.startswith(_COMMON) and not (dashed == _SIZE and recipe.long_side is not None):
                raise ValueError(f"{name} has --{flag}: scene, image size, seed and steps are the same for all methods")
        if method.of and (method.of not in methods or methods[method.of].flags is None):
            raise ValueError(f"{name} is of {method.of}, which is not trained")
        if method.earlier and methods[method.of].checkpoints < 2:
            raise ValueError(f"{name} needs {method.of} with checkpoints of 2 or more")
        if missing := [member for member in method.best_of if member not in methods or methods[member].best_of]:
            raise ValueError(f"{name} cannot be the best of {', '.join(missing)}")
        if method.exported is not None and method.exported not in ENDINGS:
            raise ValueError(f"{name}: exported is one of {', '.join(ENDINGS)}")
        if method.exported is not None and (not method.of or method.enhanced or method.earlier):
            raise ValueError(f"{name}: exported needs of, without enhanced and earlier, which no exported file has")
        if method.strength is not None and not 0 <= method.strength <= 1:
            raise ValueError(f"{name}: strength is from 0 to 1")
    if missing := [name for entry in recipe.compare for name in entry.names if name not in methods]:
        raise ValueError(f"compare names {', '.join(missing)}, which is no method")
    if missing := [name for name in recipe.shown if name not in methods]:
        raise ValueError(f"shown names {', '.join(missing)}, which is no method")
    if not recipe.seeds or len(set(recipe.seeds)) != len(recipe.seeds):
        raise ValueError("seeds are one or more different numbers")
    if recipe.steps is not None and recipe.steps < 1:
        raise ValueError("steps are at least 1")
    if any(entry.shares and entry.share_of is None for entry in recipe.compare):
        raise ValueError("shares need share_of, the gap that they are of")
    pixels = 1 if recipe.long_side in (None, "photos") else recipe.long_side
    if recipe.long_side is not None and (not isinstance(pixels, int) or pixels < 1 or recipe.factor <= 1):
        raise ValueError("long_side is in pixels, or photos, and factor above 1")
    quoted = {metric for entry in recipe.quoted for row in entry.rows.values() for metric in row}
    if unknown := sorted(quoted - METRICS.keys()):
        raise ValueError(f"quoted has {', '.join(unknown)}, which is no metric; known are {', '.join(METRICS)}")
    for flag in recipe.flags:
        if flag.replace("_", "-") in _SET_BY_BENCH:
            raise ValueError(f"flags may not have {flag}")
