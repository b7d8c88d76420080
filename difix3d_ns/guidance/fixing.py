"""Views rendered and repaired by a fixer that leans on photographs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.views.protocols import References, Renderer

_PHOTOGRAPHS_PER_VIEW = {"cpu": 8, "cuda": 2}
"""at which the splat is rendered in a step that prepares references, for each view that a step may make: takes no
longer than repairing these views. A number and no time, so that trainings can be repeated. A GPU repairs views together
and renders one after the other"""
MIN_CONFIDENCE = 0.02
"""mean confidence of a view below which its step goes to a photograph: a fixer without confidence must not take
half of the training away either"""
UNSEEN_WEIGHT = 0.2
"""of what a generative fixer makes up where no photograph shows anything: a made view against a photograph in the
official training of Gaussians (0.3 : 1.5). Nobody else teaches such places, so they are learnt all the same; where a
photograph does show one, and the confidence is wrong, it counts five times as much"""
MIN_OPACITY = 0.5
"""beyond which a pixel counts as shown by the splat: the official mask of what made views teach"""


@dataclass(frozen=True)
class FixedView:
    """A repaired render with the request it came from."""

    request: FixRequest
    result: FixResult
    references: tuple[int, ...]  # photographs it was shown, most useful first
    seconds: float  # of rendering and repairing it


class ViewFixer:
    """Renderer of the splat at given cameras, with a fixer that repairs what is seen.

    Args:
        config: of the fixer, which is loaded when the first view is made.
        renderer: of the splat.
        references: the photographs.
        unseen_weight: smallest confidence of a generative fixer where the splat is opaque, whether or not a photograph
            shows it; None: ``UNSEEN_WEIGHT``. Other fixers take none.
    """

    def __init__(
        self, config: FixerConfig, renderer: Renderer, references: References, unseen_weight: float | None = None
    ) -> None:
        self._config = config
        self._renderer = renderer
        self._references = references
        self._unseen_weight = unseen_weight
        self._fixer: Fixer | None = None

    def load(self) -> Fixer:
        """Load the fixer, once.

        Raises:
            UserError: its name or weights are unusable, or it cannot teach what no photograph shows and has to.
        """
        if self._fixer is None:
            fixer = self._config.load(self._renderer.device)
            if self._unseen_weight and not fixer.generative:
                raise UserError(
                    f"--pipeline.guidance.unseen-weight {self._unseen_weight}: the fixer {self._config.name!r} carries "
                    "over what photos show and has nothing to teach elsewhere; leave the flag out, or choose a "
                    "generative fixer (--pipeline.guidance.fixer.name difix)"
                )
            self._fixer = fixer
        return self._fixer

    @property
    def references(self) -> int:
        """Number of photographs the fixer is shown."""
        return self._config.references_for(self.load())

    @property
    def unseen_weight(self) -> float:
        """Smallest confidence where the splat is opaque."""
        if not self.load().generative:
            return 0.0
        return UNSEEN_WEIGHT if self._unseen_weight is None else self._unseen_weight

    def describe(self) -> list[str]:
        """Sentences for users on what the fixer is shown, and on what it teaches where no photograph shows anything."""
        sentences = [self.load().describe(self.references)]
        if self.load().generative:
            weight = self.unseen_weight
            teaches = f"teaches with weight {weight:g}" if weight else "teaches nothing"
            sentences.append(
                f"the fixer makes up what no photo shows, and {teaches} there (--pipeline.guidance.unseen-weight)"
            )
        return [sentence for sentence in sentences if sentence]

    def prepare(self, cameras: Sequence[Pinhole], budget: int) -> bool:
        """Render a part of what choosing references for ``cameras`` needs; True: nothing is left.

        Args:
            cameras: of the views that are made next.
            budget: views that a step may make.
        """
        photographs = _PHOTOGRAPHS_PER_VIEW[self._renderer.device.type] * budget
        return not self.references or self._references.prepare(cameras, photographs)

    @torch.no_grad()
    def fix(self, cameras: Sequence[Pinhole], seeds: Sequence[int]) -> list[FixedView]:
        """Render and repair some views together.

        Args:
            cameras: where they are seen from.
            seeds: one for each.
        """
        started = time.perf_counter()
        fixer = self.load()
        requests, shown = [], []
        for camera, seed in zip(cameras, seeds, strict=True):
            render = self._renderer.render(camera, depth=True)
            chosen = self._references.select(camera, render, self.references)
            views = [self._references.view(index) for index in chosen]
            requests.append(FixRequest(render.image, views, camera, render.depth, render.alpha, seed))
            shown.append(tuple(chosen))
        results = [
            _teach_unseen(request, result, self.unseen_weight)
            for request, result in zip(requests, fixer.fix(requests), strict=True)
        ]
        if self._renderer.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - started) / len(requests)
        return [FixedView(*made, seconds) for made in zip(requests, results, shown, strict=True)]


def _teach_unseen(request: FixRequest, result: FixResult, weight: float) -> FixResult:
    """Raise the confidence to at least ``weight`` where the splat is opaque; that of the depth stays."""
    if not weight or request.alpha is None:
        return result
    shown = (request.alpha > MIN_OPACITY) & request.image.isfinite().all(-1, keepdim=True)
    depth_confidence = result.confidence if result.depth_confidence is None else result.depth_confidence
    confidence = torch.maximum(result.confidence, weight * shown.to(result.confidence))
    return replace(result, confidence=confidence, depth_confidence=depth_confidence)
