"""What a training run of a fixer is: a YAML file of ``configs/fixer``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

import difix3d_ns
from difix3d_ns.errors import UserError


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which some modules learn and the others are frozen."""

    modules: tuple[str, ...]
    """Of "blend", "difix" and "gate"."""
    steps: int
    """Ends here, or when its share of ``max_minutes`` is over."""
    learning_rate: float = 5e-4
    """At its height; warms up over 20 steps and falls as a cosine."""
    share: float = 1.0
    """Of ``max_minutes``, relative to the other phases."""
    crop: int | None = None
    """Instead of the recipe's."""


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on."""

    chain: dict[str, Any]
    """Configuration of ``EmbeddedChain``."""
    phases: tuple[Phase, ...]
    pairs: str = "pairs"
    """Folder of pairs; a relative one lies in the output folder."""
    scenes: tuple[dict[str, Any], ...] = ()
    """Pairs to make there first: {"scene": "procedural:SEED" or a dataset, and options of ``PairOptions``}."""
    max_minutes: float | None = None
    """Training stops on time (curation and validation not counted), with the learning rate fully decayed."""
    seed: int = 0
    crop: int = 160
    batch: int = 4
    reference_dropout: float = 0.15
    ema: float = 0.995
    clip: float = 1.0
    weight_decay: float = 1e-3
    validation_samples: int = 60
    checkpoint_minutes: float = 2.0
    extra: dict[str, Any] = field(default_factory=dict)
    """Notes copied beside the weights (licence, data)."""


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by path, or by name from the ``configs/fixer`` that ships with the package.

    Raises:
        UserError: no such recipe, or it says something unknown.
    """
    path = find_recipe(name)
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping, see configs/fixer/embedded.yaml")
    known = {f.name for f in fields(Recipe)}
    if unknown := sorted(set(content) - known):
        raise UserError(f"{path}: unknown entry {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        content["phases"] = tuple(Phase(**{**p, "modules": tuple(p["modules"])}) for p in content["phases"])
        content["scenes"] = tuple(content.get("scenes") or ())
        return Recipe(**content)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {error}; see configs/fixer/embedded.yaml") from error


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by path or by name."""
    package = Path(difix3d_ns.__file__).parent
    folders = [package / "configs" / "fixer", package.parent / "configs" / "fixer"]
    for path in (Path(name), *(folder / f"{name}.yaml" for folder in folders)):
        if path.is_file():
            return path
    shipped = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise UserError(f"no recipe {name}: give a YAML file or one of {', '.join(shipped)}")
