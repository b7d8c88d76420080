"""The embedded fixer without its diffusion model: references aligned by cameras and depth, and blended.

After another fixer (see ``cascade``) it gives back the detail that diffusion made up.
"""

from __future__ import annotations

import torch

from difix3d_ns.priors import embedded


def load(
    weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> embedded.EmbeddedFixer:
    """Read the chain without diffusion; arguments and errors as in ``difix3d_ns.priors.embedded.load``."""
    return embedded.load(weights, device, dtype, diffusion=False)
