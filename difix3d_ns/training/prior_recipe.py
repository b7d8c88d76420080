"""What a training run of a prior is: a YAML file of ``configs/prior``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from difix3d_ns.errors import UserError
from difix3d_ns.io import recipes

Crop = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which some modules learn and the others are frozen."""

    modules: tuple[str, ...]
    """Of the system's parts; embedded: "blend", "difix", "gate"; difix: "unet", "lora", "skips"."""
    steps: int
    """Ends here, or when its share of ``max_time`` is over."""
    learning_rate: float = 5e-4
    """At its height."""
    warmup: int = 20
    """Steps in which the learning rate grows to its height."""
    end: float = 0.01
    """Of its height: where the learning rate ends, falling as a cosine; 1 keeps it."""
    share: float = 1.0
    """Of ``max_time``, relative to the other phases."""
    crop: Crop | None = None
    """Instead of the recipe's."""
    watch: str = "fixed"
    """The link whose ``decides`` picks the best weights while this phase runs."""


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on."""

    system: str
    """What is trained: a file of ``training/systems``."""
    network: dict[str, Any]
    """Configuration of the system's networks."""
    phases: tuple[Phase, ...]
    losses: dict[str, Any]
    """Weights by name, or {"weight", "from_step", "crop"}; see ``training/losses.py``."""
    name: str = "unnamed"
    start: str | None = None
    """Weights to start from."""
    scenes: tuple[dict[str, Any], ...] = ()
    """Samples to make first: {"scene": "procedural:8" or a dataset, "split": "train" or "validation", options}."""
    max_time: float | None = None
    """Minutes of training (curation, preparing and validation not counted); the learning rate ends by then."""
    seed: int = 0
    crop: Crop = 160
    batch: int = 4
    """Samples of one process at a time."""
    accumulate: int = 1
    """Batches per step."""
    reference_dropout: float = 0.15
    ema: float = 0.995
    clip: float = 1.0
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks while training; weights and losses are float32. auto: bfloat16 where the device is fast in it."""
    memory: float = 8.0
    """GiB of prepared samples kept by each process; more than that are streamed through it."""
    reuse: float = 8.0
    """How often a sample is drawn, on average, before it makes place for the next one of the stream."""
    workers: int = 0
    """Processes that prepare samples, per training process."""
    decides: Literal["psnr", "ssim", "flip", "none"] = "psnr"
    """The metric on unseen scenes by which weights are the best; none trains without validation."""
    validate_steps: int = 500
    """Steps between validations."""
    watch_samples: int = 16
    """Samples of each validation while training."""
    validation_samples: int = 60
    """Samples of the final validation."""
    patience: int = 0
    """Validations without a new best after which a phase ends; 0 never."""
    checkpoint_minutes: float = 2.0
    extra: dict[str, Any] = field(default_factory=dict)
    """Notes copied beside the weights: license, data with licences and credits, limits."""

    def fingerprint(self) -> dict[str, Any]:
        """What the trained weights depend on, as JSON gives it back."""
        content = dataclasses.asdict(self)
        told = ("name", "scenes", "max_time", "workers", "validation_samples", "checkpoint_minutes", "extra")
        return json.loads(json.dumps({key: value for key, value in content.items() if key not in told}))


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by path, or by name from the ``configs/prior`` that ships with the package.

    Raises:
        UserError: no such recipe, or it says something unknown.
    """
    path = find_recipe(name)
    content = recipes.read(path, {f.name for f in fields(Recipe)}, "configs/prior/embedded.yaml")
    try:
        content["phases"] = tuple(_phase(entry) for entry in content["phases"])
        content["scenes"] = tuple(content.get("scenes") or ())
        for key in ("crop", "betas"):
            if isinstance(content.get(key), list):
                content[key] = tuple(content[key])
        return _checked(Recipe(**{"name": path.stem, **content}))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}; see configs/prior/embedded.yaml") from error


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by path or by name."""
    return recipes.find("prior", name)


def _phase(entry: Mapping[str, Any]) -> Phase:
    crop = entry.get("crop")
    return Phase(
        **{**entry, "modules": tuple(entry["modules"]), "crop": tuple(crop) if isinstance(crop, list) else crop}
    )


def _checked(recipe: Recipe) -> Recipe:
    if not recipe.phases:
        raise ValueError("there are no phases")
    if not recipe.losses:
        raise ValueError("there are no losses")
    for key, choices in (("precision", ("auto", "float32", "bfloat16")), ("decides", ("psnr", "ssim", "flip", "none"))):
        if getattr(recipe, key) not in choices:
            raise ValueError(f"{key} is one of {', '.join(choices)}, not {getattr(recipe, key)!r}")
    for key in ("batch", "accumulate", "validate_steps", "watch_samples", "validation_samples"):
        if int(getattr(recipe, key)) < 1:
            raise ValueError(f"{key} must be at least 1")
    return recipe
