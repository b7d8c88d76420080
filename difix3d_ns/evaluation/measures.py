"""Metrics of a training's held-out views beside those of single pictures: what benchmarks record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from torch import Tensor

from difix3d_ns.evaluation.curves import read_curves
from difix3d_ns.evaluation.runs import HeldOutView
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.metrics.high_pass import high_pass_correlation, low_consistency
from difix3d_ns.metrics.psnr import psnr


def counted(views: Sequence[HeldOutView], masks: Mapping[str, Tensor] | None) -> list[HeldOutView]:
    """Views of which a pixel counts, by the masks of ``read_masks``."""
    return [view for view in views if masks is None or bool(masks[view.name].any())]


def colour_corrected(pictures: Sequence[Tensor], truths: Sequence[Tensor]) -> dict[str, float]:
    """``cc_psnr``, the mean of ``corrected_psnr`` of pictures [H, W, 3] in [0, 1] of one training."""
    return {"cc_psnr": fmean(corrected_psnr(one, truth) for one, truth in zip(pictures, truths, strict=True))}


def corrected_psnr(picture: Tensor, truth: Tensor) -> float:
    """PSNR in dB after nerfstudio's colour correction, a quadratic change of colours fitted to the truth.

    So exposure and white balance of a held-out photo do not count. Where colours are too few for a fit, as in a grey
    picture, the correction may be worse than none: then that counts.
    """
    from nerfstudio.model_components.lib_bilagrid import color_correct

    try:
        corrected = psnr(color_correct(picture, truth).clamp(0, 1), truth)
    except AssertionError:  # the fit is not finite
        corrected = 0.0
    return max(corrected, psnr(picture, truth))


def agreements(folder: Path) -> list[float]:
    """Read the agreement of views after each round of a training, where its guidance measured it."""
    curves, _ = read_curves(folder)
    found = [curve for name, curve in curves.items() if name.endswith("/agreement")]
    return [round(float(value), 4) for value in found[0].values] if found else []


def detail_metrics(picture: Tensor, truth: Tensor, factor: float) -> dict[str, float]:
    """Metrics of what a picture shows beyond the small photos, and of how it reduces to them."""
    low = resampled(truth, round(truth.shape[0] / factor), round(truth.shape[1] / factor))
    return {
        "high_pass": high_pass_correlation(picture, truth, factor),
        "low_psnr": low_consistency(picture, low),
    }
