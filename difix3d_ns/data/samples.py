"""Samples from a splat: a render, the photograph taken there, and the photographs that show most of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.data.capture import Capture
from difix3d_ns.data.shards import Sample
from difix3d_ns.data.strategies import Unit
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.geometry.stereo import matching_neighbours
from difix3d_ns.geometry.warp import in_view
from difix3d_ns.metrics.psnr import psnr
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.views.references import choose_references

MIN_PSNR = 14.0  # dB: below this a render shows nothing a fixer could learn from


class UnitSamples:
    """Samples of a unit, one by one; ``scores`` has the PSNR of each render made so far.

    Args:
        capture: photographs and cameras.
        unit: the splat and the poses to render it at.
        references: photographs per sample, at most.
        most: samples, at most, evenly spaced.
        provenance: for each sample.
    """

    def __init__(self, capture: Capture, unit: Unit, references: int, most: int, provenance: dict[str, Any]):
        self.capture, self.unit, self.references, self.provenance = capture, unit, references, provenance
        self.poses = [unit.poses[i] for i in evenly_spaced(len(unit.poses), most)] if unit.poses else []
        self.scores: dict[int, float] = {}

    def __iter__(self) -> Iterator[Sample]:
        candidates = {view: self._reference(view) for view in self.unit.references}
        for index in self.poses:
            sample = self._sample(index, {view: r for view, r in candidates.items() if view != index})
            if sample is not None:
                yield sample

    @property
    def kept(self) -> list[float]:
        """PSNR of the renders that became samples."""
        return [score for score in self.scores.values() if score >= MIN_PSNR]

    def _sample(self, index: int, candidates: dict[int, PosedImage]) -> Sample | None:
        camera, truth = self.capture.cameras[index], self.capture.images[index]
        image, depth, alpha = self.unit.splat.render(camera)
        if self.capture.masks is not None and self.capture.background is None:
            # What nobody knows there, a fixer shall not learn to change.
            truth = torch.lerp(image, truth, self.capture.masks[index])
        self.scores[index] = psnr(image, truth)
        if self.scores[index] < MIN_PSNR:
            return None
        chosen = self._choose(index, candidates, camera, depth, alpha)
        depths = self.capture.depths
        return Sample(
            f"{self.provenance['scene']}/{self.unit.name}/{index:04d}",
            FixRequest(image, [candidates[view] for view in chosen], camera, depth, alpha),
            truth,
            None if depths is None else depths[index],
            None if depths is None or not chosen else torch.stack([depths[view] for view in chosen]),
            self.provenance,
        )

    def _choose(
        self, index: int, candidates: dict[int, PosedImage], camera: Pinhole, depth: Tensor, alpha: Tensor
    ) -> list[int]:
        """Views whose photographs are shown with a sample, best first."""
        views = list(candidates)
        if self.unit.strategy != "photographs":
            order = choose_references(camera, depth, alpha, list(candidates.values()), self.references)
            return [views[position] for position in order]
        points = self.capture.points
        photographs = [PosedImage(self.capture.images[index], camera), *candidates.values()]
        seen = [in_view(points, photograph.pose)[0] for photograph in photographs]
        order = matching_neighbours(0, photographs, points, seen, self.references)
        # where too few points are shared, by cameras alone
        order = order or matching_neighbours(0, photographs, None, None, self.references)
        return [views[position - 1] for position in order]

    def _reference(self, index: int) -> PosedImage:
        _, depth, alpha = self.unit.splat.render(self.capture.cameras[index])
        mask = None if self.capture.masks is None else self.capture.masks[index]
        return PosedImage(self.capture.images[index], self.capture.cameras[index], depth, alpha, mask)
