"""The embedded fixer without its diffusion model, for the ablation.

--pipeline.guidance.fixer.name benchmarks.no_diffusion
"""

from __future__ import annotations

import torch

from difix3d_ns.priors import embedded


def load(
    weights: str | None = None, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> embedded.EmbeddedFixer:
    """As the registry of fixers wants it."""
    return embedded.load(weights, device or "cpu", dtype, diffusion=False)
