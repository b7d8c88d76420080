"""Flavours of PSNR and SSIM against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.metrics.scoring import Scoring, score


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """A dim picture with another error in each channel, and the truth."""
    generator = torch.Generator().manual_seed(0)
    truth = 0.4 + 0.1 * torch.rand(24, 32, 3, generator=generator)
    return truth + torch.tensor([0.01, 0.02, 0.05]) * torch.randn(24, 32, 3, generator=generator), truth


def test_the_default_is_the_packages_own(pair: tuple[Tensor, Tensor]) -> None:
    assert score(*pair, Scoring()) == image_metrics(*pair)


def test_psnr_of_channels_is_averaged_in_decibels() -> None:
    truth = torch.full((16, 16, 3), 0.5)
    metrics = score(truth + torch.tensor([0.1, 0.01, 0.001]), truth, Scoring(psnr="channels"))
    assert metrics["psnr"] == pytest.approx((20 + 40 + 60) / 3, abs=1e-3)
    expected = -10 * math.log10((1e-2 + 1e-4 + 1e-6) / 3)
    assert score(truth + torch.tensor([0.1, 0.01, 0.001]), truth, Scoring())["psnr"] == pytest.approx(
        expected, abs=1e-3
    )


def test_a_mask_leaves_out_what_it_hides(pair: tuple[Tensor, Tensor]) -> None:
    picture, truth = pair
    mask = torch.zeros(24, 32, 1, dtype=torch.bool)
    mask[:, 8:] = True
    spoilt = torch.where(mask, picture, 1 - truth)
    for psnr in ("channels", "picture"):
        scoring = Scoring(psnr=psnr, ssim="full", masks=True)  # type: ignore[arg-type]
        assert score(spoilt, truth, scoring, mask) == score(picture, truth, scoring, mask)
        assert score(spoilt, truth, scoring)["psnr"] < score(picture, truth, scoring, mask)["psnr"]
    error = ((picture.clamp(0, 1) - truth)[:, 8:].double() ** 2).mean()
    assert score(picture, truth, scoring, mask)["psnr"] == pytest.approx(float(-10 * torch.log10(error)))
    with pytest.raises(ValueError, match="no pixel of the mask counts"):
        score(picture, truth, scoring, torch.zeros_like(mask))


def _ssim_map(first: Tensor, second: Tensor, window: Tensor, sample: bool = False) -> Tensor:
    """SSIM where the window [k, k] fits, by its definition, [h, w, 3]; ``sample``: covariances of a sample."""
    k = window.shape[0]
    patches = [one.double().unfold(0, k, 1).unfold(1, k, 1) for one in (first, second)]
    x, y = (patch.mul(window).sum((-1, -2)) for patch in patches)
    xx, yy, xy = ((a * b).mul(window).sum((-1, -2)) for a, b in ((patches[0],) * 2, (patches[1],) * 2, tuple(patches)))
    more = k * k / (k * k - 1) if sample else 1.0
    vx, vy, vxy = more * (xx - x * x), more * (yy - y * y), more * (xy - x * y)
    return (2 * x * y + 1e-4) * (2 * vxy + 9e-4) / ((x * x + y * y + 1e-4) * (vx + vy + 9e-4))


def _gaussian() -> Tensor:
    line = torch.exp(-((torch.arange(11).double() - 5) ** 2) / (2 * 1.5**2))
    window = line[:, None] * line
    return window / window.sum()


def test_ssim_of_each_kind_is_what_its_package_computes(pair: tuple[Tensor, Tensor]) -> None:
    picture, truth = pair[0].clamp(0, 1), pair[1]

    def grown(one: Tensor, mode: str) -> Tensor:
        return torch.nn.functional.pad(one.permute(2, 0, 1)[None], [5] * 4, mode=mode)[0].permute(1, 2, 0)

    inner = _ssim_map(picture, truth, _gaussian())
    padded = _ssim_map(grown(picture, "constant"), grown(truth, "constant"), _gaussian())
    full = _ssim_map(grown(picture, "reflect"), grown(truth, "reflect"), _gaussian())
    uniform = _ssim_map(picture, truth, torch.full((7, 7), 1 / 49).double(), sample=True)
    # of the range that they have, to which the constants are relative
    span = max(float(one.max() - one.min()) for one in (picture, truth))
    own = _ssim_map(grown(picture / span, "reflect"), grown(truth / span, "reflect"), _gaussian())
    expected = {"inner": inner, "padded": padded, "full": full, "uniform": uniform, "own-range": own}
    found = {kind: score(picture, truth, Scoring(ssim=kind))["ssim"] for kind in expected}  # type: ignore[arg-type]
    for kind, values in expected.items():
        assert found[kind] == pytest.approx(float(values.mean()), abs=1e-4), kind
    assert found["padded"] - 0.05 > found["inner"] > found["own-range"] + 0.05  # the flavour does matter


def test_flavours_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="masks need ssim full"):
        Scoring(masks=True)
    with pytest.raises(ValueError, match="reduced is at least 1"):
        Scoring(reduced=0)
