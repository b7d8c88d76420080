"""LPIPS and FID, where the weights of their networks are on the machine already; nothing is downloaded."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's, on which LPIPS stands
_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's, that of the TensorFlow original


def lpips(predictions: Sequence[Tensor], truths: Sequence[Tensor]) -> float | None:
    """Mean LPIPS (Zhang et al. 2018, AlexNet, as in splatfacto), lower is better.

    Args:
        predictions: [H, W, 3] each, in [0, 1].
        truths: [H, W, 3] each, in [0, 1].

    Returns:
        None if the weights of AlexNet are not in torch's hub folder.
    """
    if not _weights(_ALEXNET).is_file():
        return None
    metric = _lpips()
    with torch.no_grad():
        values = [float(metric(_batch(p), _batch(t))) for p, t in zip(predictions, truths, strict=True)]
    return sum(values) / len(values)


def fid(predictions: Sequence[Tensor], truths: Sequence[Tensor]) -> float | None:
    """Fréchet distance of Inception features (Heusel et al. 2017) between the two sets, lower is better.

    Of a handful of held-out views it says little: it compares distributions, and is biased upward for few pictures.

    Args:
        predictions: [H, W, 3] each, in [0, 1].
        truths: [H, W, 3] each, in [0, 1].

    Returns:
        None if the weights of Inception are not in torch's hub folder, or there are fewer than two pictures.
    """
    if not _weights(_INCEPTION).is_file() or len(truths) < 2:
        return None
    metric = _fid()
    metric.reset()
    with torch.no_grad():
        for prediction, truth in zip(predictions, truths, strict=True):
            metric.update(_batch(truth), real=True)
            metric.update(_batch(prediction), real=False)
        return float(metric.compute())


def _weights(name: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _batch(picture: Tensor) -> Tensor:  # [1, 3, H, W]
    return picture.detach().to("cpu", torch.float32).clamp(0, 1).permute(2, 0, 1)[None]


@functools.cache
def _lpips() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)


@functools.cache
def _fid() -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(normalize=True)
