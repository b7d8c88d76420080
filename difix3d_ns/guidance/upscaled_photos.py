"""Photographs at a multiple of their size: cameras, maps, records and files."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.geometry.resize import resized
from difix3d_ns.guidance.enlargement_factor import PARTS, enlarged_side
from difix3d_ns.views.protocols import Scene
from difix3d_ns.views.records import About, ViewRecord, panels_of
from difix3d_ns.views.view import TrainView

UPSCALED_FOLDER = "upscaled"
"""in a training's: photos as they were upscaled last, for people"""
_RECORD_LONG_SIDE = 960
LOW, HIGH, RENDER = "Enlarged", "Upscaled", "Render"

ABOUT_UPSCALED = About(
    "Photos, upscaled",
    "Each photo as it is (enlarged bicubically), and as the upscaler made it in each round. From the second round on "
    "the upscaler is shown the splat's render at the photo's camera, which has learnt from all photos. Training learns "
    "from the result.",
    "Upscaled photos",
    24,
)


def view_key(index: int) -> str:
    """Return the key of a photograph's upscaled view."""
    return f"photo/{index:04d}"


class EnlargedPhotos:
    """Photographs of a scene with what belongs to each at a multiple of its size.

    Where the multiple of a side is no whole number, rows or columns at its end are cropped, nothing is squashed.

    Args:
        scene: the photographs.
        factor: a multiple of a fourth.
    """

    def __init__(self, scene: Scene, factor: float) -> None:
        self._scene = scene
        self.factor = Fraction(factor).limit_denominator(PARTS)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a photograph, cropped."""
        camera, whole = self._scene.unoptimized_camera(index), self.factor.denominator
        return camera.height // whole * whole, camera.width // whole * whole

    def high_size(self, index: int) -> tuple[int, int]:
        """Height and width of its upscaled picture."""
        camera = self._scene.unoptimized_camera(index)
        return enlarged_side(camera.height, self.factor), enlarged_side(camera.width, self.factor)

    def camera(self, index: int, optimised: bool = False) -> Pinhole:
        """Camera of the upscaled picture, with or without the photograph's pose correction."""
        camera = self._scene.camera(index) if optimised else self._scene.unoptimized_camera(index)
        height, width = self.size(index)
        high_height, high_width = self.high_size(index)
        return replace(camera, width=width, height=height).resized(high_width, high_height)

    def low(self, index: int) -> Tensor:
        """Photograph [h, w, 3], cropped; a cut-out one stands before the scene's background."""
        height, width = self.size(index)
        return self._scene.photo(index).image[:height, :width]

    def low_maps(self, index: int) -> dict[str, Tensor]:
        """Return what the small loss needs of a photograph: "low", and where it has them "used" and "alpha"."""
        height, width = self.size(index)
        maps = {"low": self.low(index), "used": self._scene.used(index), "alpha": self._scene.alpha(index)}
        return {name: values[:height, :width] for name, values in maps.items() if values is not None}

    def enlarged(self, index: int) -> Tensor:
        """Photograph enlarged bicubically [H, W, 3]."""
        return resampled(self.low(index), *self.high_size(index))

    def view(self, index: int, picture: Tensor) -> TrainView:
        """Return the view that stands for a photograph, with an upscaled picture [H, W, 3] of it."""
        maps, size = self.low_maps(index), self.high_size(index)
        return TrainView(
            view_key(index),
            self.camera(index),
            picture,
            photo=index,
            valid=resized(maps["used"], *size, "nearest-exact") if "used" in maps else None,
            alpha=resampled(maps["alpha"], *size) if "alpha" in maps else None,
        )


def record_upscaled(
    index: int,
    name: str,
    group: str,
    order: int,
    step: int,
    seconds: float,
    low: Tensor,
    high: Tensor,
    render: Tensor | None = None,
) -> ViewRecord:
    """Keep small pictures of an upscaled photograph.

    Args:
        index, name: of the photograph.
        group, order: of the round.
        step: of training.
        seconds: it took.
        low: [H, W, 3] the photograph, enlarged.
        high: [H, W, 3] upscaled.
        render: [H, W, 3] that the upscaler was shown, if it was.

    Returns:
        A record with the number "added", the mean absolute difference of the enlarged and the upscaled photograph.
    """
    pictures = {LOW: low.cpu(), HIGH: high.cpu()} | ({} if render is None else {RENDER: render.cpu()})
    return ViewRecord(
        key=view_key(index),
        group=group,
        order=order,
        title=name,
        step=step,
        seconds=seconds,
        pairs=((LOW, HIGH), *(((RENDER, HIGH),) if render is not None else ())),
        numbers={"added": float((pictures[HIGH] - pictures[LOW]).abs().mean())},
        panels=panels_of(pictures, _RECORD_LONG_SIDE),
    )
