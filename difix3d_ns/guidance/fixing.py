"""Views rendered and repaired by a fixer that leans on photographs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.views.protocols import References, Renderer

_PHOTOGRAPHS_PER_VIEW = 8
"""at which the splat is rendered in a step that prepares references: takes no longer than repairing a view"""


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
    """

    def __init__(self, config: FixerConfig, renderer: Renderer, references: References) -> None:
        self._config = config
        self._renderer = renderer
        self._references = references
        self._fixer: Fixer | None = None

    def load(self) -> Fixer:
        """Load the fixer, once.

        Raises:
            UserError: its name or weights are unusable.
        """
        if self._fixer is None:
            self._fixer = self._config.load(self._renderer.device)
        return self._fixer

    def prepare(self, cameras: Sequence[Pinhole], budget: int) -> bool:
        """Render a part of what choosing references for ``cameras`` needs; True: nothing is left.

        Args:
            cameras: of the views that are made next.
            budget: views that a step may make.
        """
        return not self._config.references or self._references.prepare(cameras, _PHOTOGRAPHS_PER_VIEW * budget)

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
            chosen = self._references.select(camera, render, self._config.references)
            views = [self._references.view(index) for index in chosen]
            requests.append(FixRequest(render.image, views, camera, render.depth, render.alpha, seed))
            shown.append(tuple(chosen))
        results = fixer.fix(requests)
        if self._renderer.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - started) / len(requests)
        return [FixedView(*made, seconds) for made in zip(requests, results, shown, strict=True)]
