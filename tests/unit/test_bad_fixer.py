"""A fixer that is no good does little harm; and fixers of other packages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.guidance.difix import MIN_CONFIDENCE, DifixConfig, DifixGuidance
from difix3d_ns.guidance.schedule import plan_rounds
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.registry import load_fixer
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.view import TrainView

NOISE = "benchmarks.bad_fixer"


def _camera(shift: float = 0.0) -> Pinhole:
    pose = torch.eye(4)
    pose[0, 3] = shift
    return Pinhole(pose, torch.tensor([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]]), 64, 48)


def _request() -> FixRequest:
    """A smooth wall and a photograph of it from the side."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    image = torch.stack([x, y, 0.5 * (x + y)], -1)
    depth, alpha = torch.full((48, 64, 1), 2.0), torch.ones(48, 64, 1)
    reference = PosedImage(image, _camera(0.05), depth, alpha)
    return FixRequest(image, [reference], _camera(), depth, alpha, seed=5)


def test_noise_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    (bad,) = load_fixer(NOISE).fix([_request()])
    (good,) = load_fixer("embedded").fix([_request()])
    assert float(bad.image.std()) > 0.25 and float((good.image - _request().image).abs().mean()) < 0.1
    assert float(good.confidence.mean()) > 0.5
    assert float(bad.confidence.mean()) < MIN_CONFIDENCE


def test_the_fixers_of_the_ablation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    (trusting,) = load_fixer("benchmarks.no_confidence").fix([_request()])
    (whole,) = load_fixer("embedded").fix([_request()])
    assert torch.equal(trusting.image, whole.image) and float(trusting.confidence.min()) == 1
    assert float(whole.confidence.min()) < 1
    (without,) = load_fixer("benchmarks.no_diffusion").fix([_request()])
    assert not torch.equal(without.image, whole.image)
    (warped,) = load_fixer("benchmarks.splat_depth").fix([_request()])
    assert torch.equal(warped.depth, _request().depth) and not torch.equal(whole.depth, warped.depth)
    assert float(warped.confidence.mean()) > 0.5 and float((warped.image - _request().image).abs().mean()) < 0.1


def test_a_view_that_nobody_trusts_takes_no_step() -> None:
    guidance = DifixGuidance(DifixConfig(rounds=1, probability=1.0))
    guidance.schedule = plan_rounds(200, 1, lambda step: True)
    guidance._first_view = 0
    for trust, drawn in ((0.0, False), (MIN_CONFIDENCE / 2, False), (2 * MIN_CONFIDENCE, True)):
        guidance.pool = Pool(4)
        view = TrainView("target/000@1", _camera(), torch.rand(48, 64, 3), confidence=torch.full((48, 64, 1), trust))
        guidance.pool.put(view)
        assert (guidance.next_view(100, torch.Generator().manual_seed(0)) is not None) == drawn


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.fixer", "'nowhere.fixer' cannot be imported .*PYTHONPATH"),
        ("os.path", "'os.path' has no function load"),
        ("blur", "'blur': no fixer has this name; .* or package.module of yours"),
    ],
)
def test_fixers_that_are_none(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_fixer(name)
