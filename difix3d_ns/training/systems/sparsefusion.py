"""The diffusion model of what predicted views lack; it meets the scenes of the epipolar network, which is fixed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.priors.eft import read_net as read_epipolar_net
from difix3d_ns.priors.epipolar import facts
from difix3d_ns.priors.networks.diffusion import cosine_signal
from difix3d_ns.priors.networks.eft_net import EpipolarNet
from difix3d_ns.priors.networks.view_denoiser import CHANNELS, ViewDenoiser
from difix3d_ns.priors.sparsefusion import read_net, sampled_signals, sampled_step
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.networks import begin_with, configured, save_half
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.systems.eft import Batch as Request
from difix3d_ns.training.systems.eft import EpipolarSystem, Prepared, predicted
from difix3d_ns.training.validate import Make

_LEVELS = 6  # of noise, for each request: predicting it takes as long as so many passes
_DROPOUT = 0.1  # share of requests without conditions
_MAX_NOISE = 0.99
_MAX_WEIGHT = 4.0
_PREDICTED = 0.25  # share of levels at which the prediction is noised instead of the truth, as a splat that is like it


class Batch(NamedTuple):
    """One request at several levels of noise."""

    request: Request
    times: Tensor  # [N]
    noise: Tensor  # [N, 48, H/4, W/4]
    from_truth: Tensor  # [N] bool
    dropped: Tensor  # [] bool, whether the conditions are


class Networks(nn.Module):
    """The epipolar network, which is fixed, and the diffusion model."""

    def __init__(self, epipolar: EpipolarNet, denoiser: ViewDenoiser) -> None:
        super().__init__()
        self.epipolar, self.denoiser = epipolar, denoiser


class SparseFusionSystem:
    """``ViewDenoiser`` as a ``System``."""

    variants = ("sampled", "rendered", "predicted")

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._requests = EpipolarSystem(recipe)

    def build(self) -> Networks:
        """The networks: of the package's weights, and new or of the weights to start from."""
        try:
            epipolar = read_epipolar_net(self._recipe.network.get("eft"))
        except (OSError, RuntimeError) as error:
            raise UserError(f"recipe: network.eft: {error}") from error
        denoiser = configured(ViewDenoiser, self._recipe, "diffusion model", hidden=epipolar.hidden)
        begin_with(denoiser, self._recipe, read_net)
        return Networks(epipolar, denoiser.to(memory_format=torch.channels_last))

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """The diffusion model."""
        assert isinstance(module, Networks)
        return {"net": list(module.denoiser.parameters())}

    def prepare(self, sample: Sample) -> Prepared:
        """Keep pictures, cameras, the truth, and the scene's points."""
        return self._requests.prepare(sample)

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """A request as of the epipolar network, and levels of noise."""
        request = self._requests.draw(prepared, phase, generator)
        height, width = (side // 4 for side in request.truth.shape[-2:])
        return Batch(
            request,
            _MAX_NOISE * (torch.arange(_LEVELS) + torch.rand(_LEVELS, generator=generator)) / _LEVELS,
            torch.randn(_LEVELS, CHANNELS, height, width, generator=generator),
            torch.rand(_LEVELS, generator=generator) >= _PREDICTED,
            torch.rand((), generator=generator) < _DROPOUT,
        )

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """Squared error of the noise under p2's weight (Choi et al., CVPR 2022, gamma 0.5), and the recipe's losses."""
        assert isinstance(module, Networks)
        denoiser, request = module.denoiser, batch.request
        image, conditions = _conditions(module, request)
        target = denoiser.encode(request.truth, image)
        signal = cosine_signal(batch.times).to(target.dtype)
        each = signal.view(-1, 1, 1, 1)
        shown = target * batch.from_truth.view(-1, 1, 1, 1)
        noisy = each.sqrt() * shown + (1 - each).sqrt() * batch.noise
        conditions = (conditions * ~batch.dropped).expand(len(noisy), -1, -1, -1)
        clean = denoiser(noisy, conditions, signal)
        ratio = signal / (1 - signal)
        weight = (ratio * (1 + ratio) ** -0.5).clamp(max=_MAX_WEIGHT)
        error = (clean - target).square().mean((1, 2, 3))
        pictures = denoiser.decode(clean, image.expand(len(clean), -1, -1, -1))
        return (weight * error).mean() + compare(pictures, request.truth.expand_as(pictures))

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Samples from noise alone and from the prediction half noised, and the prediction, from three photographs."""
        assert isinstance(module, Networks)
        nets = copy.deepcopy(module).eval()

        def make(sample: Sample, noise: float) -> Tensor:
            request = self._requests.whole(sample, next(nets.parameters()).device)
            with torch.no_grad():
                image, conditions = _conditions(nets, request)
                picture = image if noise == 0 else _sampled(nets.denoiser, image, conditions, noise)
            height, width = sample.truth.shape[:2]
            return picture[0, :, :height, :width].permute(1, 2, 0).clamp(0, 1).to(sample.truth)

        return {
            "sampled": lambda sample: make(sample, _MAX_NOISE),
            "rendered": lambda sample: make(sample, 0.5),
            "predicted": lambda sample: make(sample, 0.0),
        }

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float16) and its JSON, of the diffusion model, and ``eft.safetensors`` beside it."""
        assert isinstance(module, Networks)
        net = {"hidden": module.epipolar.hidden, **self._recipe.network["net"]}
        save_half(module.epipolar, folder, {"net": module.epipolar.config, **self._recipe.extra}, "eft")
        save_half(module.denoiser, folder, {"net": net, **self._recipe.extra})


@torch.no_grad()
def _conditions(nets: Networks, request: Request) -> tuple[Tensor, Tensor]:
    """The predicted picture [1, 3, H, W] and what the diffusion model is told of it."""
    found = predicted(nets.epipolar, request)
    image = found.image.clamp(0, 1)
    return image, nets.denoiser.conditions(image, found.hidden, facts(found))


def _sampled(denoiser: ViewDenoiser, image: Tensor, conditions: Tensor, noise: float) -> Tensor:
    """A picture sampled from a level of noise, where the prediction is what was noised."""
    signals = sampled_signals(noise)
    drawn = torch.randn(1, CHANNELS, *conditions.shape[-2:], generator=Generator().manual_seed(0)).to(image)
    noisy, clean = float(1 - signals[0]) ** 0.5 * drawn, drawn
    for signal, following in zip(signals[:-1].tolist(), signals[1:].tolist(), strict=True):
        clean, noisy = sampled_step(denoiser, noisy, conditions, signal, following)
    return denoiser.decode(clean, image)


def create(recipe: Recipe) -> SparseFusionSystem:
    """The system ``sparsefusion``."""
    return SparseFusionSystem(recipe)
