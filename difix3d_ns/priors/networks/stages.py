"""The embedded fixer's networks in a row: alignment, blend, single-step diffusion, gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difix3d_ns.priors.alignment.aligned_references import MAX_REFERENCES
from difix3d_ns.priors.alignment.aligner import Aligner
from difix3d_ns.priors.networks.blend_net import BlendNet
from difix3d_ns.priors.networks.difix_net import DifixNet


class ChainOutput(NamedTuple):
    """Picture after every stage, all in [0, 1] units and not clamped."""

    image: Tensor  # [B, 3, H, W] the result
    blend: Tensor  # [B, 3, H, W] before diffusion
    decoded: Tensor | None  # [B, 3, H, W] the diffusion model's own picture, if it ran


class EmbeddedChain(nn.Module):
    """``image = blend + gate * (decoded - blend)``.

    The gate starts at zero and is multiplied by visibility: untrained, or where no reference sees anything, the chain
    is the blend, and the blend is the render.

    Args:
        config: {"align": arguments of Aligner, "blend": arguments of BlendNet, "difix": arguments of DifixNet}, as
            stored beside the weights.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.align = Aligner(**config["align"])
        self.blend = BlendNet(tuple(config["blend"]["widths"]))
        difix = dict(config["difix"])
        # A learned constant takes the place of the text embedding.
        prompt = torch.randn(difix.pop("prompt"), generator=torch.Generator().manual_seed(0))
        self.difix = DifixNet(**difix, prompt=nn.Parameter(0.1 * prompt))
        last = nn.Conv2d(32, 4, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)
        self.gate = nn.Sequential(nn.Conv2d(4 * 8, 32, 3, padding=1), nn.SiLU(), last)

    def cast_networks(self, dtype: torch.dtype) -> EmbeddedChain:
        """Convert the networks to a precision, but for what ``Aligner.cast_networks`` keeps."""
        self.align.cast_networks(dtype)
        for network in (self.blend, self.difix, self.gate):
            network.to(dtype)
        return self

    def forward(
        self, image: Tensor, alpha: Tensor, warps: Tensor, visibility: Tensor, diffusion: bool = True
    ) -> ChainOutput:
        """Repair a batch whose references were aligned (``difix3d_ns.priors.alignment.aligned_references``).

        Args:
            image: [B, 3, H, W] in [0, 1], the render.
            alpha: [B, 1, H, W] in [0, 1].
            warps: [B, K, 3, H, W] in [0, 1], K <= MAX_REFERENCES warped references.
            visibility: [B, K, 1, H, W] in [0, 1].
            diffusion: False stops after the blend.
        """
        count = warps.shape[1]
        if count > MAX_REFERENCES:
            raise ValueError(f"the chain takes at most {MAX_REFERENCES} references, got {count}")
        empty = (0, 0, 0, 0, 0, 0, 0, MAX_REFERENCES - count)
        blend, weights = self.blend(image, alpha, F.pad(warps, empty), F.pad(visibility, empty))
        if not diffusion:
            return ChainOutput(blend, blend, None)
        seen = 1 - (1 - visibility).prod(1) if count else torch.zeros_like(alpha)
        target = torch.cat([blend, seen], 1)[:, None]
        filled = blend[:, None] + (warps - blend[:, None]) * visibility
        views = torch.cat([target, torch.cat([filled, visibility], 2)], 1)
        height, width = image.shape[-2:]
        views = F.pad(views.flatten(0, 1), (0, width % 2, 0, height % 2), mode="replicate")
        # Half the resolution and four times the channels: a full-size first level would cost most of the time.
        folded = F.pixel_unshuffle(views * 2 - 1, 2).unflatten(0, (-1, count + 1))
        precision = next(self.gate.parameters()).dtype
        decoded = F.pixel_shuffle(self.difix(folded.to(precision)).to(image.dtype), 2)[..., :height, :width] / 2 + 0.5
        change = decoded - blend
        evidence = torch.cat([change, blend - image, seen, weights[:, :1]], 1)
        evidence = F.pixel_unshuffle(F.pad(evidence, (0, width % 2, 0, height % 2), mode="replicate"), 2)
        gate = F.pixel_shuffle(self.gate(evidence.to(precision)).to(image.dtype), 2)[..., :height, :width].tanh() * seen
        return ChainOutput(blend + gate * change, blend, decoded)
