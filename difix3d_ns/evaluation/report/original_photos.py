"""Larger originals of photos that a training enlarged: what its pictures are compared with."""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report.training import Training
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.guidance.enlargement_factor import PARTS
from difix3d_ns.guidance.upscaled_photos import view_key


class OriginalPhotos:
    """Originals of the photos of a training that read reduced copies, or was told to reduce them.

    Args:
        training: whose scene may be gone; then there are none.
    """

    def __init__(self, training: Training) -> None:
        factor = getattr(training.config.pipeline.guidance, "factor", None)  # of a guidance that enlarges photos
        self._factor = None if factor is None else Fraction(factor).limit_denominator(PARTS)
        self._dataset = None if factor is None else training.dataset
        self._indices = {view_key(index): index for index in range(training.photos or 0)} if factor else {}

    def picture(self, key: str, height: int, width: int) -> Tensor | None:
        """Return the original of an upscaled photo [height, width, 3] in [0, 1], cropped as that is.

        Args:
            key: of the upscaled photo's view.
            height, width: of the upscaled photo, or of a smaller picture of it.

        Returns:
            None where no file is larger than the photo of training, or it cannot be read, or it is cut out and what
            is behind it is not known.
        """
        index = self._indices.get(key)
        if index is None or self._dataset is None or self._factor is None:
            return None
        camera, whole = self._dataset.cameras[index], self._factor.denominator
        sides = int(camera.height), int(camera.width)
        scale = width / (sides[1] // whole * whole)
        size = [max(own, round(side * scale)) for own, side in zip((height, width), sides, strict=True)]
        try:
            original = self._dataset.original(index, (size[1], size[0]))
        except UserError:
            return None
        if original is None or original.shape[-1] != 3:
            return None
        return resampled(original, *size)[:height, :width]
