"""The fixer applied to a finished render: in the viewer, in ns-render and in ns-eval."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.fixers import load_fixer
from difix3d_ns.fixers.contract import Fixer, FixRequest
from difix3d_ns.photographs import Photographs, to_pinhole
from difix3d_ns.viewer import render_thread

if TYPE_CHECKING:
    from difix3d_ns.model import Difix3DModel


@dataclass
class FixerSettings:
    """Which fixer repairs pseudo-views and enhances renders."""

    name: str = "embedded"
    """none, blend, embedded, or any other file in difix3d_ns/fixers"""
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
            with torch.random.fork_rng():  # a network is initialised at random before it is loaded
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

    def __init__(self, settings: FixerSettings, photographs: Photographs, model: Difix3DModel) -> None:
        self._settings = settings
        self._photographs = photographs
        self._model = model
        self._lock = threading.Lock()
        self.training_lock: AbstractContextManager[Any] = nullcontext()
        """held while another thread than the trainer's renders the splat; set by the pipeline"""
        self.enabled = True
        self.strength: float | None = None
        """set in the viewer; overrides the settings"""

    def __call__(self, camera: Cameras, outputs: dict[str, Any]) -> Tensor:
        """The enhanced picture [H, W, 3] of a render; the render itself while a viewer's camera moves.

        Called when somebody reads the output, possibly from a render thread of the viewer: there an error is shown
        and the render returned, anywhere else it is raised.
        """
        thread = render_thread()
        if thread is None:
            if self._model.is_being_trained:
                return outputs["rgb"]  # evaluation in between; and it holds the lock a viewer may be waiting for
            return self._enhance(camera, outputs, nullcontext())
        if thread.state != "high" or not self.enabled:
            return outputs["rgb"]
        try:
            return self._enhance(camera, outputs, self.training_lock)
        except Exception as error:  # the render thread must survive whatever a fixer does
            CONSOLE.log(f"[yellow]The enhancer failed, showing the plain render: {error}")
            return outputs["rgb"]

    @torch.no_grad()
    def _enhance(self, camera: Cameras, outputs: dict[str, Any], rendering: AbstractContextManager[Any]) -> Tensor:
        strength = self._settings.strength if self.strength is None else self.strength
        if strength == 0 or outputs["rgb"].numel() == 0:
            return outputs["rgb"]
        pinhole = to_pinhole(camera)
        with self._lock:
            with rendering:
                depth, alpha = self._model.median_depth(
                    pinhole.camera_to_world, pinhole.intrinsics, pinhole.width, pinhole.height
                )
            references = self._photographs.choose(pinhole, depth, alpha, self._settings.references, rendering)
            request = FixRequest(outputs["rgb"], references, pinhole, depth, alpha)
            fixed = self._settings.load(depth.device).fix([request])[0].image
        return torch.lerp(outputs["rgb"], fixed.to(outputs["rgb"]), strength).clamp(0, 1)
