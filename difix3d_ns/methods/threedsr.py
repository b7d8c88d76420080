"""``3dsr-splatfacto``: sharper splats than the photographs they came from (3DSR)."""

from __future__ import annotations

from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.guidance.super_resolution import ThreeDSRConfig
from difix3d_ns.methods.base import splatfacto_with
from difix3d_ns.ns.trainer import GuidedTrainerConfig


def _config() -> GuidedTrainerConfig:
    config = splatfacto_with("3dsr-splatfacto", ThreeDSRConfig())
    config.pipeline.model.rasterize_mode = "antialiased"  # rendered larger than it is trained, a classic one has holes
    config.pipeline.datamanager.camera_res_scale_factor = 1.0  # what is made larger is not made smaller first
    config.pipeline.depth.name = "none"  # on photos this small it was not measured
    config.pipeline.datamanager.reduction = "bicubic"  # where a user does, as upscalers take photos to be reduced
    return config


threedsr_splatfacto = MethodSpecification(
    config=_config(),
    description="Splatfacto on photos that are upscaled in rounds until they agree (3DSR): sharper than the photos.",
)
