"""Flavours of PSNR and SSIM in which published numbers are given."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.metrics.psnr import psnr

Ssim = Literal["inner", "padded", "own-range", "full", "uniform"]
_REACH = 5  # pixels of SSIM's Gaussian on either side


@dataclass(frozen=True)
class Scoring:
    """Flavour of a benchmark's metrics; the defaults are this package's own."""

    psnr: Literal["picture", "channels"] = "picture"
    """Mean error over the whole picture; or the mean of the PSNR of its channels, as Nerfbusters has it."""
    ssim: Ssim = "inner"
    """Gaussian window of 11 pixels: ``inner`` pytorch-msssim, where the window fits; ``padded`` zeros around the
    picture, as 3DGS has it; ``own-range`` torchmetrics with the range of each pair of pictures, as SyncDreamer calls
    it; ``full`` torchmetrics with borders, as Nerfbusters calls it. ``uniform``: scikit-image, window of 7 pixels."""
    masks: bool = False
    """Only pixels inside the scene's evaluation masks count, where it has some."""
    reduced: int = 1
    """Sides of the pictures of training over those that are compared."""
    lpips_unscaled: bool = False
    """Columns of LPIPS of pictures that were not brought to the range of -1 to 1, as 3DGS computes it."""

    def __post_init__(self) -> None:
        if self.masks and self.ssim != "full":
            raise ValueError("scoring: masks need ssim full, the only one that is known pixel by pixel")
        if self.reduced < 1:
            raise ValueError("scoring: reduced is at least 1")


def score(picture: Tensor, truth: Tensor, scoring: Scoring, mask: Tensor | None = None) -> dict[str, float]:
    """PSNR and SSIM of one picture in a flavour, and FLIP.

    Args:
        picture: [H, W, 3] in [0, 1], sRGB; values outside are clamped.
        truth: [H, W, 3] in [0, 1], sRGB.
        scoring: the flavour.
        mask: [H, W, 1] bool, pixels that count; both pictures are black elsewhere, in FLIP too. None: all.

    Raises:
        ValueError: see ``image_metrics``; or no pixel counts.
    """
    if mask is not None and not mask.any():
        raise ValueError("no pixel of the mask counts")
    used = torch.ones_like(truth[..., :1]) if mask is None else mask.to(truth)
    first, second = ((one.detach().cpu().float().clamp(0, 1) * used.cpu()) for one in (picture, truth))
    metrics = image_metrics(first, second)
    if mask is not None or scoring.psnr == "channels":
        metrics["psnr"] = _psnr(first, second, used.cpu(), scoring.psnr == "channels")
    if scoring.ssim != "inner":
        metrics["ssim"] = _ssim(first, second, used.cpu(), scoring.ssim)
    return metrics


def _psnr(first: Tensor, second: Tensor, used: Tensor, by_channel: bool) -> float:
    if not by_channel:
        return psnr(first, second, used)
    return fmean(psnr(one, other, used) for one, other in zip(first.split(1, -1), second.split(1, -1), strict=True))


def _ssim(first: Tensor, second: Tensor, used: Tensor, kind: Ssim) -> float:
    if kind == "uniform":
        from skimage.metrics import structural_similarity

        return float(structural_similarity(first.numpy(), second.numpy(), channel_axis=-1, data_range=1))
    one, other = (picture.permute(2, 0, 1)[None].contiguous() for picture in (first, second))
    if kind == "padded":
        from pytorch_msssim import ssim

        around = [_REACH] * 4
        padded = functional.pad(one, around), functional.pad(other, around)
        return float(ssim(*padded, data_range=1.0, win_size=2 * _REACH + 1))
    from torchmetrics.functional.image import structural_similarity_index_measure

    if kind == "own-range":
        return float(structural_similarity_index_measure(one, other))  # type: ignore[arg-type]
    _, full = structural_similarity_index_measure(one, other, reduction="none", data_range=1.0, return_full_image=True)
    return float((full[0].mean(0)[..., None] * used).sum() / used.sum())
