"""A fixer applied to finished renders: in the viewer, in ns-render and in ns-eval."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.enhance.temporal import Frame, TemporalFilter
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.device_memory import return_unused_memory
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.views.protocols import References, Render, Renderer


@dataclass(frozen=True)
class EnhancerSettings:
    """Present settings of an enhancer."""

    fixer: FixerConfig
    strength: float  # 0 = the render, 1 = the fixer's picture


class Enhancer:
    """Repairer of one render at a time with the photographs that see the same surfaces.

    Args:
        settings: fixer and strength; replaced as a whole in the viewer.
        renderer: of the splat that is shown.
        references: the photographs.
    """

    def __init__(self, settings: EnhancerSettings, renderer: Renderer, references: References) -> None:
        self.settings = settings
        self._renderer = renderer
        self._references = references
        self.references: int | None = None
        """number of photographs the fixer was last to be shown"""
        self._fetched: FixerConfig | None = None
        self._lock = threading.Lock()
        self.temporal_filter = TemporalFilter()

    @torch.no_grad()
    def enhance(self, camera: Pinhole, image: Tensor, caller: Any = None) -> Tensor:
        """Return the enhanced picture [H, W, 3] of a render.

        Args:
            camera: of the render.
            image: [H, W, 3] in [0, 1].
            caller: whose frames follow each other, see ``TemporalFilter.previous``; None: a picture of its own.

        Raises:
            UserError: the fixer is unusable, or memory does not suffice: a plain render must not pass for an enhanced
                one, in a video or in metrics.
        """
        settings = self.settings
        if settings.strength == 0 or image.numel() == 0:
            return image
        try:
            return self._enhanced(settings, camera, image, caller)
        except torch.cuda.OutOfMemoryError:
            pass
        return_unused_memory()  # outside of that clause the failed attempt's tensors are gone
        raise UserError(
            f"memory does not suffice to enhance a picture of {image.shape[1]}x{image.shape[0]}; make it smaller "
            "(--downscale-factor 2 of ns-render, the resolution in the viewer), or use the plain render "
            "(ns-render --rendered-output-names rgb)"
        )

    def _enhanced(self, settings: EnhancerSettings, camera: Pinhole, image: Tensor, caller: Any) -> Tensor:
        with self._lock:
            depth, alpha = self._renderer.median_depth(camera)
            version = (settings, self._renderer.step)
            previous = self.temporal_filter.previous(caller, camera, depth, alpha, version)
            kept = previous.references if previous else ()
            if settings.fixer != self._fetched:
                settings.fixer.fetch("--pipeline.enhancer")  # training goes on meanwhile
                self._fetched = settings.fixer
            with self._renderer.exclusive():  # loading draws from the random generator that training draws from
                fixer = settings.fixer.load(depth.device, "--pipeline.enhancer")
            self.references = settings.fixer.references_for(fixer)
            indices = self._references.select(camera, Render(image, alpha, depth), self.references, kept)
            views = [self._references.view(index) for index in indices]
            fixed = fixer.fix([FixRequest(image, views, camera, depth, alpha)])[0].image.to(image)
            frame = Frame(camera, depth, alpha, version, tuple(indices), fixed - image)
            fixed = image + self.temporal_filter.blend_with_previous(caller, frame, previous)
        return torch.lerp(image, fixed, settings.strength).clamp(0, 1)
