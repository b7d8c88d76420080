"""Held-out photos of a splat that is meant to be rendered larger than the photos it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.photo_dataset import PhotoDataset


class LargerViews:
    """Cameras and truth of held-out photos at a multiple of the size of training.

    Args:
        dataset: of the photos.
        factor: by which sides are longer.
    """

    def __init__(self, dataset: PhotoDataset, factor: float) -> None:
        self._dataset = dataset
        self._factor = factor

    def camera(self, index: int) -> Pinhole:
        """Camera of a photograph, with more pixels over the same field of view."""
        camera = to_pinhole(self._dataset.cameras[index : index + 1])
        return camera.resized(round(self._factor * camera.width), round(self._factor * camera.height))

    def original(self, index: int) -> Tensor | None:
        """Read a photograph [H, W, 3 or 4] at the larger size, or that of its file where that is smaller.

        Returns:
            None unless the files of all photographs are larger than they are trained at: a mean is of all.
        """
        camera = self.camera(index)
        return self._dataset.original(index, (camera.width, camera.height)) if self._complete else None

    @cached_property
    def _complete(self) -> bool:
        return all(self._dataset.original_size(index) is not None for index in range(len(self._dataset)))


def reduced_outputs(outputs: Mapping[str, Any], height: int, width: int, keys: Sequence[str]) -> dict[str, Tensor]:
    """Reduce pictures of a render, antialiased and bicubic.

    Args:
        outputs: pictures [H, W, 3] in [0, 1], or one colour [3].
        height, width: pixels.
        keys: of the pictures; those that are not there are left out.

    Returns:
        [height, width, 3] each, or [3].
    """
    values = {key: outputs[key] for key in keys if key in outputs}
    return {key: resampled(value, height, width) if value.ndim == 3 else value for key, value in values.items()}
