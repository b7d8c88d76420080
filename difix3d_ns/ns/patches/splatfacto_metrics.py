"""Metrics that splatfacto makes with each model, without torchmetrics: it imports text models, audio and transformers.

LPIPS loads its network when a picture is first measured, where splatfacto's constructor would fetch it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from difix3d_ns.io.notices import once_per_machine
from difix3d_ns.metrics.perceptual import LazyLPIPS, PerceptualWeights


class PSNR(nn.Module):
    """Peak signal-to-noise ratio of pictures in [0, 1], torchmetrics' to the bit."""

    def __init__(self, data_range: float) -> None:
        super().__init__()
        assert data_range == 1.0

    @torch.no_grad()
    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the ratio in dB, []; of pictures of any shape."""
        error = (prediction - truth).square().sum() / truth.numel()
        return -error.log() * (10 / error.new_tensor(10.0).log())


@contextmanager
def light_metrics(weights: PerceptualWeights | None = None) -> Iterator[None]:
    """Let splatfacto find these instead of torchmetrics' inside the block.

    Args:
        weights: what LPIPS reads.
    """

    def lazy(**options: Any) -> LazyLPIPS:
        return LazyLPIPS("alex", once_per_machine(CONSOLE.log), weights)

    image, lpip = ModuleType("torchmetrics.image"), ModuleType("torchmetrics.image.lpip")
    image.PeakSignalNoiseRatio, lpip.LearnedPerceptualImagePatchSimilarity = PSNR, lazy  # type: ignore[attr-defined]
    names = (image.__name__, lpip.__name__)
    theirs = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(zip(names, (image, lpip), strict=True))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(theirs)
