"""Likeness of a splat to the photographs."""

from __future__ import annotations

from difix3d_ns.views.protocols import Renderer, Scene

MIN_PSNR = 15.0
"""dB between photographs and renders of a splat; below, it is of another scene or in other coordinates"""
_CHECKED = 3


def checked_photographs(count: int) -> list[int]:
    """Choose a few photographs of ``count``, evenly, by which a splat is judged."""
    return sorted({round(place * (count - 1) / (_CHECKED - 1)) for place in range(_CHECKED)})


def psnr_at(scene: Scene, renderer: Renderer, index: int) -> float:
    """PSNR in dB of the splat's render at a photograph, where it is used."""
    photo, used = scene.photo(index), scene.mask(index)
    error = (renderer.render(photo.pose, photo=index).image - photo.image).square()
    mean = error.mean() if used is None else (error * used).sum() / (3 * used.sum()).clamp_min(1)
    return float(-10 * mean.clamp_min(1e-10).log10())
