"""Densification as Markov chain Monte Carlo, without CUDA."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch

from difix3d_ns.ns.model import SplatModelConfig
from difix3d_ns.rasterization import rasterization
from difix3d_ns.splats.strategies.mcmc import DeviceFreeMCMCStrategy, build_mcmc, compute_relocation, regularization

NAMES = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")


def _params(n: int, seed: int = 0) -> torch.nn.ParameterDict:
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    return torch.nn.ParameterDict(
        {
            "means": torch.nn.Parameter(draw(n, 3) * 0.4),
            "scales": torch.nn.Parameter(draw(n, 3) * 0.2 - 2.5),
            "quats": torch.nn.Parameter(draw(n, 4)),
            "features_dc": torch.nn.Parameter(draw(n, 3) * 0.3),
            "features_rest": torch.nn.Parameter(torch.zeros(n, 3, 3)),
            "opacities": torch.nn.Parameter(draw(n, 1)),
        }
    )


def _optimizers(params: torch.nn.ParameterDict, lr: float = 1e-2) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.Adam([parameter], lr=lr) for name, parameter in params.items()}


def _render(params: Any, size: int = 48) -> torch.Tensor:  # [size, size, 3]
    view = torch.eye(4)
    view[2, 3] = 3.0
    intrinsics = torch.tensor([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1.0]])
    image, _, _ = rasterization(
        params["means"],
        params["quats"],
        torch.exp(params["scales"]),
        torch.sigmoid(params["opacities"]).squeeze(-1),
        torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1),
        view[None],
        intrinsics[None],
        size,
        size,
        sh_degree=1,
        packed=False,
    )
    return image[0]


def _fill_moments(params: Any, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    sum(parameter.square().sum() for parameter in params.values()).backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("copies", [1, 2, 3, 7, 20, 51])
@pytest.mark.parametrize("opacity", [0.02, 0.3, 0.9, 0.999])
def test_relocation_is_equation_9(copies: int, opacity: float) -> None:
    new, scales = compute_relocation(
        torch.tensor([opacity], dtype=torch.float64), torch.ones(1, 3).double(), torch.tensor([copies])
    )
    assert float(1 - (1 - new[0]) ** copies) == pytest.approx(opacity, rel=1e-9)
    double_sum = sum(
        math.comb(i - 1, k) * (-1) ** k * float(new[0]) ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    assert scales[0].tolist() == pytest.approx([opacity / double_sum] * 3, rel=1e-6)


@pytest.mark.parametrize("copies", [2, 5, 30])
def test_light_along_a_line_is_kept(copies: int) -> None:
    x = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    opacity, scale = torch.tensor([0.9]).double(), torch.full((1, 3), 0.4).double()
    new, scales = compute_relocation(opacity, scale, torch.tensor([copies]))
    one = opacity * torch.exp(-(x**2) / (2 * 0.4**2))
    many = 1 - (1 - new * torch.exp(-(x**2) / (2 * scales[0, 0] ** 2))) ** copies
    assert float(many.sum()) == pytest.approx(float(one.sum()), rel=1e-6)


@pytest.mark.parametrize("copies", [2, 4, 10])
def test_co_located_copies_look_like_the_one(copies: int) -> None:
    def image(opacity: torch.Tensor, scale: torch.Tensor, count: int) -> torch.Tensor:
        params = {
            "means": torch.zeros(count, 3),
            "scales": torch.log(scale).expand(count, 3),
            "quats": torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
            "features_dc": torch.ones(count, 3),
            "features_rest": torch.zeros(count, 3, 3),
            "opacities": torch.logit(opacity).expand(count, 1),
        }
        return _render(params)

    opacity, scale = torch.tensor([0.8]), torch.tensor([[0.3, 0.3, 0.3]])
    truth = image(opacity, scale, 1)
    new_opacity, new_scale = compute_relocation(opacity, scale, torch.tensor([copies]))
    error = (image(new_opacity, new_scale, copies) - truth).abs().mean()
    careless = (image(opacity, scale, copies) - truth).abs().mean()
    only_opacity = (image(new_opacity, scale, copies) - truth).abs().mean()
    # the equation keeps light along lines, not in the plane, and every copy is cut at 1/255: 8 to 16 % remain
    assert error < 0.17 * truth.mean()
    assert error < 0.2 * careless
    assert error < 0.5 * only_opacity


def test_dead_gaussians_move_to_living_ones() -> None:
    params = _params(40)
    params["opacities"].data[:10] = -9.0
    params["opacities"].data[3] = float("nan")
    optimizers = _optimizers(params)
    before = params["means"].detach().clone()
    strategy = DeviceFreeMCMCStrategy(cap_max=40, refine_start_iter=0, refine_every=1, noise_lr=0.0)
    strategy.step_post_backward(params, optimizers, {}, 5, {}, lr=1.0)
    assert len(params["means"]) == 40
    assert (torch.sigmoid(params["opacities"]) >= strategy.min_opacity * 0.999).all()
    # the exact way: through a matrix product, equal points would lie up to 1e-3 apart
    distances = torch.cdist(params["means"][:10], before[10:], compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(dim=1).values.max() < 1e-6
    assert torch.equal(params["means"][10:], before[10:])


def test_all_dead_changes_nothing() -> None:
    params = _params(5)
    params["opacities"].data[:] = -9.0
    before = params["means"].detach().clone()
    strategy = DeviceFreeMCMCStrategy(cap_max=5, refine_start_iter=0, refine_every=1, noise_lr=0.0)
    strategy.step_post_backward(params, _optimizers(params), {}, 5, {}, lr=1.0)
    assert torch.equal(params["means"], before)


def test_growth_ends_at_the_cap_and_optimizers_follow() -> None:
    params = _params(50)
    optimizers = _optimizers(params)
    _fill_moments(params, optimizers)
    strategy = DeviceFreeMCMCStrategy(cap_max=60, refine_start_iter=0, refine_every=1)
    counts = []
    for step in range(1, 9):
        strategy.step_post_backward(params, optimizers, {}, step, {}, lr=1e-5)
        counts.append(len(params["means"]))
    assert counts[0] > 50 and counts == sorted(counts)
    assert counts[-1] == 60
    for name, parameter in params.items():
        group = optimizers[name].param_groups[0]
        assert group["params"] == [parameter] or group["params"][0] is parameter
        moments = optimizers[name].state[parameter]
        assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape
        assert parameter.requires_grad
    _fill_moments(params, optimizers)


def test_more_than_the_cap_to_begin_with_stays() -> None:
    params = _params(50)
    strategy = DeviceFreeMCMCStrategy(cap_max=20, refine_start_iter=0, refine_every=1)
    strategy.step_post_backward(params, _optimizers(params), {}, 1, {}, lr=1e-5)
    assert len(params["means"]) == 50


def test_refinement_keeps_the_picture() -> None:
    params = _params(200, seed=3)
    truth = _render(params).detach()
    strategy = DeviceFreeMCMCStrategy(cap_max=220, refine_start_iter=0, refine_every=1, growth=0.1, noise_lr=0.0)
    torch.manual_seed(0)
    strategy.step_post_backward(params, _optimizers(params), {}, 1, {}, lr=0.0)
    assert len(params["means"]) == 220
    assert (_render(params) - truth).abs().mean() < 0.02 * truth.abs().mean()


def test_only_transparent_gaussians_wander_within_their_shape() -> None:
    params = _params(2000)
    params["opacities"].data[:1000] = 3.0
    params["opacities"].data[1000:] = -12.0
    params["quats"].data[:] = torch.tensor([1.0, 0, 0, 0])
    params["scales"].data[:] = torch.log(torch.tensor([0.1, 0.2, 0.4]))
    before = params["means"].detach().clone()
    strategy = DeviceFreeMCMCStrategy(noise_lr=1.0)
    torch.manual_seed(0)
    strategy.step_post_backward(params, _optimizers(params), {}, 0, {}, lr=1.0)
    moved = params["means"].detach() - before
    assert moved[:1000].abs().max() < 1e-4
    expected = torch.tensor([0.01, 0.04, 0.16]) * torch.sigmoid(torch.tensor(0.5))
    assert torch.allclose(moved[1000:].std(dim=0), expected, rtol=0.1)


def test_fifty_steps_on_a_cpu_lower_the_loss() -> None:
    truth = _render(_params(120, seed=1)).detach()
    params = _params(60, seed=2)
    optimizers = _optimizers(params, lr=2e-2)
    strategy = DeviceFreeMCMCStrategy(cap_max=90, refine_start_iter=5, refine_stop_iter=45, refine_every=5, noise_lr=10)
    torch.manual_seed(0)
    losses = []
    for step in range(50):
        image = _render(params)
        strategy.step_pre_backward(params, optimizers, {}, step, {})
        loss = (image - truth).abs().mean()
        (loss + sum(regularization(params["opacities"], params["scales"]).values())).backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(params, optimizers, {}, step, {}, lr=2e-2)
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert 60 < len(params["means"]) <= 90
    assert not any(name.startswith("gsplat.cuda._backend") for name in sys.modules)


def test_built_from_the_models_settings() -> None:
    config = SplatModelConfig(warmup_length=100, stop_split_at=1600, refine_every=50, strategy="mcmc")
    strategy = build_mcmc(config, cap=40_000)
    assert strategy.cap_max == 40_000 and strategy.absgrad is False and strategy.initialize_state() == {}
    assert (strategy.refine_start_iter, strategy.refine_stop_iter, strategy.refine_every) == (100, 1600, 50)
    assert (1 + strategy.growth) ** 30 == pytest.approx(30, rel=1e-3)
    paper = build_mcmc(SplatModelConfig(warmup_length=500, stop_split_at=25_000, refine_every=100), cap=None)
    assert paper.cap_max == 1_000_000 and paper.growth == 0.05


def test_regularisation_is_the_papers() -> None:
    losses = regularization(torch.zeros(4, 1), torch.zeros(4, 3))
    assert losses["mcmc_opacity"].item() == pytest.approx(0.005)
    assert losses["mcmc_scale"].item() == pytest.approx(0.01)
