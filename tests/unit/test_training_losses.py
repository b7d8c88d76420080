"""Losses against other implementations, and VGG losses with weights that are there or not."""

from __future__ import annotations

from pathlib import Path

import flip_evaluator
import lpips
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import vgg16

from difix3d_ns.errors import UserError
from difix3d_ns.metrics.perceptual import PerceptualWeights
from difix3d_ns.training.losses import PIXEL_LOSSES, Losses

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """A noisy picture and its blurred version, [1, 3, 176, 180]."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(1, 3, 22, 20, generator=generator), (176, 180), mode="bicubic")
    truth = (coarse + 0.3 * torch.rand(1, 3, 176, 180, generator=generator) - 0.15).clamp(0, 1)
    return F.avg_pool2d(truth, 5, 1, 2, count_include_pad=False), truth


@pytest.mark.parametrize("amount", [0.02, 0.3])
def test_flip_is_nvidias(pictures: tuple[Tensor, Tensor], amount: float):
    blurred, truth = pictures
    for picture in (blurred, (truth + amount * torch.randn_like(truth)).clamp(0, 1)):
        arrays = [p[0].permute(1, 2, 0).contiguous().numpy() for p in (truth, picture)]
        _, expected, _ = flip_evaluator.evaluate(*arrays, "LDR", inputsRGB=True, applyMagma=False)
        assert float(PIXEL_LOSSES["flip"](picture, truth)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", list(PIXEL_LOSSES))
def test_gradients_lead_to_the_truth(pictures: tuple[Tensor, Tensor], name: str):
    """Zero at the truth, finite gradients there, and a small step down the gradient lowers every loss."""
    blurred, truth = pictures
    at_truth = truth.clone().requires_grad_()
    loss = PIXEL_LOSSES[name](at_truth, truth)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert at_truth.grad is not None and bool(at_truth.grad.isfinite().all())
    picture = blurred.clone().requires_grad_()
    before = PIXEL_LOSSES[name](picture, truth)
    (gradient,) = torch.autograd.grad(before, picture)
    after = PIXEL_LOSSES[name](blurred - 1e-3 * gradient / gradient.abs().max(), truth)
    assert after < before


def test_weights_steps_and_crops(pictures: tuple[Tensor, Tensor]):
    blurred, truth = pictures
    plain = PIXEL_LOSSES["l1"](blurred, truth)
    losses = Losses({"l1": 2.0, "l2": {"weight": 3.0, "from_step": 5}}, CPU)
    torch.testing.assert_close(losses(blurred, truth, 4), 2 * plain)
    torch.testing.assert_close(losses(blurred, truth, 5), 2 * plain + 3 * PIXEL_LOSSES["l2"](blurred, truth))
    cropped = Losses({"l1": {"crop": 8}}, CPU)
    values = {float(cropped(blurred, truth, 0)) for _ in range(8)}
    assert len(values) > 1  # elsewhere each time
    assert all(abs(value - float(plain)) < float(plain) for value in values)


@pytest.mark.slow
def test_vgg_losses(perceptual_weights: Path, pictures: tuple[Tensor, Tensor]):
    blurred, truth = (p[..., :64, :64] for p in pictures)
    state = PerceptualWeights().load("vgg")
    plain = vgg16().features
    plain.load_state_dict({key.removeprefix("features."): value for key, value in state.items()})
    metric = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for number, part in enumerate(metric.net.children()):
        start = (0, 4, 9, 16, 23)[number]
        for offset, layer in enumerate(part.children()):
            layer.load_state_dict(plain[start + offset].state_dict())
    expected = metric(blurred * 2 - 1, truth * 2 - 1).mean()
    torch.testing.assert_close(Losses({"lpips": 1.0}, CPU)(blurred, truth, 0), expected)

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    total = torch.zeros(())
    hidden = [(p - mean) / std for p in (blurred, truth)]
    shares = {3: 1 / 2.6, 8: 1 / 4.8, 15: 1 / 3.7, 22: 1 / 5.6, 29: 10 / 1.5}
    for index, layer in enumerate(plain[:30]):
        hidden = [layer(h) for h in hidden]
        if index in shares:
            grams = [torch.einsum("bchw,bdhw->bcd", h, h) / h[0].numel() for h in hidden]
            total = total + shares[index] * (grams[0] - grams[1]).square().mean()
    torch.testing.assert_close(Losses({"gram": 1.0}, CPU)(blurred, truth, 0), total, rtol=2e-2, atol=1e-9)


def test_missing_and_damaged_vgg_weights_are_named(no_weights: Path):
    with pytest.raises(UserError, match=r"losses lpips, gram need .*vgg16-397923af\.pth are missing.*`lpips` and"):
        Losses({"l2": 1.0, "lpips": 1.0, "gram": 1.0}, CPU)
    file = no_weights / "hub" / "checkpoints" / "vgg16-397923af.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half")
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth is damaged"):
        Losses({"gram": 1.0}, CPU)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"l3": 1.0}, "unknown loss 'l3'; known are l1"),
        ({"l1": {"wight": 1.0}}, "losses: l1: .*wight"),
        ({"l1": "much"}, "losses: l1: "),
    ],
)
def test_mistakes_are_named(entries: dict, message: str):
    with pytest.raises(UserError, match=message):
        Losses(entries, CPU)


def test_ms_ssim_of_small_crops_is_named(pictures: tuple[Tensor, Tensor]):
    with pytest.raises(UserError, match="ms-ssim needs crops above 160"):
        Losses({"ms-ssim": 1.0}, CPU)(*(p[..., :160, :] for p in pictures), 0)
