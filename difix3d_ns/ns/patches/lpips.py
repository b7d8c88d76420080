"""LPIPS, which splatfacto's constructor downloads, fetched when somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn


class LazyLpips(nn.Module):
    """LPIPS whose weights are fetched at the first use; absent, with one notice, where they cannot be had."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._build = build
        self._metric: list[nn.Module | None] = []  # a list hides the network from checkpoints

    def forward(self, truth: Tensor, prediction: Tensor) -> Tensor:
        if not self._metric:
            try:
                with torch.random.fork_rng():  # a network is initialised at random before it is loaded
                    self._metric.append(self._build().to(truth.device))
            except (OSError, RuntimeError) as error:
                CONSOLE.log(f"[yellow]LPIPS is left out: its weights could not be downloaded ({error}).")
                self._metric.append(None)
        metric = self._metric[0]
        return metric(truth, prediction) if metric is not None else truth.new_tensor(float("nan"))


@contextmanager
def lazy_lpips() -> Iterator[None]:
    """Meanwhile what builds LPIPS gets one that is fetched at its first use."""
    from torchmetrics.image import lpip  # which imports transformers

    build = lpip.LearnedPerceptualImagePatchSimilarity

    def lazy(**options: Any) -> LazyLpips:
        return LazyLpips(lambda: build(**options))

    lpip.LearnedPerceptualImagePatchSimilarity = lazy  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = build  # type: ignore[misc]
