"""The recipe of a prior's training: a YAML file of ``configs/prior``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from difix3d_ns.data.options import CurationOptions
from difix3d_ns.io import recipes

Crop = int | tuple[int, int]
"""Side of a square, or height and width, in pixels."""
Positive = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Scenes(CurationOptions):
    """Scenes of which samples are made first, and how."""

    scene: str | tuple[str, ...]
    """One or more as ``difix3d curate`` takes them: procedural:8, or a data set."""
    first_seed: int = 0
    """First seed of procedural:N."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which some modules learn and the others are frozen."""

    modules: tuple[str, ...]
    """Parts of the system; embedded: "blend", "difix", "gate"; difix: "unet", "lora", "skips"."""
    steps: Positive
    """Ends here, or when its share of ``max_time`` is over."""
    learning_rate: float = 5e-4
    """The highest one."""
    warmup: int = 20
    """Steps in which the learning rate grows to its highest."""
    end: float = 0.01
    """Share of the highest learning rate at which it ends, falling as a cosine; 1 keeps it."""
    share: float = 1.0
    """Part of ``max_time``, relative to the other phases."""
    crop: Crop | None = None
    """Instead of the recipe's."""
    watch: str = "fixed"
    """The variant whose ``decides`` picks the best weights while this phase runs."""


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on."""

    system: str
    """The system to train: a file of ``training/systems``."""
    network: dict[str, Any]
    """Configuration of the system's networks."""
    phases: tuple[Phase, ...]
    losses: dict[str, Any]
    """Weights by name, or {"weight", "from_step", "crop"}; see ``training/losses.py``."""
    name: str = "unnamed"
    start: str | None = None
    """Weights to start from."""
    scenes: tuple[Scenes, ...] = ()
    """Samples to make first."""
    max_time: float | None = None
    """Minutes of training (curation, preparing and validation not counted); the learning rate ends by then."""
    seed: int = 0
    crop: Crop = 160
    batch: Positive = 4
    """Samples of one process at a time."""
    accumulate: Positive = 1
    """Batches per step."""
    reference_dropout: float = 0.15
    ema: float = 0.995
    clip: float = 1.0
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the networks while training; weights and losses are float32. auto: bfloat16 where it is fast."""
    memory: float = 8.0
    """GiB of prepared samples kept by each process; more than that are streamed through it."""
    reuse: float = 8.0
    """Draws of a sample, on average, before it makes place for the next one of the stream."""
    workers: int = 0
    """Processes that prepare samples, per training process."""
    decides: Literal["psnr", "ssim", "flip", "none"] = "psnr"
    """The metric on unseen scenes by which weights are the best; none trains without validation."""
    validate_steps: Positive = 500
    """Steps between validations."""
    watch_samples: Positive = 16
    """Samples of each validation while training."""
    validation_samples: Positive = 60
    """Samples of the final validation."""
    patience: int = 0
    """Validations without a new best after which a phase ends; 0 never."""
    checkpoint_minutes: float = 2.0
    extra: dict[str, Any] = field(default_factory=dict)
    """Notes copied beside the weights: license, data with licences and credits, limits."""

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("there are no phases")
        if not self.losses:
            raise ValueError("there are no losses")

    def crop_of(self, phase: Phase) -> tuple[int, int]:
        """Height and width of the crops of a phase."""
        crop = phase.crop or self.crop
        return crop if isinstance(crop, tuple) else (crop, crop)

    def fingerprint(self) -> dict[str, Any]:
        """Everything the trained weights depend on, as JSON gives it back."""
        content = dataclasses.asdict(self)
        irrelevant = ("name", "scenes", "max_time", "workers", "validation_samples", "checkpoint_minutes", "extra")
        return json.loads(json.dumps({key: value for key, value in content.items() if key not in irrelevant}))


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by path, or by name from the ``configs/prior`` that ships with the package.

    Raises:
        UserError: no such recipe, or one with a mistake.
    """
    return recipes.load(recipes.find("prior", name), Recipe, "configs/prior/embedded.yaml")
