"""``hi3d-splatfacto``: a splat of an object that also learns from an orbit around it (Hi3D)."""

from __future__ import annotations

from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.guidance.hi3d import Hi3DConfig
from difix3d_ns.methods.base import splatfacto_with
from difix3d_ns.ns.trainer import GuidedTrainerConfig


def _config() -> GuidedTrainerConfig:
    config = splatfacto_with("hi3d-splatfacto", Hi3DConfig())
    config.pipeline.model.rasterize_mode = "antialiased"  # frames are larger than photos, as in the refiner's training
    return config


hi3d_splatfacto = MethodSpecification(
    config=_config(),
    description="Splatfacto of an object, which also learns from an orbit around it, with what photos show (Hi3D).",
)
