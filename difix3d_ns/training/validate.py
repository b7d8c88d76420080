"""What a trained chain is worth on scenes it has not seen, link by link."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import Progress

from difix3d_ns.evaluation.metrics import image_metrics, mean_metrics
from difix3d_ns.fixers.blend import BlendFixer
from difix3d_ns.fixers.contract import Fixer
from difix3d_ns.fixers.embedded import EmbeddedFixer
from difix3d_ns.fixers.networks.chain import EmbeddedChain
from difix3d_ns.fixers.networks.precision import fast_dtype
from difix3d_ns.fixers.none import IdentityFixer
from difix3d_ns.training.pairs import read_pair


def validate(
    chain: EmbeddedChain, files: Sequence[Path], progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Mean PSNR, SSIM and FLIP of {"identity", "blend", "fixed", "fixed_without_diffusion"} over samples."""
    device = next(chain.parameters()).device
    chain = copy.deepcopy(chain).to(fast_dtype(device.type))  # as it will be used
    fixers: dict[str, Fixer] = {
        "identity": IdentityFixer(),
        "blend": BlendFixer(),
        "fixed": EmbeddedFixer(chain),
        "fixed_without_diffusion": EmbeddedFixer(chain, diffusion=False),
    }
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in fixers}
    task = progress.add_task("Validating", total=len(files)) if progress else None
    for file in files:
        request, truth = read_pair(file)
        for name, fixer in fixers.items():
            with torch.no_grad():
                scores[name].append(image_metrics(fixer.fix([request])[0].image, truth))
        if progress and task is not None:
            progress.advance(task)
    return {name: mean_metrics(rows) for name, rows in scores.items()}
