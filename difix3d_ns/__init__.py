"""Diffusion-fixed Gaussian splatting for nerfstudio.

What is imported from here stays where it is when files move.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from difix3d_ns.geometry.pinhole import Pinhole
    from difix3d_ns.guidance.base import Guidance, GuidanceConfig
    from difix3d_ns.priors.base import Fixer, FixRequest, FixResult, PosedImage
    from difix3d_ns.priors.registry import load_fixer
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
    "load_fixer",
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
    "load_fixer": "priors.registry",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: commands that need no torch stay fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
