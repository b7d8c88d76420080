"""LPIPS that loads its network when a picture is first measured, where splatfacto's constructor would fetch it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.metrics.perceptual import LazyLPIPS, PerceptualWeights


@contextmanager
def lazy_lpips(fetch: bool = False) -> Iterator[None]:
    """Meanwhile what builds LPIPS on AlexNet gets ours; ``fetch``: its weights may be downloaded."""
    from torchmetrics.image import lpip  # which imports transformers

    build = lpip.LearnedPerceptualImagePatchSimilarity

    def lazy(**options: Any) -> LazyLPIPS:
        return LazyLPIPS("alex", CONSOLE.log, PerceptualWeights(fetch=fetch))

    lpip.LearnedPerceptualImagePatchSimilarity = lazy  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = build  # type: ignore[misc]
