"""The fast SSIM is the library's."""

from __future__ import annotations

import numba
import pytest
import torch
from pytorch_msssim import SSIM

from difix3d_ns.splats.losses import ssim
from difix3d_ns.splats.losses.ssim import FusedSSIM

LIBRARY = SSIM(data_range=1.0, size_average=True, channel=3)


def pictures(height: int, width: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """As splatfacto hands them over: permuted views of [H, W, 3]."""
    generator = torch.Generator().manual_seed(height * width)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 9, 9, generator=generator), (height, width), mode="bicubic"
    ).clamp(0, 1)
    truth = smooth[0].permute(1, 2, 0).contiguous()
    picture = (truth + noise * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    return truth.permute(2, 0, 1)[None], picture.permute(2, 0, 1)[None]


@pytest.mark.parametrize(("height", "width"), [(11, 11), (11, 40), (37, 12), (64, 97)])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_value_and_gradient(height: int, width: int, noise: float) -> None:
    truth, picture = pictures(height, width, noise)
    seen = {}
    for name, measure in {"ours": FusedSSIM(), "library": LIBRARY}.items():
        leaf = picture.clone().requires_grad_()
        value = measure(truth, leaf)
        (3.0 * value).backward()
        seen[name] = value.item(), leaf.grad
    assert seen["ours"][0] == pytest.approx(seen["library"][0], abs=2e-5)
    scale = seen["library"][1].abs().max().clamp_min(1e-4)
    torch.testing.assert_close(seen["ours"][1] / scale, seen["library"][1] / scale, rtol=0, atol=2e-3)


def test_gradient_is_the_derivative() -> None:
    truth, picture = pictures(20, 24, 0.1)
    leaf = picture.clone().requires_grad_()
    FusedSSIM()(truth, leaf).backward()
    direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0))
    along = [LIBRARY(truth.double(), picture.double() + h * direction) for h in (-1e-5, 1e-5)]
    assert (leaf.grad * direction).sum().item() == pytest.approx((along[1] - along[0]).item() / 2e-5, rel=1e-3)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
def test_any_number_of_threads_gives_the_same() -> None:
    truth, picture = pictures(50, 40, 0.1)
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            leaf = picture.clone().requires_grad_()
            value = FusedSSIM()(truth, leaf)
            value.backward()
            found.append((value, leaf.grad))
    finally:
        numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[-1], strict=True))


@pytest.mark.parametrize("kind", ["small", "double", "batch", "truth with gradients"])
def test_what_the_kernels_are_not_for_goes_to_the_library(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssim._Similarity, "apply", lambda *_: pytest.fail("kernels used"))
    truth, picture = pictures(8, 40, 0.1) if kind == "small" else pictures(16, 16, 0.1)
    if kind == "double":
        truth, picture = truth.double(), picture.double()
    if kind == "batch":
        truth, picture = truth.expand(2, -1, -1, -1), picture.expand(2, -1, -1, -1)
    truth.requires_grad_(kind == "truth with gradients")
    if kind == "small":
        with pytest.warns(UserWarning, match="Skipping Gaussian Smoothing"):
            assert torch.equal(FusedSSIM()(truth, picture), LIBRARY(truth, picture))
    else:
        assert torch.equal(FusedSSIM()(truth, picture), LIBRARY(truth, picture))


def test_a_picture_that_is_not_finite_is_seen() -> None:
    truth, picture = pictures(16, 16, 0.1)
    picture[0, 1, 5, 5] = float("nan")
    assert not torch.isfinite(FusedSSIM()(truth, picture))


def test_no_gradient_asked_for() -> None:
    truth, picture = pictures(16, 16, 0.1)
    with torch.no_grad():
        assert FusedSSIM()(truth, picture).item() == pytest.approx(LIBRARY(truth, picture).item(), abs=2e-5)


@pytest.mark.parametrize("changed", ["truth", "picture"])
def test_a_picture_changed_before_the_way_back_is_told_of(changed: str) -> None:
    truth, picture = pictures(16, 16, 0.1)
    picture = picture.clone().requires_grad_() * 1.0
    value = FusedSSIM()(truth, picture)
    with torch.no_grad():
        {"truth": truth, "picture": picture.detach()}[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
