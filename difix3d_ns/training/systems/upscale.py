"""The embedded upscaler: a diffusion model that meets true pictures and what splats of smaller ones show."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import BACK_PROJECTIONS, resample, resampled
from difix3d_ns.priors.base import Upscaler
from difix3d_ns.priors.bicubic import BicubicUpscaler
from difix3d_ns.priors.networks.alternation import LEVELS
from difix3d_ns.priors.networks.diffusion import signal_levels
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.residual_net import PATCH, Enlargement, ResidualNet
from difix3d_ns.priors.residual import ResidualUpscaler, read_net
from difix3d_ns.priors.single_photo import upscale_alone
from difix3d_ns.training.crops import Crop, common_size, integer, to_bytes
from difix3d_ns.training.degradation import degraded
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.networks import begin_with, configured, save_half
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import Make

FACTORS = {4.0: 0.55, 3.0: 0.15, 2.0: 0.15, 1.5: 0.15}
"""shares of the factors"""
_SIDE = 24  # crops are multiples of it: all factors divide them into whole pixels, and the network needs 8
_RENDERS = 0.8  # share of crops that begin from the splat's render, of those with one for the factor
_REDUCED = 0.25  # share of crops that are cut twice as large and reduced: a scene from further away, and sharper
_DEGRADED = 0.2  # share of photographs that are not just reduced
_JITTER = 20  # timesteps around the four that are used
_FLAT, _BUSY = 0.25, 0.55  # what a flat picture's error is divided by, and the mean of what busyness is measured by
_MAX_WEIGHT = 2.0  # of an error, relative to one in noise alone: a render's at little noise would outweigh all others


class Prepared(NamedTuple):
    """A picture, what a splat shows there, and the factor its photographs were reduced by."""

    render: Tensor  # [3, H, W] uint8
    truth: Tensor  # [3, H, W] uint8
    factor: Tensor  # scalar


class Batch(NamedTuple):
    """Crops of one factor."""

    low: Tensor  # [B, 3, h, w] in [0, 1]
    shown: Tensor  # [B, 3, H, W] in [0, 1], what is noised: the truth, or a render
    truth: Tensor  # [B, 3, H, W] in [0, 1]
    level: Tensor  # [B] timesteps
    noise: Tensor  # [B, 48, H/4, W/4]


class Upscale:
    """``ResidualNet`` as a ``System``."""

    variants = ("bicubic", "backprojection", "last", "first", "rendered")

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        try:
            self._signals = signal_levels(recipe.network["scheduler"]).float()
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"recipe: network.scheduler is no scheduler of diffusers: {error!r}") from error

    def build(self) -> ResidualNet:
        """The network, new or of the weights to start from."""
        net = configured(ResidualNet, self._recipe, "upscaler")
        begin_with(net, self._recipe, lambda start: read_net(start)[0])
        return net.to(memory_format=torch.channels_last)

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """The whole network."""
        return {"net": list(module.parameters())}

    def prepare(self, sample: Sample) -> Prepared:
        """Keep the pictures."""
        render, truth = (to_bytes(picture.permute(2, 0, 1)) for picture in (sample.request.image, sample.truth))
        return Prepared(render, truth, torch.tensor(_factor(sample)))

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """Random crops of one factor with colour jitter, mirrored and turned, some of them of worse photographs."""
        factor = list(FACTORS)[int(torch.multinomial(torch.tensor(list(FACTORS.values())), 1, generator=generator))]
        wanted = common_size(self._recipe.crop_of(phase), [sample.truth for sample in prepared])
        height, width = (side // _SIDE * _SIDE for side in wanted)
        if not height * width:
            raise UserError(f"recipe: crops and pictures of at least {_SIDE} pixels are needed, not {wanted}")
        truths, shown, lows = [], [], []
        for sample in prepared:
            reduced = bool(torch.rand((), generator=generator) < _REDUCED)
            reduced &= min(sample.truth.shape[-2] - 2 * height, sample.truth.shape[-1] - 2 * width) >= 0
            size = (2 * height, 2 * width) if reduced else (height, width)
            crop = Crop.draw(sample.truth.shape[-2:], size, generator)
            truth = crop.colour(sample.truth)
            if reduced:
                truth = resample(truth[None], height, width)[0].clamp(0, 1)
            begins = factor > sample.factor / 2 and factor <= sample.factor and not reduced
            rendered = bool(torch.rand((), generator=generator) < _RENDERS) and begins
            low = resample(truth[None], round(height / factor), round(width / factor))[0].clamp(0, 1)
            if torch.rand((), generator=generator) < _DEGRADED:
                low = degraded(low, generator)
            truths.append(truth)
            shown.append(crop.colour(sample.render) if rendered else truth)
            lows.append((low * 255).round() / 255)
        count = len(prepared)
        noise = torch.randn(count, 3 * PATCH**2, height // PATCH, width // PATCH, generator=generator)
        levels = torch.stack([_level(len(self._signals), generator) for _ in prepared])
        return Batch(torch.stack(lows), torch.stack(shown), torch.stack(truths), levels, noise)

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """Squared error of the clean latent as in v-prediction, its weight bounded, and the recipe's of the picture."""
        assert isinstance(module, ResidualNet)
        height, width = batch.truth.shape[-2:]
        signal = self._signals.to(batch.level.device)[batch.level]
        with torch.autocast(batch.truth.device.type, enabled=False):
            enlargement = Enlargement(batch.low, (height, width), module.scales)
            target, conditions = enlargement.encode(batch.truth), enlargement.conditions()
            each = signal.view(-1, 1, 1, 1)
            noisy = each.sqrt() * enlargement.encode(batch.shown) + (1 - each).sqrt() * batch.noise
        clean = module(noisy, conditions, batch.level, signal, enlargement.factor).float()
        # Flat pictures count about as much as busy ones, as in a mean of PSNRs; found in what is given, not in the
        # truth: else the estimate would no longer be the mean.
        busy = conditions[:, 3:6].square().mean((1, 2, 3))
        weight = (1 / (1 - signal)).clamp(max=_MAX_WEIGHT) / (_FLAT + busy / _BUSY)
        loss = (weight * (clean - target).square().mean((1, 2, 3))).mean()
        return loss + compare(enlargement.decode(clean), batch.truth)

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Enlargements of truths reduced as the photographs of the sample's splat were.

        Of the first round; of the last, after others whose render was the own result, or the sample's.
        """
        assert isinstance(module, ResidualNet)
        device = next(module.parameters()).device
        net = copy.deepcopy(module).to(fast_dtype(device.type))
        upscaler = ResidualUpscaler(net, self._signals, device)
        bicubic, projected = BicubicUpscaler(device), BicubicUpscaler(device, BACK_PROJECTIONS)
        last = upscaler.rounds
        return {
            "bicubic": lambda sample: upscaled(bicubic, sample.truth, _factor(sample)),
            "backprojection": lambda sample: upscaled(projected, sample.truth, _factor(sample)),
            "last": lambda sample: upscaled(upscaler, sample.truth, _factor(sample), last),
            "first": lambda sample: upscaled(upscaler, sample.truth, _factor(sample)),
            "rendered": lambda sample: upscaled(
                upscaler, sample.truth, _factor(sample), last, render=sample.request.image
            ),
        }

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float16) and its JSON."""
        save_half(module, folder, {**self._recipe.network, **self._recipe.extra})


