"""``sparse-splatfacto``: no fixer, splatfacto on any device with helps for captures of few photographs."""

from __future__ import annotations

from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.guidance.base import GuidanceConfig
from difix3d_ns.methods.base import splatfacto_with

sparse_splatfacto = MethodSpecification(
    config=splatfacto_with("sparse-splatfacto", GuidanceConfig()),
    description="Splatfacto on any device, with depth of the photos, floater pruning and a near plane for few photos.",
)
