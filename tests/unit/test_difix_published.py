"""The published Difix weights at a tiny size against an independent forward (see official_difix.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors import difix
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.difix import DifixFixer
from difix3d_ns.priors.difix import load as load_difix
from tests.unit.known_scenes import picture, requests_of
from tests.unit.official_difix import COARSE_UNET, Official


@pytest.fixture(scope="module")
def official() -> Official:
    return Official()


@pytest.fixture(scope="module")
def folder(official: Official, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official.write(tmp_path_factory.mktemp("difix_ref"))


@pytest.fixture(scope="module")
def fixer(folder: Path) -> DifixFixer:
    return load_difix(str(folder), dtype=torch.float32)


def assert_agreement(official: Official, fixer: DifixFixer, requests: list[FixRequest], every: int = 1) -> None:
    for request, result in list(zip(requests, fixer.fix(requests), strict=True))[::every]:
        expected = official.repair(request.image, [reference.image for reference in request.references])
        assert expected.std() > 0.02, "a picture without content proves nothing"
        torch.testing.assert_close(result.image, expected.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("references", [0, 1, 3])
def test_agrees_with_the_official_arithmetic(official: Official, fixer: DifixFixer, references: int, batch: int):
    assert_agreement(official, fixer, requests_of(97, 131, references, batch))


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Official, DifixFixer]:
    official = Official(COARSE_UNET, seed=1)
    return official, load_difix(str(official.write(tmp_path_factory.mktemp("coarse"))), dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("references", [0, 1, 3])
def test_agrees_at_large_odd_sizes(
    coarse: tuple[Official, DifixFixer], references: int, batch: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(difix, "MAX_PIXELS_ON_CPU", 2**22)
    height, width = (539, 959) if batch == 1 else (271, 479)
    assert_agreement(*coarse, requests_of(height, width, references, batch), every=3)


@pytest.mark.parametrize("with_reference", [True, False])
def test_equal_sizes_need_no_padding(official: Official, tmp_path: Path, with_reference: bool):
    """Multiples of 8, all alike: the rule for sizes does nothing, and what is left is the official arithmetic."""
    fixer = load_difix(str(official.write(tmp_path / "w", with_reference)), dtype=torch.float32)
    pictures = [picture(64, 80, seed) for seed in range(3)]
    request = FixRequest(pictures[0], [PosedImage(image) for image in pictures[1:] if with_reference])
    assert fixer.network.masks(torch.full((1, 3, 2), 8), (8, 8)) is None
    assert_agreement(official, fixer, [request])


@pytest.mark.parametrize("spoil", ["adapters", "skips", "mixing"])
def test_the_comparison_would_notice(official: Official, folder: Path, spoil: str):
    """Each part of the architecture moves the result by far more than the tolerance."""
    fixer = load_difix(str(folder), dtype=torch.float32)
    (request,) = requests_of(64, 80, 3)
    if spoil == "adapters":
        fixer.network.vae.load_state_dict(official.base_vae, strict=True)
    elif spoil == "skips":
        fixer.network.autoencoder.gamma = 0.0
    else:
        request = FixRequest(request.image, request.references[:1])
    expected = official.repair(request.image, [r.image for r in requests_of(64, 80, 3)[0].references]).float()
    assert (fixer.fix([request])[0].image - expected).abs().max() > 20e-4
