"""Distances of a rendered picture from the photograph.

SSIM and FLIP are those of the packages that papers use. Losses have doubles of their own: ``splats/losses/ssim.py``
adds a faster path for CPUs to that package, equal only up to rounding; ``training/flip.py`` has the gradient that the
package lacks, and agrees to about 1e-5. Recorded numbers keep to the packages.
"""

from __future__ import annotations

import flip_evaluator
import torch
from pytorch_msssim import ssim
from torch import Tensor

from difix3d_ns.metrics.psnr import psnr

_WINDOW = 11  # of SSIM's Gaussian, pixels


def image_metrics(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR, SSIM and FLIP of one picture.

    Args:
        prediction: [H, W, 3] in [0, 1], sRGB; values outside are clamped, as a screen does.
        truth: [H, W, 3] in [0, 1], sRGB.

    Returns:
        ``psnr`` in dB (100 for equal pictures) and ``ssim`` (pytorch-msssim as in splatfacto: Gaussian window of 11
        pixels, data range 1, mean over pixels and channels), higher is better; ``flip``, mean LDR-FLIP (Andersson et
        al. 2020, at 67 pixels per degree), 0 to 1, lower is better.

    Raises:
        ValueError: the sizes differ, the prediction is not finite, or a side is shorter than SSIM's window.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3 or prediction.shape[-1] != 3:
        raise ValueError(
            f"metrics compare two pictures [H, W, 3] of one size, got {list(prediction.shape)} and {list(truth.shape)}"
        )
    if min(prediction.shape[:2]) < _WINDOW:
        raise ValueError(f"SSIM needs at least {_WINDOW} pixels per side, got {list(prediction.shape[:2])}")
    if not prediction.isfinite().all():
        raise ValueError("the picture to measure contains NaN or infinity")
    first, second = (t.detach().to("cpu", torch.float32).clamp(0, 1) for t in (prediction, truth))
    channels_first = [t.permute(2, 0, 1)[None].contiguous() for t in (first, second)]
    return {
        "psnr": psnr(first, second),
        "ssim": float(ssim(*channels_first, data_range=1.0, win_size=_WINDOW)),
        "flip": mean_flip(first, second),
    }


def mean_flip(prediction: Tensor, truth: Tensor) -> float:
    """Mean LDR-FLIP of two pictures [H, W, 3], see ``image_metrics``; computed on the CPU."""
    first, second = (t.detach().to("cpu", torch.float32).clamp(0, 1).contiguous().numpy() for t in (prediction, truth))
    _, mean, _ = flip_evaluator.evaluate(second, first, "LDR", inputsRGB=True, applyMagma=False)
    return float(mean)


def mean_metrics(pictures: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over pictures, the usual way to report a scene.

    Raises:
        ValueError: no pictures, or pictures with different metrics.
    """
    if not pictures or any(p.keys() != pictures[0].keys() for p in pictures):
        raise ValueError("a mean needs at least one picture, and the same metrics for all of them")
    return {name: sum(p[name] for p in pictures) / len(pictures) for name in pictures[0]}
