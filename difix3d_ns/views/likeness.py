"""Likeness of a splat to the photographs."""

from __future__ import annotations

from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.metrics.psnr import psnr
from difix3d_ns.views.protocols import Renderer, Scene

MIN_PSNR = 15.0
"""dB between photographs and renders of a splat; below, it is of another scene or in other coordinates"""
_CHECKED = 3


def checked_photographs(count: int) -> list[int]:
    """Choose a few photographs of ``count``, evenly, by which a splat is judged."""
    return evenly_spaced(count, _CHECKED)


def psnr_at(scene: Scene, renderer: Renderer, index: int) -> float:
    """PSNR in dB of the splat's render at a photograph, where it is used."""
    photo = scene.photo(index)
    return psnr(renderer.render(photo.pose, photo=index).image, photo.image, scene.mask(index))
