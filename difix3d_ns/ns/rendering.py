"""The splat of a model, rendered at pinholes between training steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.views.protocols import Render


class SplatRenderer:
    """Renderer of a model's splat; see ``views.protocols.Renderer``.

    Args:
        model: whose splat; rendered in evaluation mode, without gradients, unseen by densification.
        fit_at: whether the splat is worth rendering at a step; always, if the training is over.
    """

    def __init__(self, model: SplatModel, fit_at: Callable[[int], bool] = lambda step: True) -> None:
        self._model = model
        self._fit_at = fit_at
        self.lock: AbstractContextManager[object] = nullcontext()
        """held while it renders; training's, if it is used by another thread"""

    @property
    def step(self) -> int:
        """Step of training the splat is at."""
        return self._model.step

    @property
    def device(self) -> torch.device:
        """Device of the splat and its renders."""
        return self._model.device

    def fit_at(self, step: int) -> bool:
        """Return whether the splat is worth rendering: densified once, at full resolution, recovered from a reset."""
        return self._fit_at(step)

    @torch.no_grad()
    def render(self, camera: Pinhole, depth: bool = False, photo: int | None = None) -> Render:
        """Render what is seen from a camera, and on demand the median depth [H, W, 1] or a photograph's exposure."""
        model = self._model
        training = model.training
        with self.lock:
            model.eval()
            try:
                outputs = model.get_outputs_for_camera(to_cameras(camera))
                image = outputs["raw"] if "raw" in outputs else outputs["rgb"]
                if photo is not None:
                    image = model.as_photographed(image, photo)
                if not depth:
                    return Render(image, outputs["accumulation"])
                median, alpha = model.median_depth(camera)
                return Render(image, alpha, median)
            finally:
                model.train(training)

    def median_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render (median depth [H, W, 1], accumulated opacity [H, W, 1]) from a camera."""
        with self.lock:
            return self._model.median_depth(camera)

    def surface_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render (depth of the surface [H, W, 1], accumulated opacity [H, W, 1]) from a camera, on the CPU."""
        with self.lock:
            return self._model.surface_depth(camera)

    def exclusive(self) -> AbstractContextManager[object]:
        """Keep other threads from training meanwhile."""
        return self.lock
