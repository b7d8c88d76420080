"""``difix3d-splatfacto``: made views repaired by a single-step diffusion model (Difix3D+)."""

from __future__ import annotations

from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.guidance.difix import DifixConfig
from difix3d_ns.methods.base import splatfacto_with

difix3d_splatfacto = MethodSpecification(
    config=splatfacto_with("difix3d-splatfacto", DifixConfig()),
    description="Splatfacto with pseudo-views repaired by a single-step diffusion model (Difix3D+).",
)
