"""A model rendered at pinholes, and the splat of one between training steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.views.protocols import Render


class RenderedModel(Protocol):
    """The part of a model that a renderer uses."""

    step: int
    training: bool

    @property
    def device(self) -> torch.device:
        """Device of what is rendered."""
        ...

    def eval(self) -> Any:
        """Leave training mode."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Enter training mode, or leave it."""
        ...

    def get_outputs_for_camera(self, camera: Cameras) -> dict[str, Any]:
        """Render ``rgb`` [H, W, 3] and ``accumulation`` [H, W, 1]; ``raw`` where ``rgb`` is enhanced."""
        ...

    def median_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render (depth [H, W, 1] along z, 0 where nothing is; accumulated opacity [H, W, 1]) from a camera."""
        ...


class ModelRenderer:
    """Renderer of a model of any kind; see ``views.protocols.Renderer``.

    Args:
        model: rendered in evaluation mode, without gradients, unseen by densification.
        fit_at: whether it is worth rendering at a step; always, if the training is over.
    """

    def __init__(self, model: RenderedModel, fit_at: Callable[[int], bool] = lambda step: True) -> None:
        self._rendered = model
        self._fit_at = fit_at
        self.lock: AbstractContextManager[object] = nullcontext()
        """held while it renders; training's, if it is used by another thread"""

    @property
    def step(self) -> int:
        """Step of training the model is at."""
        return self._rendered.step

    @property
    def device(self) -> torch.device:
        """Device of the model and its renders."""
        return self._rendered.device

    def fit_at(self, step: int) -> bool:
        """Return whether the splat is worth rendering: densified once, at full resolution, recovered from a reset."""
        return self._fit_at(step)

    @torch.no_grad()
    def render(self, camera: Pinhole, depth: bool = False, photo: int | None = None) -> Render:
        """Render what is seen from a camera, and on demand the median depth [H, W, 1] or a photograph's exposure."""
        model = self._rendered
        training = model.training
        with self.lock:
            model.eval()
            try:
                outputs = model.get_outputs_for_camera(to_cameras(camera))
                image = outputs["raw"] if "raw" in outputs else outputs["rgb"]
                if photo is not None:
                    image = self._as_photographed(image, photo)
                if not depth:
                    return Render(image, outputs["accumulation"])
                median, alpha = model.median_depth(camera)
                return Render(image, alpha, median)
            finally:
                model.train(training)

    def _as_photographed(self, image: Tensor, photo: int) -> Tensor:
        return image

    def median_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render (median depth [H, W, 1], accumulated opacity [H, W, 1]) from a camera."""
        with self.lock:
            return self._rendered.median_depth(camera)

    def exclusive(self) -> AbstractContextManager[object]:
        """Keep other threads from training meanwhile."""
        return self.lock


class SplatRenderer(ModelRenderer):
    """Renderer of a model's splat, with the exposures of photographs.

    Args:
        model: whose splat.
        fit_at: see ``ModelRenderer``.
    """

    def __init__(self, model: SplatModel, fit_at: Callable[[int], bool] = lambda step: True) -> None:
        super().__init__(model, fit_at)
        self._model = model

    def _as_photographed(self, image: Tensor, photo: int) -> Tensor:
        return self._model.as_photographed(image, photo)

    def surface_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        """Render (depth of the surface [H, W, 1], accumulated opacity [H, W, 1]) from a camera, on the CPU."""
        with self.lock:
            return self._model.surface_depth(camera)
