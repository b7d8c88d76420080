"""An upscaler that alternates as diffusion models do, with arithmetic in place of a network: its latents are pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from difix3d_ns.geometry.resampling import resample
from difix3d_ns.priors.base import Upscaler
from difix3d_ns.priors.networks.alternation import AlternatingUpscaler
from difix3d_ns.priors.networks.diffusion import signal_levels

BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEVELS = (999, 0)


class TinyUpscaler(AlternatingUpscaler, Upscaler):
    """Residuals to bicubic enlargement; the estimate is a share of what is noisy, and differs between photographs."""

    def encode(self, picture: Tensor, low: Tensor) -> Tensor:
        return 2 * (picture - resample(low, *picture.shape[-2:]))

    def decode(self, latent: Tensor, low: Tensor, size: tuple[int, int]) -> Tensor:
        return latent / 2 + resample(low, *size)

    def estimate(self, noisy: Tensor, level: int, low: Tensor, size: tuple[int, int]) -> Tensor:
        return noisy * (0.2 if level > 500 else 0.9)


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    samples: int = 1,
    back_projection: bool = True,
) -> TinyUpscaler:
    signals = signal_levels(BETAS)
    return TinyUpscaler(signals, torch.device(device), LEVELS, samples=samples, back_projection=back_projection)
