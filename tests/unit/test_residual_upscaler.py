"""The embedded upscaler's space, network and files; what every upscaler promises is in test_upscaler_conformance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from difix3d_ns.data.procedural.sample_pictures import load_picture
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import resample
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.priors.networks.alternation import AlternatingUpscaler
from difix3d_ns.priors.networks.residual_net import Enlargement, ResidualNet
from difix3d_ns.priors.registry import load_upscaler
from difix3d_ns.priors.residual import WEIGHTS, load
from difix3d_ns.priors.upscaler_config import UpscalerConfig
from difix3d_ns.training.systems.upscale import upscaled
from tests.unit.known_scenes import picture
from tests.unit.tiny_residual import NET, write_residual

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_residual(tmp_path_factory.mktemp("residual"))


def batch(height: int, width: int, seed: int = 0) -> Tensor:
    return picture(height, width, seed).permute(2, 0, 1)[None]


@pytest.mark.parametrize("size", [(48, 64), (47, 61), (50, 33), (5, 3)])
def test_any_picture_is_encoded_and_decoded_exactly(size: tuple[int, int]):
    enlargement = Enlargement(batch(max(1, size[0] // 3), max(1, size[1] // 3)), size, {4: 18.0, 2: 30.0})
    whole = batch(*size, 5)
    latent = enlargement.encode(whole)
    assert latent.shape[1] == 48 and all(side % 2 == 0 for side in latent.shape[2:])
    assert enlargement.conditions().shape == (1, 99, *latent.shape[2:])
    torch.testing.assert_close(enlargement.decode(latent), whole, atol=1e-5, rtol=0)


def test_scales_of_factors_between_those_known():
    scales = {4.0: 16.0, 2.0: 32.0}

    def scale(side: int) -> float:
        enlargement = Enlargement(batch(16, 16), (side, side), scales)
        return float(enlargement.encode(enlargement.picture + 1).mean())

    found = [scale(side) for side in (20, 32, 46, 64, 80)]
    assert found[0] == pytest.approx(32) and found[1] == pytest.approx(32)
    assert 22 < found[2] < 24  # halfway by its logarithm
    assert found[3] == pytest.approx(16) and found[4] == pytest.approx(16)


def test_conditions_tell_the_whole_photograph():
    """Cosine transforms keep the energy of what they transform."""
    enlargement = Enlargement(batch(12, 16), (48, 64), {4.0: 18.0})
    told = enlargement.conditions()
    means = resample(enlargement.picture, 12, 16)
    assert (told[:, :3] - (2 * torch.nn.functional.avg_pool2d(enlargement.picture, 4) - 1)).abs().max() < 1e-5
    assert means.shape[-2:] == told.shape[-2:]
    energy = float(enlargement.picture.square().sum())
    kept = float((2 * told[:, :3] + 2).square().sum() + (told[:, 6:51] / 18).square().sum())
    assert kept == pytest.approx(energy, rel=1e-4)


def test_tiles_give_what_the_whole_gives(weights: Path):
    net = load(str(weights), dtype=torch.float32).net
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 48, 38, 52, generator=generator)
    enlargement = Enlargement(batch(38, 52), (152, 208), net.scales)
    asked = (enlargement.conditions(), torch.tensor([666]), torch.tensor([0.1]), 4.0)
    whole = net(noisy, *asked)
    torch.testing.assert_close(net.in_tiles(noisy, *asked, tile=16), whole, atol=1e-5, rtol=1e-5)
    less = net.in_tiles(noisy.clone().index_fill_(3, torch.arange(51, 52), 0.0), *asked, tile=16)
    assert torch.equal(less[..., :20], net.in_tiles(noisy, *asked, tile=16)[..., :20])  # nothing is seen from so far
    assert not torch.equal(less, whole)


def test_timestep_and_factor_are_told(weights: Path):
    net = load(str(weights), dtype=torch.float32).net
    noisy, told = torch.zeros(1, 48, 4, 4), torch.ones(1, 99, 4, 4)
    answers = [
        net(noisy, told, torch.tensor([level]), torch.tensor([0.1]), factor)
        for level, factor in ((666, 4.0), (333, 4.0), (666, 2.0))
    ]
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


def test_an_untrained_network_keeps_what_noise_leaves():
    with torch.random.fork_rng():
        net = ResidualNet(**NET)  # type: ignore[arg-type]
    noisy, told = torch.ones(1, 48, 4, 4), torch.ones(1, 99, 4, 4)
    with torch.no_grad():
        clean = [float(net(noisy, told, torch.tensor([5]), torch.tensor([a]), 4.0).mean()) for a in (0.005, 0.5, 0.999)]
    assert 0 < clean[0] < 0.1 < clean[1] < 0.9 < clean[2] < 1.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_options_reach_the_alternation(weights: Path, dtype: torch.dtype):
    options = (("eta", 1.0), ("samples", 2), ("transition", "posterior"), ("back_projection", False))
    upscaler = load_upscaler("residual", str(weights), dtype=dtype, options=options)
    assert isinstance(upscaler, AlternatingUpscaler)
    low = picture(8, 10, 0)
    state = upscaler.start([low], [(32, 40)], [0])
    assert upscaler.steps_left(state) == 2
    state = upscaler.step(upscaler.step(state))
    (rough,) = upscaler.result(state)
    plain = load_upscaler("residual", str(weights), dtype=dtype, options=options[:3])
    (exact,) = plain.result(state)
    reduced = [resample(x.permute(2, 0, 1)[None], 8, 10)[0].permute(1, 2, 0) for x in (rough, exact)]
    errors = [float((one - low).square().mean()) for one in reduced]
    assert errors[1] < errors[0]


def test_weights_that_cannot_be_read_are_named(weights: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"upscaler weights not found: .*train-prior"):
        load(str(tmp_path / "nothing"))
    for name in ("weights.safetensors", "weights.json"):
        (tmp_path / name).write_bytes((weights / name).read_bytes())
    (tmp_path / "weights.json").write_text(json.dumps({"net": {"wide": 4}, "scheduler": {}}))
    with pytest.raises(RuntimeError, match=r"(?s)cannot read upscaler weights .*difix3d train-prior upscale"):
        load(str(tmp_path))
    (tmp_path / "weights.json").write_text("{")
    with pytest.raises(UserError, match=r"pipeline.guidance.upscaler.weights"):
        UpscalerConfig(weights=str(tmp_path)).load(torch.device("cpu"))
    with pytest.raises(UserError, match="eta"):
        UpscalerConfig(weights=str(weights), transition="ddim", eta=3.0).load(torch.device("cpu"))


@pytest.mark.parametrize("factor", [4, 2])
def test_the_packages_weights_are_small_and_beat_back_projection(factor: int):
    """On pictures of the demo, which no prior is trained on."""
    assert WEIGHTS.stat().st_size <= 4 * 2**20
    assert json.loads(WEIGHTS.with_suffix(".json").read_text())["license"] == "Apache-2.0"
    upscaler, plain = load_upscaler("residual"), load_upscaler("backprojection")
    gains = []
    for name in ("coffee", "chelsea"):
        whole = torch.from_numpy(load_picture(name, "demo").copy())[60:252, 100:292].float() / 255
        metrics = [image_metrics(upscaled(one, whole, factor), whole) for one in (plain, upscaler)]
        gains.append([metrics[1][key] - metrics[0][key] for key in ("psnr", "flip")])
    psnr, flip = (sum(values) / len(gains) for values in zip(*gains, strict=True))
    assert psnr > 0.15 and flip < 0


@pytest.mark.parametrize(("transition", "shared"), [("released", True), ("posterior", False)])
def test_the_released_codes_photos_share_their_noise(weights: Path, transition: str, shared: bool):
    upscaler = load_upscaler("residual", str(weights), dtype=torch.float32, options=(("transition", transition),))
    low, render = picture(8, 10, 0), picture(32, 40, 1)
    first = [upscaler.step(upscaler.start([low], [(32, 40)], [seed])) for seed in (3, 4)]
    assert not torch.equal(first[0]["noisy"], first[1]["noisy"])  # the first round's noise is each photo's own
    second = [upscaler.advance(state, [render])["noisy"].float() for state in first]
    # the rest of either is a fresh draw: what the two have in common of the first round's latent shows in their mean
    levels = upscaler._signals  # type: ignore[attr-defined]
    alpha = levels[0] / levels[1]
    of_noisy = alpha**0.5 * (1 - levels[1]) / (1 - levels[0])
    starts = [state.get("first", state["noisy"]).float() for state in first]
    rest = [late - of_noisy * start for late, start in zip(second, starts, strict=True)]
    assert float((rest[0] - rest[1]).std()) > 0.5
    assert torch.equal(starts[0], starts[1]) == shared
