"""Detail that only a larger picture shows, against the truth; and what remains of the small photo in it."""

from __future__ import annotations

import torch
from torch import Tensor

from difix3d_ns.geometry.resampling import resample
from difix3d_ns.metrics.psnr import psnr

MIN_RMS = 1e-4
"""root mean square below which detail counts as none: a tenth of what rounding to 8 bits leaves"""


def high_pass(picture: Tensor, factor: float) -> Tensor:
    """Subtract from a picture what remains of it at a smaller size.

    Args:
        picture: [H, W, C].
        factor: by which it is reduced, antialiased and bicubic, and enlarged again; above 1.

    Returns:
        [H, W, C], about 0 on average.

    Raises:
        ValueError: the factor is not above 1, or leaves no pixel.
    """
    height, width = picture.shape[:2]
    smaller = (round(height / factor), round(width / factor))
    if factor <= 1 or min(smaller) < 1:
        raise ValueError(f"a picture of {width} x {height} px cannot be reduced by {factor:g}")
    planes = picture.permute(2, 0, 1)[None]
    return (planes - resample(resample(planes, *smaller), height, width))[0].permute(1, 2, 0)


def high_pass_correlation(picture: Tensor, truth: Tensor, factor: float) -> float:
    """Correlate the detail of a picture with the truth's (Pearson, all pixels and channels).

    Noise has as much gradient energy as detail, but it does not correlate; a blurred picture correlates by as much as
    it shows.

    Args:
        picture: [H, W, 3] in [0, 1]; values outside are clamped.
        truth: [H, W, 3] in [0, 1].
        factor: of the reduction that loses the detail (see ``high_pass``).

    Returns:
        From -1 to 1, higher is better; 0 where either has no detail.

    Raises:
        ValueError: the sizes differ, or the picture is not finite.
    """
    if picture.shape != truth.shape:
        raise ValueError(f"pictures of one size are compared, got {list(picture.shape)} and {list(truth.shape)}")
    if not picture.isfinite().all():
        raise ValueError("the picture to measure contains NaN or infinity")
    correlation = RunningCorrelation()
    correlation.add(*(high_pass(p.detach().to("cpu", torch.float64).clamp(0, 1), factor) for p in (picture, truth)))
    return correlation.value


def low_consistency(picture: Tensor, low: Tensor) -> float:
    """PSNR in dB between the reduction of a large picture, antialiased and bicubic, and the photo (100 if equal).

    Args:
        picture: [H, W, 3] in [0, 1].
        low: [h, w, 3] in [0, 1], no larger.

    Raises:
        ValueError: the photo is larger than the picture.
    """
    if low.shape[0] > picture.shape[0] or low.shape[1] > picture.shape[1]:
        raise ValueError(f"a photo {list(low.shape)} is larger than the picture {list(picture.shape)}")
    planes = picture.detach().to("cpu", torch.float64).clamp(0, 1).permute(2, 0, 1)[None]
    reduced = resample(planes, *low.shape[:2]).clamp(0, 1)[0].permute(1, 2, 0)
    return psnr(reduced, low.detach().cpu())


class RunningCorrelation:
    """Pearson's correlation of what is added bit by bit, none of which is kept."""

    def __init__(self) -> None:
        self._count = 0
        self._sums = torch.zeros(5, dtype=torch.float64)  # of x, y, x^2, y^2, xy

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add pairs of values, of any shape."""
        x, y = (values.detach().to(torch.float64).flatten() for values in (first, second))
        self._count += x.numel()
        self._sums += torch.stack([x.sum(), y.sum(), x @ x, y @ y, x @ y]).cpu()

    @property
    def value(self) -> float:
        """From -1 to 1; 0 where either side has hardly any variance."""
        if not self._count:
            return 0.0
        x, y, xx, yy, xy = (self._sums / self._count).tolist()
        variances = max(xx - x * x, 0.0), max(yy - y * y, 0.0)
        if min(variances) < MIN_RMS**2:
            return 0.0
        correlation = (xy - x * y) / (variances[0] * variances[1]) ** 0.5
        return float(max(-1.0, min(1.0, correlation)))
