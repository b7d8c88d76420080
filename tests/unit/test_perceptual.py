"""LPIPS and FID, with random weights of the right shapes."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import lpips
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from difix3d_ns.errors import UserError
from difix3d_ns.metrics.perceptual import (
    FID,
    LPIPS,
    NETS,
    LazyLPIPS,
    MissingWeights,
    Net,
    PerceptualWeights,
    check_files,
    column,
)

FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "inception": "weights-inception-2015-12-05-6726825d.pth",
}


def _pictures(count: int, seed: int = 0, shape: tuple[int, int] = (48, 64)) -> Tensor:  # [count, 3, H, W]
    return torch.rand(count, 3, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_lpips_is_that_of_its_package(net: Net, perceptual_weights: Path) -> None:
    expected = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = torch.load(perceptual_weights / FILES[net], weights_only=True)
    for part in expected.net.children():
        part.load_state_dict({key: state[f"features.{key}"] for key in part.state_dict()})
    first, second = _pictures(2), _pictures(2, seed=1)
    values = LPIPS(net)(first, second)
    assert values.shape == (2,) and (values > 0).all()
    torch.testing.assert_close(values, expected(first * 2 - 1, second * 2 - 1).flatten())


def test_lpips_teaches_pictures_and_stays_frozen(perceptual_weights: Path) -> None:
    network, picture = LPIPS("alex"), _pictures(1).requires_grad_()
    network(picture, _pictures(1, seed=1)).sum().backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_making_networks_draws_nothing(perceptual_weights: Path) -> None:
    state = torch.get_rng_state()
    LPIPS("alex")
    assert torch.equal(torch.get_rng_state(), state)


def test_columns_name_the_network() -> None:
    assert [column(net) for net in NETS] == ["lpips_alex", "lpips_vgg"]


@pytest.mark.parametrize("network", FILES)
def test_what_is_missing_is_named_with_file_and_address(network: str, no_weights: Path) -> None:
    message = rf"{no_weights}/hub/checkpoints/{FILES[network]} are missing; put https://.*/{FILES[network]} there"
    with pytest.raises(MissingWeights, match=message):
        PerceptualWeights().find(network)
    with pytest.raises(MissingWeights, match=r"elsewhere/.*: there is no such file; get it from https"):
        PerceptualWeights([Path("elsewhere") / FILES[network]], fetch=True).find(network)
    assert list(no_weights.iterdir()) == []


def test_files_can_be_named(perceptual_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = Path(shutil.copy(perceptual_weights / FILES["alex"], tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    weights = PerceptualWeights([named])
    assert weights.find("alex") == named and LPIPS("alex", weights)(_pictures(1), _pictures(1)).item() == 0
    with pytest.raises(MissingWeights):
        weights.find("vgg")


def test_files_with_other_names_or_that_are_not_there_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"--w my_vgg\.pth: weights .* are called alexnet-owt-7be5be79\.pth, .*; rename it"
    ):
        check_files([Path("my_vgg.pth")], "--w")
    with pytest.raises(UserError, match=r"--w nowhere/vgg16-397923af\.pth: there is no such file"):
        check_files([Path("nowhere") / FILES["vgg"]], "--w")


def test_weights_are_fetched_only_if_asked_for(
    perceptual_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (perceptual_weights / FILES["alex"]).as_uri()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setitem(__import__("difix3d_ns.metrics.perceptual", fromlist=["_URLS"])._URLS, "alex", source)
    with pytest.raises(MissingWeights):
        LPIPS("alex")
    with pytest.raises(MissingWeights, match=r"could not be fetched \(invalid hash"):  # these are random weights
        LPIPS("alex", PerceptualWeights(fetch=True))
    assert not list(tmp_path.rglob("*.pth"))
    with mock.patch("torch.hub.download_url_to_file", lambda url, file, **_: shutil.copy(url[7:], file)):
        assert LPIPS("alex", PerceptualWeights(fetch=True))(_pictures(1), _pictures(1)).item() == 0


@pytest.mark.parametrize("content", [b"half", b""])
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / FILES["vgg"]
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file} is damaged .*fetch https"):
        LPIPS("vgg", PerceptualWeights([file]))


def test_another_network_is_noticed(perceptual_weights: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(perceptual_weights / FILES["alex"], tmp_path / FILES["vgg"]))
    with pytest.raises(UserError, match=f"{file} is damaged"):
        LPIPS("vgg", PerceptualWeights([file]))


class TestLazy:
    def test_it_is_told_once_what_is_missing(self, no_weights: Path) -> None:
        messages: list[str] = []
        lazy = LazyLPIPS("vgg", messages.append)
        assert messages == []
        values = [lazy(_pictures(1), _pictures(1)) for _ in range(3)]
        assert all(value.isnan() for value in values)
        assert len(messages) == 1 and messages[0].startswith("lpips_vgg is left out: the weights ")

    def test_it_measures_pictures(self, perceptual_weights: Path) -> None:
        first, second = _pictures(1), _pictures(1, seed=1)
        expected = float(LPIPS("alex")(first, second))
        lazy = LazyLPIPS("alex", pytest.fail)
        assert lazy.measure(first[0].permute(1, 2, 0), second[0].permute(1, 2, 0)) == pytest.approx(expected)
        assert lazy.state_dict() == {} and list(lazy.parameters()) == []

    def test_flavours_of_papers(self, perceptual_weights: Path) -> None:
        """3DGS gives the network pictures in [0, 1]; Nerfbusters averages a map of distances inside a mask."""
        first, second = (one[0].permute(1, 2, 0) for one in (_pictures(1), _pictures(1, seed=1)))
        unscaled = LazyLPIPS("alex", pytest.fail, unscaled=True)
        assert unscaled.column == "lpips_alex_unscaled"
        scaled = LazyLPIPS("alex", pytest.fail)
        expected = scaled.measure(first / 2 + 0.5, second / 2 + 0.5)
        assert unscaled.measure(first, second) == pytest.approx(expected, rel=1e-4)
        assert expected != pytest.approx(scaled.measure(first, second), rel=0.01)
        mask = torch.zeros(48, 64, 1, dtype=torch.bool)
        mask[:, 40:] = True
        half = torch.where(torch.arange(64)[None, :, None] < 20, second, first)  # differs far from the mask
        inside, outside = (scaled.measure(first, half, kept) for kept in (mask, ~mask))
        whole = scaled.measure(first, half, torch.ones_like(mask))
        assert inside < 0.5 * outside
        assert whole == pytest.approx(inside * 24 / 64 + outside * 40 / 64, rel=1e-4)
        assert scaled.measure(first, half) == pytest.approx(whole, rel=0.1)  # maps are enlarged before the mean

    @pytest.mark.parametrize(("net", "side"), [("alex", 35), ("vgg", 16)])
    def test_tiny_pictures_are_not_measured(self, net: Net, side: int, perceptual_weights: Path) -> None:
        lazy = LazyLPIPS(net, pytest.fail)
        for size, measured in ((side, True), (side - 1, False)):
            value = lazy(*(_pictures(1, seed, (size, 50)) for seed in range(2)))
            assert value.isfinite() == measured


class _Means(nn.Module):
    """Four features: the means of the channels and of the first row."""

    num_features = 4

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.double()
        return torch.cat([pictures.mean((2, 3)), pictures[:, :1, 0].mean(2)], dim=1)


class TestFid:
    def test_it_is_the_frechet_distance(self) -> None:
        first, second = _pictures(6), 0.8 * _pictures(5, seed=1)
        value = FID(features=_Means())([p.permute(1, 2, 0) for p in first], [p.permute(1, 2, 0) for p in second])
        features = [_Means()(p) for p in (first, second)]
        means, covariances = [f.mean(0) for f in features], [torch.cov(f.T) for f in features]
        root = torch.linalg.eigvals(covariances[0] @ covariances[1]).sqrt().real.sum()
        expected = (means[0] - means[1]).square().sum() + sum(c.trace() for c in covariances) - 2 * root
        assert value == pytest.approx(float(expected), rel=1e-3)
        assert value > 0.03

    def test_equal_sets_are_at_no_distance(self) -> None:
        metric, pictures = FID(features=_Means()), [p.permute(1, 2, 0) for p in _pictures(4)]
        assert metric(pictures, pictures) == pytest.approx(0, abs=1e-6)
        assert metric(pictures[:2], pictures[2:]) > 1e-4  # nothing is left of the sets before

    def test_inception_is_read_from_its_file(self, perceptual_weights: Path) -> None:
        metric = FID()._metric
        assert isinstance(metric, FrechetInceptionDistance)
        state = torch.load(perceptual_weights / FILES["inception"], weights_only=True)
        assert torch.equal(metric.inception.state_dict()["fc.weight"], state["fc.weight"])
