"""``sparsefusion-splatfacto``: a splat from two to six photos, and views predicted from them (SparseFusion)."""

from __future__ import annotations

from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.guidance.sparsefusion import SparseFusionConfig
from difix3d_ns.methods.base import splatfacto_with

sparsefusion_splatfacto = MethodSpecification(
    config=splatfacto_with("sparsefusion-splatfacto", SparseFusionConfig()),
    description="Splatfacto from two to six photos, which also learns from views predicted from them (SparseFusion).",
)
