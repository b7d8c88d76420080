"""``enlarge-splatfacto``: photographs give way to pictures of twice their size; the render, shrunk, is compared too.

The worked example of adding a system. What a real one would take from a prior is a bicubic enlargement here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.geometry.resize import resized
from difix3d_ns.guidance.base import Guidance, GuidanceConfig, Losses, Outputs
from difix3d_ns.io.config_fields import check_at_least, check_share
from difix3d_ns.io.run import Run
from difix3d_ns.methods.base import splatfacto_with
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.protocols import References, Renderer, Scene
from difix3d_ns.views.view import TrainView

FOLDER = "enlarged_photographs"


@dataclass
class EnlargeConfig(GuidanceConfig):
    """Settings of the guidance; each is a flag, --pipeline.guidance.*."""

    _target: type = field(default_factory=lambda: EnlargeGuidance)
    start: float = 0.25
    """share of training after which photographs are enlarged, one before each step"""
    low_weight: float = 1.0
    """loss weight of the difference between the render, shrunk, and the photograph as it was taken"""

    def check(self, flag: str) -> None:
        check_share(self, flag, "start")
        check_at_least(self, flag, {"low_weight": 0})


class EnlargeGuidance(Guidance):
    """Enlarger of one photograph before each step; lets training steps learn from what was enlarged."""

    config: EnlargeConfig

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        self._scene = scene
        self._keys = [f"photo/{index:04d}" for index in range(len(scene.names()))]
        self._start = run.first_step + round(self.config.start * run.steps)
        self.pool = Pool(None, run.folder / FOLDER)

    def before_step(self, step: int) -> bool:
        missing = [index for index, key in enumerate(self._keys) if key not in self.pool]
        if step >= self._start and missing:
            self.pool.put(self._enlarged(missing[0]))
        return False

    def _enlarged(self, index: int) -> TrainView:
        # its pose correction is applied in the step, so the camera is the one without
        photo, camera = self._scene.photo(index), self._scene.unoptimized_camera(index)
        camera = camera.resized(2 * camera.width, 2 * camera.height)
        size = camera.height, camera.width
        image = resized(photo.image, *size, "bicubic").clamp(0, 1)
        valid = None if photo.mask is None else resized(photo.mask, *size)
        return TrainView(self._keys[index], camera, image, photo=index, valid=valid, extra={"low": photo.image})

    def next_view(self, step: int, generator: torch.Generator) -> TrainView | None:
        key = self._keys[int(torch.randint(len(self._keys), (), generator=generator))]
        return self.pool.get(key) if key in self.pool else None

    def losses(self, outputs: Outputs, view: TrainView, base: Losses) -> Losses:
        losses = super().losses(outputs, view, base)
        if (low := view.extra.get("low")) is not None:
            render = outputs["rgb"]  # early steps render smaller
            size = min(low.shape[0], render.shape[0]), min(low.shape[1], render.shape[1])
            error = (resized(render, *size) - resized(low, *size)).abs()
            if view.valid is not None:
                error = error * resized(view.valid, *size)
            losses["low_loss"] = error.mean() * self.config.low_weight
        return losses

    def state_dict(self, step: int) -> dict[str, Any]:
        return {"pool": self.pool.state(checkpoint=step)}

    def load_state_dict(self, state: dict[str, Any], folder: Path, step: int) -> None:
        self.pool.restore(folder / FOLDER, state["pool"])

    def keep(self, steps: Sequence[int]) -> None:
        self.pool.prune(steps)


enlarge_splatfacto = MethodSpecification(
    config=splatfacto_with("enlarge-splatfacto", EnlargeConfig()),
    description="Splatfacto on enlarged photographs, the worked example of adding a system.",
)
