"""The refiner of orbits: the embedded upscaler's network, with depth, which meets splats of few photos."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import BACK_PROJECTIONS, back_project, resample
from difix3d_ns.priors.base import OrbitFrame
from difix3d_ns.priors.hi3d import ResidualOrbitRefiner
from difix3d_ns.priors.networks.diffusion import signal_levels
from difix3d_ns.priors.networks.orbit_frames import DEPTH_CHANNELS, depth_conditions, normalised_depths
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.residual_net import PATCH, Enlargement, ResidualNet
from difix3d_ns.priors.residual import read_net as read_upscaler
from difix3d_ns.training.crops import Crop, common_size, integer, to_bytes
from difix3d_ns.training.degradation import degraded
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.networks import configured, save_half
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import Make

_FACTOR = 2
_SIDE = 2 * PATCH * _FACTOR  # crops are multiples of it
_TRIES = 4  # places of a crop, of which one that shows something is taken
_PLAIN = 0.02  # standard deviation of a crop that shows next to nothing
_DEGRADED = 0.15  # share of crops that begin from the truth, made worse, instead of the splat's render
_FROM_START = 0.5  # share of crops whose noised picture is the frame as it is, as in the chain's beginning
_WITHOUT_DEPTH = 0.15
_CHAIN = (666, 333, 0)  # timesteps, of which the prior may leave some out
_JITTER = 20  # around these
_MAX_WEIGHT = 2.0


class Prepared(NamedTuple):
    """The frames of an orbit, one below the other."""

    render: Tensor  # [3, N H, W] uint8
    truth: Tensor  # [3, N H, W] uint8
    depth: Tensor  # [1, N H, W] float16, normalised
    frames: Tensor  # scalar N


class Batch(NamedTuple):
    """Crops of frames."""

    low: Tensor  # [B, 3, h, w] in [0, 1]
    truth: Tensor  # [B, 3, H, W] in [0, 1]
    depth: Tensor  # [B, 1, H, W], normalised
    with_depth: Tensor  # [B] bool
    from_start: Tensor  # [B] bool
    level: Tensor  # [B] timesteps
    noise: Tensor  # [B, 48, H/4, W/4]


class Hi3D:
    """``ResidualNet`` with depth as a ``System``."""

    variants = ("bicubic", "backprojection", "no-depth", "refined")

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        try:
            self._signals = signal_levels(recipe.network["scheduler"]).float()
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"recipe: network.scheduler is no scheduler of diffusers: {error!r}") from error

    def build(self) -> ResidualNet:
        """The network, of the embedded upscaler's weights, or of those to start from, which know nothing of depth."""
        net = configured(ResidualNet, self._recipe, "orbit refiner", extra=DEPTH_CHANNELS)
        try:
            known = read_upscaler(self._recipe.start)[0].state_dict()
            first = known["enter.weight"]
            more = net.enter.in_channels - first.shape[1]
            known["enter.weight"] = torch.cat([first, first.new_zeros(len(first), more, *first.shape[2:])], 1)
            net.load_state_dict(known)
        except (OSError, RuntimeError) as error:
            raise UserError(f"--start: these weights do not fit the recipe's network: {error}") from error
        return net.to(memory_format=torch.channels_last)

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """The whole network."""
        return {"net": list(module.parameters())}

    def prepare(self, sample: Sample) -> Prepared:
        """Keep the pictures, and depth normalised once for the orbit."""
        frames = int(sample.provenance.get("frames", 1))
        render, truth = (to_bytes(picture.permute(2, 0, 1)) for picture in (sample.request.image, sample.truth))
        depth = sample.request.depth
        assert depth is not None
        normalised = normalised_depths(depth.permute(2, 0, 1)[None])[0].half()
        return Prepared(render, truth, normalised, torch.tensor(frames))

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """Crops of one frame of each orbit, mirrored, turned and coloured otherwise."""
        heights = [sample.truth.shape[-2] // int(sample.frames) for sample in prepared]
        wanted = common_size(
            self._recipe.crop_of(phase), [s.truth[:, :h] for s, h in zip(prepared, heights, strict=True)]
        )
        height, width = (side // _SIDE * _SIDE for side in wanted)
        if not height * width:
            raise UserError(f"recipe: crops and pictures of at least {_SIDE} pixels are needed, not {wanted}")
        truths, lows, depths = [], [], []
        for sample, rows in zip(prepared, heights, strict=True):
            top = rows * integer(int(sample.frames), generator)
            render, true, depth = (maps[:, top : top + rows] for maps in sample[:3])
            for _ in range(_TRIES):
                crop = Crop.draw(true.shape[-2:], (height, width), generator)
                truth = crop.colour(true)
                if float(truth.std()) > _PLAIN:
                    break
            if torch.rand((), generator=generator) < _DEGRADED:
                low = degraded(_halved(truth), generator)
            else:
                low = _halved(crop.colour(render))
            truths.append(truth)
            lows.append((low * 255).round() / 255)
            depths.append(crop.cut(depth).float())
        count = len(prepared)
        return Batch(
            torch.stack(lows),
            torch.stack(truths),
            torch.stack(depths),
            torch.rand(count, generator=generator) >= _WITHOUT_DEPTH,
            torch.rand(count, generator=generator) < _FROM_START,
            torch.stack([self._level(generator) for _ in prepared]),
            torch.randn(count, 3 * PATCH**2, height // PATCH, width // PATCH, generator=generator),
        )

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """Squared error of the clean latent as in v-prediction, its weight bounded, and the recipe's of the picture."""
        assert isinstance(module, ResidualNet)
        height, width = batch.truth.shape[-2:]
        signal = self._signals.to(batch.level.device)[batch.level]
        with torch.autocast(batch.truth.device.type, enabled=False):
            enlargement = Enlargement(batch.low, (height, width), module.scales)
            target = enlargement.encode(batch.truth)
            depth = depth_conditions(batch.depth, *target.shape[-2:]) * batch.with_depth.view(-1, 1, 1, 1)
            conditions = torch.cat([enlargement.conditions(), depth], 1)
            each = signal.view(-1, 1, 1, 1)
            shown = target * ~batch.from_start.view(-1, 1, 1, 1)
            noisy = each.sqrt() * shown + (1 - each).sqrt() * batch.noise
        clean = module(noisy, conditions, batch.level, signal, enlargement.factor).float()
        weight = (1 / (1 - signal)).clamp(max=_MAX_WEIGHT)
        loss = (weight * (clean - target).square().mean((1, 2, 3))).mean()
        return loss + compare(enlargement.decode(clean), batch.truth)

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Frames enlarged and refined, each for itself: samples have no cameras by which they could agree."""
        assert isinstance(module, ResidualNet)
        device = next(module.parameters()).device
        net = copy.deepcopy(module).to(fast_dtype(device.type))
        refiner = ResidualOrbitRefiner(net, self._signals, device, 0.0)

        def enlarged(sample: Sample, times: int) -> Tensor:
            low = _halved(sample.request.image.permute(2, 0, 1))
            high = resample(low[None], *sample.truth.shape[:2]).clamp(0, 1)
            return back_project(high, low[None], times)[0].permute(1, 2, 0)

        return {
            "bicubic": lambda sample: enlarged(sample, 0),
            "backprojection": lambda sample: enlarged(sample, BACK_PROJECTIONS),
            "no-depth": lambda sample: _refined(refiner, sample, False),
            "refined": lambda sample: _refined(refiner, sample, True),
        }

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float16) and its JSON."""
        network = {**self._recipe.network, "net": {**self._recipe.network["net"], "extra": DEPTH_CHANNELS}}
        save_half(module, folder, {**network, **self._recipe.extra})

    def _level(self, generator: Generator) -> Tensor:
        """Half of the timesteps from anywhere up to the first of a chain, half near those of one."""
        anywhere = torch.randint(_CHAIN[0] + _JITTER, (), generator=generator)
        near = _CHAIN[integer(len(_CHAIN), generator)] + integer(2 * _JITTER + 1, generator) - _JITTER
        return anywhere if integer(2, generator) else torch.tensor(near).clamp(0, len(self._signals) - 1)


def _halved(picture: Tensor) -> Tensor:
    """A picture [3, H, W] at half its size."""
    return resample(picture[None], picture.shape[-2] // _FACTOR, picture.shape[-1] // _FACTOR)[0].clamp(0, 1)


def _refined(refiner: ResidualOrbitRefiner, sample: Sample, with_depth: bool) -> Tensor:
    count = int(sample.provenance.get("frames", 1))
    images, depth = sample.request.image.chunk(count), sample.request.depth
    depths = depth.chunk(count) if with_depth and depth is not None else [None] * count
    frames = []
    for image, one in zip(images, depths, strict=True):
        low = _halved(image.permute(2, 0, 1)).permute(1, 2, 0)
        frames.append(OrbitFrame(low, Pinhole(torch.eye(4), torch.eye(3), low.shape[1], low.shape[0]), one))
    state = refiner.start(frames)
    while refiner.steps_left(state):
        state = refiner.step(state)
    return torch.cat(refiner.result(state)).to(sample.truth)


def create(recipe: Recipe) -> Hi3D:
    """The system ``hi3d``."""
    return Hi3D(recipe)
