"""``sparsefusion-splatfacto``: a splat from two to six photos, and views predicted from them (SparseFusion)."""

from __future__ import annotations

from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.guidance.sparsefusion import SparseFusionConfig
from difix3d_ns.methods.base import splatfacto_with
from difix3d_ns.ns.trainer import GuidedTrainerConfig


def _config() -> GuidedTrainerConfig:
    config = splatfacto_with("sparsefusion-splatfacto", SparseFusionConfig())
    if config.machine.device_type == "cuda":  # photos are larger there than predicted views; on a CPU they are not
        config.pipeline.model.rasterize_mode = "antialiased"
    return config


sparsefusion_splatfacto = MethodSpecification(
    config=_config(),
    description="Splatfacto from two to six photos, which also learns from views predicted from them (SparseFusion).",
)
