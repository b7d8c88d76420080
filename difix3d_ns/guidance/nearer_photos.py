"""Real detail for a photograph from others that saw the same surfaces from nearer, before anything is generated."""

from __future__ import annotations

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import back_project
from difix3d_ns.geometry.warp import in_view, unproject
from difix3d_ns.guidance.upscaled_photos import EnlargedPhotos
from difix3d_ns.priors.base import Fixer, FixRequest, default_references
from difix3d_ns.views.protocols import References, Render, Renderer

MIN_RATIO = 1.25
"""pixels per length of another photograph over the own ones from which it has detail that this one lacks"""


class NearerPhotos:
    """Photographs at a multiple of their size with the detail of nearer ones.

    Args:
        photos: at their multiple.
        renderer: of the splat, whose depth aligns them.
        references: the photographs as references.
        fixer: that aligns references and carries their detail over.
        from_renders: whether detail is added to renders of the splat, which must be good, or to enlarged photographs.
    """

    def __init__(
        self,
        photos: EnlargedPhotos,
        renderer: Renderer,
        references: References,
        fixer: Fixer,
        from_renders: bool = False,
    ) -> None:
        self._photos, self._renderer, self._references, self._fixer = photos, renderer, references, fixer
        self._from_renders = from_renders

    def picture(self, index: int, count: int) -> Tensor:
        """Return the photograph [H, W, 3], enlarged, with what nearer ones show better; it agrees with the photograph.

        Args:
            index: of the photograph.
            count: of all photographs.
        """
        camera, low = self._photos.camera(index, optimised=True), _planes(self._photos.low(index))
        render = self._renderer.render(camera, depth=True, photo=index)
        shown = render.image if self._from_renders else self._photos.enlarged(index)
        enlarged = back_project(_planes(shown), low)
        chosen = self._nearer(index, camera, render, count)
        if chosen:
            picture = enlarged[0].permute(1, 2, 0)
            references = [self._references.view(other) for other in chosen]
            request = FixRequest(picture, references, camera, render.depth, render.alpha)
            enlarged = back_project(_planes(self._fixer.fix([request])[0].image), low)
        return enlarged[0].permute(1, 2, 0)

    def _nearer(self, index: int, camera: Pinhole, render: Render, count: int) -> list[int]:
        """Return the photographs with more pixels per length, those first that show most."""
        assert render.depth is not None
        points, seen = unproject(render.depth, camera), render.depth[..., 0] > 0
        own = camera.intrinsics[0, 0] / float(self._photos.factor) / render.depth[..., 0]  # pixels of the photograph
        found = []
        for other in self._references.select(camera, render, count):
            if other == index:
                continue
            there = self._photos.camera(other, optimised=True)
            inside, _, depth = in_view(points, there)
            both = inside & seen
            if bool(both.any()):
                ratio = there.intrinsics[0, 0] / float(self._photos.factor) / depth[both] / own[both]
                if float(ratio.median()) > MIN_RATIO:
                    found.append(other)
        return found[: default_references(self._fixer)]


def _planes(picture: Tensor) -> Tensor:  # [H, W, 3] -> [1, 3, H, W]
    return picture.to(torch.float32).permute(2, 0, 1)[None]
