"""The fixer applied to a finished render: in the viewer, in ns-render and in ns-eval."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.enhance.temporal import Continuity
from difix3d_ns.errors import UserError
from difix3d_ns.ns.reference_views import ReferenceViews, to_pinhole
from difix3d_ns.ns.viewer.live import LiveEnhancer
from difix3d_ns.ns.viewer.render_thread import render_thread
from difix3d_ns.priors.base import Fixer, FixRequest
from difix3d_ns.priors.registry import load_fixer

if TYPE_CHECKING:
    from difix3d_ns.ns.model import SplatModel


@dataclass
class FixerSettings:
    """Which fixer repairs pseudo-views and enhances renders."""

    name: str = "embedded"
    """none, blend, embedded, any other file in difix3d_ns/fixers, or package.module of a fixer of yours"""
    weights: str | None = None
    """a file or folder of weights, or for difix a hub id, which downloads (unset: the fixer's own)"""
    references: int = 3
    """photographs shown to the fixer: the gain of a fourth was within noise, of the third it was not"""
    strength: float = 0.5
    """0 = the render, 1 = the fixer's picture, in the enhanced output; a splat trained with pseudo-views has learnt
    most of what the fixer knows, and half of the change did best there. Plain splats gain most from 1"""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """precision of the fixer's networks: float32, bfloat16 or float16 (unset: the fastest the device handles well)"""
    compile: bool = False
    """compile the networks of the fixer difix for each size of pictures: minutes once, faster afterwards on CUDA"""

    def load(self, device: torch.device) -> Fixer:
        """The fixer, loaded once per process.

        Raises:
            UserError: its name or weights are unusable.
        """
        dtype = getattr(torch, self.dtype) if self.dtype else None
        try:
            return load_fixer(self.name, self.weights, str(device), dtype, self.compile)
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(
                f"the fixer {self.name!r} cannot be loaded (--pipeline.fixer.name, --pipeline.fixer.weights "
                f"or DIFIX3D_WEIGHTS): {error}"
            ) from error


class Enhancer:
    """Repairs one render at a time with the photographs that see the same surfaces.

    Args:
        settings: the fixer and its strength.
        photographs: where references come from.
        model: the splat that is looked at.
    """

    def __init__(self, settings: FixerSettings, photographs: ReferenceViews, model: SplatModel) -> None:
        self.settings = settings
        """replaced as a whole in the viewer"""
        self._photographs = photographs
        self._model = model
        self._lock = threading.Lock()
        self.training_lock: AbstractContextManager[Any] = nullcontext()
        """held while another thread than the trainer's renders the splat; set by the pipeline"""
        self.continuity = Continuity()
        self.live = LiveEnhancer(self.enhance)
        """for the viewer"""

    def __call__(self, camera: Cameras, outputs: dict[str, Any]) -> Tensor:
        """The enhanced picture [H, W, 3] of a render, when somebody reads the output; in the viewer, see ``live``."""
        thread = render_thread()
        if thread is not None:
            return self.live.picture(thread, camera, outputs)
        if self._model.is_being_trained:
            return outputs["rgb"]  # evaluation in between; and it holds the lock a viewer may be waiting for
        return self._enhance(camera, outputs, nullcontext(), threading.current_thread())

    def enhance(self, camera: Cameras, outputs: dict[str, Any]) -> Tensor:
        """The same, from any thread beside the trainer's.

        Raises:
            UserError: the fixer is unusable.
        """
        thread = render_thread()  # frames of one tab follow each other; resting views that a worker serves do not
        return self._enhance(camera, outputs, self.training_lock, thread)

    @torch.no_grad()
    def _enhance(
        self, camera: Cameras, outputs: dict[str, Any], rendering: AbstractContextManager[Any], caller: Any
    ) -> Tensor:
        settings = self.settings
        if settings.strength == 0 or outputs["rgb"].numel() == 0:
            return outputs["rgb"]
        pinhole = to_pinhole(camera)
        with self._lock:
            with rendering:
                depth, alpha = self._model.median_depth(
                    pinhole.camera_to_world, pinhole.intrinsics, pinhole.width, pinhole.height
                )
            frame = self.continuity.frame(caller, pinhole, depth, alpha, (settings, self._model.step))
            indices = self._photographs.choose_indices(
                pinhole, depth, alpha, settings.references, rendering, frame.former_references
            )
            references = [self._photographs.reference(index) for index in indices]
            request = FixRequest(outputs["rgb"], references, pinhole, depth, alpha)
            with rendering:  # loading draws from the random generator that training draws from
                fixer = settings.load(depth.device)
            fixed = fixer.fix([request])[0].image
            fixed = frame.settle(outputs["rgb"], fixed.to(outputs["rgb"]), indices)
        return torch.lerp(outputs["rgb"], fixed, settings.strength).clamp(0, 1)
