"""Diffusion-fixed Gaussian splatting for nerfstudio.

What is imported from here stays where it is when files move.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from difix3d_ns.apps.enhance_splat import open_splat
    from difix3d_ns.data.procedural.demo_scene import demo_scene
    from difix3d_ns.geometry.pinhole import Pinhole
    from difix3d_ns.guidance.base import Guidance, GuidanceConfig
    from difix3d_ns.io.images import read_picture, write_picture
    from difix3d_ns.ns.capture_reader import read_dataset
    from difix3d_ns.priors.base import Fixer, FixRequest, FixResult, PosedImage
    from difix3d_ns.priors.registry import load_depth, load_fixer, load_upscaler, load_view_generator
    from difix3d_ns.views.protocols import Render
    from difix3d_ns.views.view import TrainView

__version__ = "0.2.0"
"""the one place of the version: pyproject.toml reads it from here"""

__all__ = [
    "FixRequest",
    "FixResult",
    "Fixer",
    "Guidance",
    "GuidanceConfig",
    "Pinhole",
    "PosedImage",
    "Render",
    "TrainView",
    "demo_scene",
    "load_depth",
    "load_fixer",
    "load_upscaler",
    "load_view_generator",
    "open_splat",
    "read_dataset",
    "read_picture",
    "write_picture",
]

_MODULES = {
    "FixRequest": "priors.base",
    "FixResult": "priors.base",
    "Fixer": "priors.base",
    "Guidance": "guidance.base",
    "GuidanceConfig": "guidance.base",
    "Pinhole": "geometry.pinhole",
    "PosedImage": "geometry.posed_image",
    "Render": "views.protocols",
    "TrainView": "views.view",
    "demo_scene": "data.procedural.demo_scene",
    "load_depth": "priors.registry",
    "load_fixer": "priors.registry",
    "load_upscaler": "priors.registry",
    "load_view_generator": "priors.registry",
    "open_splat": "apps.enhance_splat",
    "read_dataset": "ns.capture_reader",
    "read_picture": "io.images",
    "write_picture": "io.images",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: commands that need no torch stay fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
