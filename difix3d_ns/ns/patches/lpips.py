"""LPIPS that loads its network when a picture is first measured, where splatfacto's constructor would fetch it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.metrics.perceptual import LazyLPIPS, PerceptualWeights


@contextmanager
def lazy_lpips(weights: PerceptualWeights | None = None) -> Iterator[None]:
    """Replace torchmetrics' LPIPS by the lazy one, which reads these weights, inside the block."""
    from torchmetrics.image import lpip  # which imports transformers

    build = lpip.LearnedPerceptualImagePatchSimilarity

    def lazy(**options: Any) -> LazyLPIPS:
        return LazyLPIPS("alex", CONSOLE.log, weights)

    lpip.LearnedPerceptualImagePatchSimilarity = lazy  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = build  # type: ignore[misc]
