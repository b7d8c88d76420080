"""Guidances that prove the contracts: too small to be useful, each with one demand of a real system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.guidance.base import Guidance, GuidanceConfig, Window
from difix3d_ns.io.run import Run
from difix3d_ns.methods.base import splatfacto_with
from difix3d_ns.views.protocols import References, Renderer, Scene
from difix3d_ns.views.view import TrainView


@dataclass
class WeighingConfig(GuidanceConfig):
    _target: type = field(default_factory=lambda: WeighingGuidance)


class WeighingGuidance(Guidance):
    """Photographs with a weight of their own in every draw and their silhouettes, and a second window of densification.

    In the second half of training the learning rate of the means starts over and opacities are not reset.
    """

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        self._scene, self._count = scene, len(scene.names())

    def windows(self, run: Run) -> Sequence[Window]:
        start, half, end = run.first_step, run.first_step + run.steps // 2, run.last_step
        quarter = run.steps // 4
        return [
            Window(start, start + quarter - 2, start + quarter),
            Window(half, half + 5, end, restart_rate=True, reset=False),
        ]

    def next_view(self, step: int, generator: torch.Generator) -> TrainView | None:
        index = int(torch.randint(self._count, (), generator=generator))
        weight = 0.5 + float(torch.rand((), generator=generator))
        photo, camera = self._scene.photo(index), self._scene.unoptimized_camera(index)
        return TrainView(f"photo/{index:04d}", camera, photo.image, photo=index, weight=weight, alpha=photo.mask)


@dataclass
class JointConfig(GuidanceConfig):
    _target: type = field(default_factory=lambda: JointGuidance)


class JointGuidance(Guidance):
    """Four views made together in parts: each part renders one of them and draws all toward their mean.

    One part before each step from the middle of training; what is left three steps later cannot wait any more.
    """

    VIEWS = 4
    PARTS = 8

    def setup(self, scene: Scene, renderer: Renderer, references: References, run: Run) -> None:
        first, *others = scene.cameras()[: self.VIEWS]
        self._renderer = renderer
        self._cameras = [first, *(camera.resized(first.width, first.height) for camera in others)]
        self.start = run.first_step + run.steps // 2
        self.boundary = self.start + 3
        self.part = 0
        self.pictures = torch.zeros(self.VIEWS, first.height, first.width, 3)

    def before_step(self, step: int) -> bool:
        if step < self.start or self.part == self.PARTS:
            return False
        index = self.part % self.VIEWS
        self.pictures[index] = self._renderer.render(self._cameras[index]).image.cpu()
        self.pictures = self.pictures.lerp(self.pictures.mean(0, keepdim=True), 0.1)
        self.part += 1
        return step >= self.boundary and self.part < self.PARTS

    def next_view(self, step: int, generator: torch.Generator) -> TrainView | None:
        if self.part < self.PARTS or float(torch.rand((), generator=generator)) < 0.5:
            return None
        index = int(torch.randint(self.VIEWS, (), generator=generator))
        return TrainView(f"joint/{index:02d}", self._cameras[index], self.pictures[index])

    def state_dict(self, step: int) -> dict[str, Any]:
        return {"part": self.part, "pictures": self.pictures.clone()}

    def load_state_dict(self, state: dict[str, Any], folder: Path, step: int) -> None:
        self.part, self.pictures = state["part"], state["pictures"].clone()


weighing_splatfacto = MethodSpecification(
    config=splatfacto_with("weighing-splatfacto", WeighingConfig()), description="Photographs weighed by number."
)
joint_splatfacto = MethodSpecification(
    config=splatfacto_with("joint-splatfacto", JointConfig()), description="Four views made jointly."
)
