"""Guidance: how a prior teaches a splat. The base class does nothing, which is plain splatfacto."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor

from difix3d_ns.geometry.resize import resized
from difix3d_ns.guidance.status import Status
from difix3d_ns.io.run import Run
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.splats.losses.log_depth import depth_loss
from difix3d_ns.views.protocols import PointCloud, References, Renderer, Scene
from difix3d_ns.views.view import TrainView

Losses = dict[str, Tensor]
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Window:
    """A stretch of training with a densification of its own."""

    start: int  # step
    densify_from: int  # first step at which Gaussians may multiply
    densify_to: int  # step from which they do not any more
    restart_rate: bool = False  # the learning rate of the means starts over
    reset: bool = True  # opacities are reset now and then, as splatfacto does


@dataclass
class GuidanceConfig(InstantiateConfig):
    """Settings of a guidance; the base class has none."""

    _target: type = field(default_factory=lambda: Guidance)
    kept: ClassVar[tuple[str, ...]] = ()
    """fields that a resumed training takes over from its checkpoint where they are unset"""
    announced: ClassVar[dict[str, str]] = {}
    """fields whose CPU-sized value is printed, with a sentence for each"""
    serves_one_photo: ClassVar[bool] = False
    """whether a scene may be one picture, whose other frames a generator makes"""

    def default_steps(self, usual: int, on_cpu: bool) -> int:
        """Return the length of a training that is not stated; before ``fit``.

        Args:
            usual: splatfacto's on this device.
            on_cpu: whether it runs without CUDA.
        """
        return usual

    def own_steps(self, steps: int, on_cpu: bool) -> int:
        """Return how many steps splatfacto's own schedule spans; before ``fit``.

        Args:
            steps: of the training.
            on_cpu: whether it runs without CUDA.
        """
        return steps

    def fit(self, run: Run) -> None:
        """Fill in what is unset; called before the pipeline is built, and again when the images are known."""

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if a setting cannot work.

        Args:
            flag: what its flags begin with, "--pipeline.guidance".
        """

    @property
    def fixer_config(self) -> FixerConfig | None:
        """Return the fixer that the enhancer uses as well; None if the guidance has none."""
        return None

    @property
    def factor(self) -> float | None:
        """Return the sides of pictures that the splat is made to be rendered at over those of the photographs.

        None while that is not known: it depends on their sizes.
        """
        return 1.0

    @property
    def starting_splat(self) -> Path | None:
        """Return the splat that training starts from: a .ply, a checkpoint, or a training; None for points."""
        return None


class Guidance:
    """A prior's plan: when views are made, at which cameras, with which prior, how they are kept, and how they weigh.

    The pipeline asks ``before_step`` for work between steps, ``next_view`` once per step for something to learn from,
    and ``losses`` for the loss of the step. A system is a subclass that overrides some of these: docs/architecture.md.
    """

    depth_weight: float = 1.0
    """of the depth of all views, against the weight of their pictures"""

    def __init__(self, config: GuidanceConfig) -> None:
        self.config = config

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        """Prepare for a training; no expensive work if it is resumed.

        Raises:
            UserError: the scene cannot be trained on so.
        """

    def initial_points(self) -> PointCloud | None:
        """Return points to start from instead of the scene's.

        Called after ``setup``, before optimizers; not if the training is resumed.
        """
        return None

    def windows(self, run: Run) -> Sequence[Window]:
        """Return the windows of densification, in order; none: splatfacto's own. Asked before ``setup``."""
        return ()

    def rotation(self) -> int | None:
        """Return the number of views among which steps are drawn, for the pause of densification after a reset.

        None: the photographs alone, as splatfacto counts.
        """
        return None

    def before_step(self, step: int) -> bool:
        """Do one bounded piece of work; True: again before this step, since it cannot wait."""
        return False

    def next_view(self, step: int, generator: torch.Generator) -> TrainView | None:
        """Return the view the step learns from; None: a photograph.

        Args:
            step: of training.
            generator: the only one to draw from; its state is saved.
        """
        return None

    @property
    def weighs_photographs(self) -> bool:
        """Return whether ``losses`` changes anything on a photograph: if not, steps on one are spared the call."""
        return type(self).losses is not Guidance.losses

    def counts(self, view: TrainView) -> bool:
        """Return whether gradients of a step on this view count for densification.

        Its thresholds are made for those of photographs, so views that stand for none do not unless a guidance says so.
        """
        return view.photo is not None

    def losses(self, outputs: Outputs, view: TrainView, base: Losses) -> Losses:
        """Compute the losses of a step.

        Args:
            outputs: of the render: "rgb" [H, W, 3], "accumulation" [H, W, 1], "depth" [H, W, 1] if the view has one.
            view: what it is compared with, at full size (early steps render smaller). A cut-out object stands before
                the background of this step; where its confidence is 0, its picture is the render, which teaches
                nothing, and SSIM sees no cut-out edge.
            base: splatfacto's, where the picture's is "main_loss".

        Returns:
            ``base`` with the view's weight, and with its depth and silhouette if it has them.
        """
        losses = dict(base)
        height, width = outputs["accumulation"].shape[:2]
        if view.weight != 1.0:
            losses["main_loss"] = losses["main_loss"] * view.weight
        if view.depth is not None:
            confidence = depth_confidence(view) if view.valid is None else depth_confidence(view) * view.valid
            target, confidence = (resized(maps, height, width, "nearest-exact") for maps in (view.depth, confidence))
            error = depth_loss(outputs["depth"], outputs["accumulation"], target, confidence)
            losses["depth_loss"] = error * view.weight * self.depth_weight
        if view.alpha is not None:
            error = (outputs["accumulation"] - resized(view.alpha, height, width)).abs()
            if view.valid is not None:
                error = error * resized(view.valid, height, width)
            losses["silhouette_loss"] = error.mean() * view.weight
        return losses

    def state_dict(self, step: int) -> dict[str, Any]:
        """Return what resuming at ``step`` needs, as plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any], folder: Path, step: int) -> None:
        """Continue where ``state_dict`` was taken.

        Args:
            state: what it returned.
            folder: of the training it was taken in; its files are read from there.
            step: the first one of this training.
        """

    def keep(self, steps: Sequence[int]) -> None:
        """Delete files that no checkpoint of these steps needs."""

    def status(self, step: int) -> Status:
        """Return what the viewer shows."""
        return Status()


def depth_confidence(view: TrainView) -> Tensor:
    """Return the weight [H, W, 1] of a view's depth: its own map, or its number times the confidence."""
    assert view.depth is not None
    if isinstance(view.depth_weight, Tensor):
        return view.depth_weight
    confidence = torch.ones_like(view.depth) if view.confidence is None else view.confidence
    return confidence if view.depth_weight == 1.0 else confidence * view.depth_weight
