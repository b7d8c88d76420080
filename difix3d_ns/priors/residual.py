"""The default upscaler: a small diffusion model of what back-projection lacks; part of the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.priors.base import Upscaler
from difix3d_ns.priors.networks.alternation import AlternatingUpscaler, Transition
from difix3d_ns.priors.networks.diffusion import signal_levels
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.residual_net import Enlargement, ResidualNet
from difix3d_ns.priors.networks.weight_files import find_weights, loaded, read_weights

WEIGHTS = Path(__file__).parent / "weights" / "upscaler.safetensors"


class ResidualUpscaler(AlternatingUpscaler, Upscaler):
    """``ResidualNet`` behind the contract of ``Upscaler``.

    Args:
        net: the network.
        signals: ``a_t`` of each timestep, [T].
        device: where the network lives.
        transition, eta, samples, back_projection: see ``AlternatingUpscaler``.
    """

    rounds_alone = 1  # without a splat's renders the later rounds are sharper and further from the truth (its card)

    def __init__(
        self,
        net: ResidualNet,
        signals: Tensor,
        device: torch.device,
        transition: Transition = "ddim",
        eta: float = 0.0,
        samples: int = 1,
        back_projection: bool = True,
    ) -> None:
        super().__init__(
            signals, device, transition=transition, eta=eta, samples=samples, back_projection=back_projection
        )
        self.net = net.eval().requires_grad_(False)
        self._all_signals = signals
        self._last: tuple[Tensor, Enlargement] | None = None

    def encode(self, picture: Tensor, low: Tensor) -> Tensor:
        """Difference to the enlargement, four by four pixels to a place."""
        height, width = picture.shape[-2:]
        return self._enlarged(low, (height, width)).encode(picture)

    def decode(self, latent: Tensor, low: Tensor, size: tuple[int, int]) -> Tensor:
        """The enlargement with the difference."""
        return self._enlarged(low, size).decode(latent)

    def estimate(self, noisy: Tensor, level: int, low: Tensor, size: tuple[int, int]) -> Tensor:
        """One pass, in tiles where the picture is large."""
        enlargement = self._enlarged(low, size)
        levels = torch.full((len(noisy),), level, device=noisy.device)
        signal = self._all_signals[level].to(noisy).expand(len(noisy))
        return self.net.in_tiles(noisy, enlargement.conditions(), levels, signal, enlargement.factor)

    def _enlarged(self, low: Tensor, size: tuple[int, int]) -> Enlargement:
        """The enlargement, which takes as long as the network: it is mostly of the same photograph as before."""
        last = self._last
        if last is None or last[1].size != size or last[0].shape != low.shape or not torch.equal(last[0], low):
            last = self._last = (low.clone(), Enlargement(low, size, self.net.scales))
        return last[1]


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    transition: Transition = "ddim",
    eta: float = 0.0,
    samples: int = 1,
    back_projection: bool = True,
) -> AlternatingUpscaler:
    """Read the upscaler from a .safetensors file with its .json beside it.

    Args:
        weights: such a file, a folder with one ("weights.safetensors", as ``difix3d train-prior upscale`` writes), or
            None for the package's own.
        device: where the network lives.
        dtype: its precision; None for ``fast_dtype``.
        transition, eta, samples, back_projection: see ``AlternatingUpscaler``.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: it cannot be read or does not fit.
        ValueError: an option out of its range.
    """
    net, signals = read_net(weights)
    net = net.to(device, dtype or fast_dtype(torch.device(device).type)).to(memory_format=torch.channels_last)
    return ResidualUpscaler(net, signals, torch.device(device), transition, eta, samples, back_projection)


def read_net(weights: str | None) -> tuple[ResidualNet, Tensor]:
    """Read network (float32, on the CPU) and signal levels [T] from weights; errors and argument as of ``load``."""
    path = find_weights(WEIGHTS if weights is None else weights, "upscaler", "upscaler", "upscale")
    return read_weights(
        path,
        build_net,
        "upscaler",
        "--pipeline.guidance.upscaler.weights a folder written by `difix3d train-prior upscale`",
    )


def build_net(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[ResidualNet, Tensor]:
    """Build network and signal levels [T] of the content of weights and their JSON; see ``read_weights``."""
    return loaded(ResidualNet(**config["net"]), tensors), signal_levels(config["scheduler"])
