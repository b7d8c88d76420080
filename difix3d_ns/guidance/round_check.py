"""Check of a round of upscaled photographs: how far they agree, and the confidence in each pixel of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from difix3d_ns.guidance.upscaled_photos import EnlargedPhotos, view_key
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.protocols import Renderer

MEASURED = 8
"""photographs whose agreement is measured after each round"""
NEIGHBOURS = 2
"""nearest photographs that each of them is compared with, among those that are measured"""

Weighed = Callable[[int, Tensor], None]
"""called with a photograph's index and its confidence [H, W, 1]"""


class _Pictures(Sequence[Tensor]):
    """Upscaled photographs [H, W, 3] on the CPU, read when they are asked for."""

    def __init__(self, pool: Pool, indices: Sequence[int]) -> None:
        self._pool, self._indices = pool, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        return self._pool.get(view_key(self._indices[place])).image


class RoundCheck:
    """Check of a round, piece by piece: depths, then the agreement, then the confidence of each photograph.

    Nothing is kept between rounds: interrupted, a check is begun again and comes to the same.

    Args:
        photos: and their cameras.
        renderer: of the splat whose depth says what shows the same.
        pool: of the upscaled photographs.
        order: of the photographs along their path.
        weighed: told the confidence of each photograph, which its view in the pool then has; None: it is not computed.
    """

    def __init__(
        self, photos: EnlargedPhotos, renderer: Renderer, pool: Pool, order: Sequence[int], weighed: Weighed | None
    ) -> None:
        self._photos, self._renderer, self._pool, self._weighed = photos, renderer, pool, weighed
        self._all = sorted(order)
        self._measured = sorted(order[: len(order) // 2 + MEASURED // 2][-MEASURED:])
        self._depths: dict[int, Tensor] = {}
        self._left: list[int] = []
        self._agreements: Iterator[float] | None = None
        self._so_far = 0.0
        self.running = False
        self.agreement: float | None = None
        """of the round that was checked last; None where fewer than two photographs could be compared"""

    def begin(self) -> None:
        """Begin with a round whose photographs are all in the pool."""
        self.running, self.agreement, self._depths, self._agreements = True, None, {}, None
        self._left = self._made(self._all) if self._weighed is not None else []

    def piece(self) -> None:
        """Do one bounded piece; with the last one ``running`` ends."""
        made = self._made(self._all if self._weighed is not None else self._measured)
        missing = [index for index in made if index not in self._depths] if len(made) > 1 else []
        if missing:
            camera = self._photos.camera(missing[0], optimised=True)
            self._depths[missing[0]] = self._renderer.median_depth(camera)[0].cpu()
        elif len(made) > 1 and self.agreement is None:
            self._measure()
        elif len(made) > 1 and self._left:
            self._weigh(self._left.pop(0), made)
        if not missing and (len(made) < 2 or (self.agreement is not None and not self._left)):
            self.running, self._depths = False, {}

    def _made(self, indices: Sequence[int]) -> list[int]:
        return [index for index in indices if view_key(index) in self._pool]

    def _measure(self) -> None:
        from difix3d_ns.metrics.agreement import agreement_so_far

        if self._agreements is None:
            made = self._made(self._measured)
            cameras = [self._photos.camera(index, optimised=True) for index in made]
            depths, factor = [self._depths[index] for index in made], float(self._photos.factor)
            self._agreements = agreement_so_far(_Pictures(self._pool, made), cameras, depths, factor, NEIGHBOURS)
        found = next(self._agreements, None)
        if found is None:
            self.agreement, self._agreements = self._so_far, None
        else:
            self._so_far = found

    def _weigh(self, index: int, made: Sequence[int]) -> None:
        from difix3d_ns.guidance.detail_confidence import detail_confidence

        assert self._weighed is not None
        cameras = [self._photos.camera(other, optimised=True) for other in made]
        depths = [self._depths[other] for other in made]
        pictures, factor = _Pictures(self._pool, made), float(self._photos.factor)
        confidence = detail_confidence(made.index(index), pictures, cameras, depths, factor)
        self._pool.put(replace(self._pool.get(view_key(index)), confidence=confidence))
        self._weighed(index, confidence)
