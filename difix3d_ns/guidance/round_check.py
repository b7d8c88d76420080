"""Check of pictures of the photographs, enlarged or upscaled: how far they show the same detail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from difix3d_ns.guidance.upscaled_photos import EnlargedPhotos
from difix3d_ns.views.protocols import Renderer

MEASURED = 8
"""photographs whose agreement is measured"""
NEIGHBOURS = 2
"""nearest photographs that each of them is compared with, among those that are measured"""


class _Pictures(Sequence[Tensor]):
    """Pictures [H, W, 3] of photographs, made when they are asked for."""

    def __init__(self, picture: Callable[[int], Tensor], indices: Sequence[int]) -> None:
        self._picture, self.indices = picture, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        return self._picture(self.indices[place]).cpu()


class RoundCheck:
    """Measure of the agreement, piece by piece: depths, then one photograph after the other.

    Nothing is kept between checks: interrupted, one is begun again and comes to the same.

    Args:
        photos: and their cameras.
        renderer: of the splat whose depth says what shows the same.
        order: of the photographs along their path.
    """

    def __init__(self, photos: EnlargedPhotos, renderer: Renderer, order: Sequence[int]) -> None:
        self._photos, self._renderer = photos, renderer
        self._measured = sorted(order[: len(order) // 2 + MEASURED // 2][-MEASURED:])
        self._depths: dict[int, Tensor] = {}
        self._agreements: Iterator[float] | None = None
        self._pictures = _Pictures(photos.enlarged, [])
        self._so_far = 0.0
        self.running = False
        self.agreement: float | None = None
        """of what was checked last; None where fewer than two photographs could be compared"""

    def begin(self, picture: Callable[[int], Tensor], made: Callable[[int], bool] = lambda index: True) -> None:
        """Begin with pictures of the photographs.

        Args:
            picture: of a photograph, [H, W, 3] at the large size.
            made: whether there is one.
        """
        self.running, self.agreement, self._depths, self._agreements, self._so_far = True, None, {}, None, 0.0
        self._pictures = _Pictures(picture, [index for index in self._measured if made(index)])

    def piece(self) -> None:
        """Do one bounded piece; with the last one ``running`` ends."""
        indices = self._pictures.indices
        missing = [index for index in indices if index not in self._depths] if len(indices) > 1 else []
        if missing:
            camera = self._photos.camera(missing[0], optimised=True)
            self._depths[missing[0]] = self._renderer.median_depth(camera)[0].cpu()
        elif len(indices) > 1:
            self._measure()
        if not missing and (len(indices) < 2 or self.agreement is not None):
            self.running, self._depths = False, {}

    def _measure(self) -> None:
        from difix3d_ns.metrics.agreement import agreement_so_far

        if self._agreements is None:
            indices = self._pictures.indices
            cameras = [self._photos.camera(index, optimised=True) for index in indices]
            depths, factor = [self._depths[index] for index in indices], float(self._photos.factor)
            self._agreements = agreement_so_far(self._pictures, cameras, depths, factor, NEIGHBOURS)
        try:
            found = next(self._agreements, None)
        except BaseException:
            self._agreements = None  # it would say that it had come to its end
            raise
        if found is None:
            self.agreement, self._agreements = self._so_far, None
        else:
            self._so_far = found
