"""Published latent diffusion upscalers, which the user has or names; 3DSR's own, StableSR, is not among them.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022), section 4.4, and the
upscaler of Stable Diffusion 2. Both are shown the photograph beside a latent of its size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from difix3d_ns.geometry.resize import pad_to_multiple
from difix3d_ns.priors.base import Upscaler
from difix3d_ns.priors.networks.alternation import LEVELS, AlternatingUpscaler, Transition
from difix3d_ns.priors.networks.diffusion import clean_estimate, noised, signal_levels
from difix3d_ns.priors.networks.latent_autoencoder import LatentAutoencoder
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.window_tiles import average_tiles
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.upscaler_folder import UpscalerParts, read_upscaler

NOISE_LEVEL = 20
"""timestep of the noise on the photograph, for models that were trained with it; the default of their pipeline"""
TILE, OVERLAP = 64, 32  # latents, as many as in training; StableSR's overlap


class LatentUpscaler(AlternatingUpscaler, Upscaler):
    """A published upscaler, which works at four times the photograph; smaller results are reduced from there.

    Args:
        parts: the networks, on ``device``.
        device: where they live.
        transition, eta, samples, back_projection: see ``AlternatingUpscaler``.

    Raises:
        ValueError: an argument out of its range, or the scheduler's configuration is unusable.
    """

    def __init__(
        self,
        parts: UpscalerParts,
        device: torch.device,
        transition: Transition = "ddim",
        eta: float = 0.0,
        samples: int = 1,
        back_projection: bool = True,
    ) -> None:
        signals = signal_levels(parts.scheduler)
        levels = [level * (len(signals) - 1) // LEVELS[0] for level in LEVELS]
        super().__init__(signals, device, levels, transition, eta, samples, back_projection)
        self._signal_at = {level: float(signals[level]) for level in levels}
        self._prediction: str = parts.scheduler.get("prediction_type", "epsilon")
        self._limit = (
            float(parts.scheduler.get("clip_sample_range", 1.0)) if parts.scheduler.get("clip_sample") else None
        )
        self._unet = parts.unet.eval().requires_grad_(False)
        network = parts.autoencoder.eval().requires_grad_(False)
        self._autoencoder = LatentAutoencoder(network)
        self._multiple = 2 ** (len(self._unet.config.block_out_channels) - 1)  # of a latent's sides
        self._low_signal: float | None = None
        self._further: dict[str, Tensor] = {}  # inputs of the UNet
        if parts.prompt is not None and parts.low_scheduler is not None:
            self._low_signal = float(signal_levels(parts.low_scheduler)[NOISE_LEVEL])
            self._further = {
                "encoder_hidden_states": parts.prompt.to(device, self._unet.dtype)[None],
                "class_labels": torch.tensor([NOISE_LEVEL], device=device),
            }

    def inner_size(self, low: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        height, width = low.shape[2:]
        return self._autoencoder.factor * height, self._autoencoder.factor * width

    def encode(self, picture: Tensor, low: Tensor) -> Tensor:
        return self._autoencoder.encode(pad_to_multiple(picture, self._autoencoder.factor * self._multiple) * 2 - 1)

    def decode(self, latent: Tensor, low: Tensor, size: tuple[int, int]) -> Tensor:
        """The picture, clamped as the published pipelines do before anything else."""
        return (self._autoencoder.decode(latent)[..., : size[0], : size[1]] / 2 + 0.5).clamp(0, 1)

    def condition(self, low: Tensor, seed: int, sample: int) -> Tensor:
        """The photograph in [-1, 1], padded as the latent is, with noise if the model was trained with some."""
        shown = pad_to_multiple(low, self._multiple) * 2 - 1
        if self._low_signal is None:
            return shown
        generator = torch.Generator().manual_seed(-1 - seed)  # latents are drawn from seeds that are not negative
        noise = torch.randn((sample + 1, *shown.shape[1:]), generator=generator)[sample:]
        return noised(shown, noise.to(shown.device), self._low_signal)

    def estimate(self, noisy: Tensor, level: int, low: Tensor, size: tuple[int, int]) -> Tensor:
        def predict(tile: Tensor) -> Tensor:
            output: Tensor = self._unet(tile.to(self._unet.dtype), level, **self._further).sample
            return output

        output = average_tiles(predict, torch.cat([noisy, low], 1), TILE, OVERLAP)
        clean = clean_estimate(noisy, output, self._signal_at[level], self._prediction)
        return clean if self._limit is None else clean.clamp(-self._limit, self._limit)


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    transition: Transition = "ddim",
    eta: float = 0.0,
    samples: int = 1,
    back_projection: bool = True,
) -> LatentUpscaler:
    """Read a published upscaler.

    Args:
        weights: a folder in diffusers' layout, of LDMSuperResolutionPipeline (a converted copy of
            CompVis/ldm-super-resolution-4x-openimages) or of StableDiffusionUpscalePipeline
            (stabilityai/stable-diffusion-x4-upscaler), or a hub id, which downloads.
        device: where the networks live.
        dtype: their precision; None for ``fast_dtype``.
        transition, eta, samples, back_projection: see ``AlternatingUpscaler``.

    Raises:
        FileNotFoundError: no folder given, or a file is missing from it.
        RuntimeError: keys are missing or left over, or a file is damaged.
        ValueError: as of ``LatentUpscaler``.
    """
    if weights is None:
        raise FileNotFoundError(
            "it has no weights of its own: give a folder or a hub id of a published upscaler, for example "
            "stabilityai/stable-diffusion-x4-upscaler (3.5 GB, openrail++), or a copy of "
            "CompVis/ldm-super-resolution-4x-openimages (0.7 GB, Apache-2.0) made by difix3d convert"
        )
    if hub.is_hub_id(weights):
        folder = hub.download(weights, hub.UPSCALER)
        try:
            parts = read_upscaler(folder, lambda: hub.download(weights, hub.TEXT))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}. If the hub has only .bin files of it: difix3d convert {weights} --output DIR, then give DIR"
            ) from error
    else:
        parts = read_upscaler(Path(weights).expanduser())
    place = torch.device(device)
    precision = dtype or fast_dtype(place.type)
    nn.Module.to(parts.unet, place, precision)  # diffusers' own warns of nothing
    # In half precision the autoencoder of Stable Diffusion overflows.
    nn.Module.to(parts.autoencoder, place, torch.float32 if precision == torch.float16 else precision)
    if parts.prompt is None:
        parts.autoencoder.quantize.float()  # the nearest code would be another one
    return LatentUpscaler(parts, place, transition, eta, samples, back_projection)