def upscaled(
    upscaler: Upscaler,
    truth: Tensor,
    factor: float,
    rounds: int = 1,
    seed: int = 0,
    render: Tensor | None = None,
) -> Tensor:
    """Reduce a picture and enlarge it again.

    Args:
        upscaler: of one photograph at a time.
        truth: [H, W, 3] in [0, 1].
        factor: by which it is reduced.
        rounds: how many.
        seed: of the upscaler's draws.
        render: [H, W, 3] in [0, 1], what a splat shows after each round; None: the round's result.

    Returns:
        [H, W, 3] in [0, 1].
    """
    height, width = truth.shape[:2]
    low = resampled(truth, round(height / factor), round(width / factor))
    return upscale_alone(upscaler, low, (height, width), seed, rounds, render)


def _factor(sample: Sample) -> int:
    """The factor that photographs of a sample's splat were reduced by."""
    return 2 if str(sample.provenance.get("unit", "")).endswith("_2") else 4


def _level(count: int, generator: Generator) -> Tensor:
    """Half of the timesteps from anywhere, half near those that are used."""
    anywhere = torch.randint(count, (), generator=generator)
    near = LEVELS[integer(len(LEVELS), generator)] + integer(2 * _JITTER + 1, generator) - _JITTER
    return anywhere if integer(2, generator) else torch.tensor(near).clamp(0, count - 1)


def create(recipe: Recipe) -> Upscale:
    """The system ``upscale``."""
    return Upscale(recipe)
