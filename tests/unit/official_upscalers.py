"""Published upscalers at a tiny size: folders that diffusers itself writes, and its own pipelines as the yardstick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    LDMSuperResolutionPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from tests.unit.official_difix import write_text_encoder

AUTOENCODER: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [4, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
}
UNET: dict[str, Any] = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4}
LDM_BETAS = {"beta_start": 0.0015, "beta_end": 0.0155, "beta_schedule": "scaled_linear"}
SD_BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
WIDTH = 16  # of the prompt's embedding


class OneStep(DDIMScheduler):
    """Goes from one timestep to the end at once: what its pipeline decodes is the clean estimate there."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        self.num_inference_steps = 1
        self.timesteps = torch.tensor([self.timestep])

    timestep = 999


def lively(network: Any) -> Any:
    """Make a random network's outputs depend on its inputs as much as a trained one's."""
    for name, value in network.named_parameters():
        if name.endswith(("conv_out.weight", "quantize.embedding.weight")):
            torch.nn.init.normal_(value, std=0.3)
    return network.eval().requires_grad_(False)


def ldm(seed: int = 0, prediction: str = "epsilon") -> Any:
    """LDM-SR: a codebook, no text."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = {
            "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
        }
        unet = lively(UNet2DModel(in_channels=6, out_channels=3, attention_head_dim=4, **UNET, **blocks))
        vqvae = lively(VQModel(latent_channels=3, num_vq_embeddings=32, **AUTOENCODER))
    scheduler = OneStep(clip_sample=False, prediction_type=prediction, **LDM_BETAS)
    return LDMSuperResolutionPipeline(vqvae, unet, scheduler)


def stable(place: Path, seed: int = 0, prediction: str = "v_prediction") -> Any:
    """The upscaler of Stable Diffusion 2; ``place`` is for its tiny text encoder."""
    place.mkdir()
    write_text_encoder(place, WIDTH, "old")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            in_channels=7,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            num_class_embeds=1000,
            use_linear_projection=True,
            **UNET,
        )
        vae = AutoencoderKL(latent_channels=4, scaling_factor=0.08333, **AUTOENCODER)
        vae, unet = lively(vae), lively(unet)
    return StableDiffusionUpscalePipeline(
        vae,
        CLIPTextModel.from_pretrained(place / "text_encoder"),
        CLIPTokenizer.from_pretrained(place / "tokenizer"),
        unet,
        DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        OneStep(clip_sample=False, prediction_type=prediction, **SD_BETAS),
    )


def write(pipeline: Any, folder: Path) -> Path:
    """Have diffusers write the pipeline, with a scheduler that it has itself."""
    plain = type(pipeline)(**{**pipeline.components, "scheduler": DDIMScheduler(**pipeline.scheduler.config)})
    plain.save_pretrained(folder)
    return folder


def autoencoder_of(pipeline: Any) -> Any:
    return pipeline.vae if hasattr(pipeline, "vae") else pipeline.vqvae


@torch.no_grad()
def decoded(pipeline: Any, latent: Tensor) -> Tensor:
    """Picture [1, 3, 4h, 4w] in [0, 1] of a latent, as the pipeline decodes it."""
    vae = autoencoder_of(pipeline)
    scale = 1.0 if isinstance(pipeline, LDMSuperResolutionPipeline) else vae.config.scaling_factor
    picture: Tensor = vae.decode(latent / scale).sample
    return (picture / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def estimates(pipeline: Any, latent: Tensor, level: int, low: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Run the whole pipeline for one step from ``latent`` at a timestep: the clean latent, and its picture in [0, 1].

    Args:
        low: [1, 3, h, w] in [0, 1], of the latent's size.
        seed: of the noise on it.
    """
    pipeline.scheduler.timestep = level
    pipeline.set_progress_bar_config(disable=True)
    vae = autoencoder_of(pipeline)
    caught: list[Tensor] = []
    decode = vae.decode

    def caught_decode(latent: Tensor, **rest: Any) -> Any:
        caught.append(latent)
        return decode(latent, **rest)

    vae.decode = caught_decode
    try:
        if isinstance(pipeline, LDMSuperResolutionPipeline):
            picture = _of_ldm(pipeline, latent, low)
            return caught[0], picture
        picture = pipeline(
            prompt="",
            image=low,
            num_inference_steps=1,
            guidance_scale=1.0,
            latents=latent,
            generator=torch.Generator().manual_seed(-1 - seed),
            output_type="pt",
        ).images
        return caught[0] * vae.config.scaling_factor, picture
    finally:
        del vae.decode


def _of_ldm(pipeline: Any, latent: Tensor, low: Tensor) -> Tensor:
    """It draws its latent itself; here it is handed one instead."""
    hook = pipeline.unet.register_forward_pre_hook(
        lambda _, inputs: (torch.cat([latent, inputs[0][:, 3:]], 1), *inputs[1:])
    )
    step = pipeline.scheduler.step
    pipeline.scheduler.step = lambda output, t, sample, **rest: step(output, t, latent, **rest)
    try:
        picture: Tensor = pipeline(low * 2 - 1, num_inference_steps=1, output_type="pt").images
        return picture
    finally:
        hook.remove()
        del pipeline.scheduler.step


def padded(picture: Tensor, multiple: int) -> Tensor:
    """[1, C, H, W] with its last row and column repeated, by indices."""
    rows, columns = (torch.arange(-(-side // multiple) * multiple).clamp(max=side - 1) for side in picture.shape[2:])
    return picture[:, :, rows][:, :, :, columns]


def photograph(height: int, width: int, seed: int = 0) -> Tensor:
    """[H, W, 3] in [0, 1], smooth with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 4, 5), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0)
    return (smooth * 0.8 + 0.2 * torch.rand((height, width, 3), generator=generator)).clamp(0, 1)


def averaged(run: Any, latent: Tensor, tops: Sequence[int], lefts: Sequence[int], side: int) -> Tensor:
    """Gaussian-weighted mean over tiles, pixel by pixel of each."""
    place = (torch.arange(side) - (side - 1) / 2) / side
    gaussian = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / 0.02).double()
    total: Tensor | float = 0.0
    weight = torch.zeros(latent.shape[2:], dtype=torch.float64)
    for top in tops:
        for left in lefts:
            part = run(latent[:, :, top : top + side, left : left + side]).double()
            pad = (left, latent.shape[3] - left - side, top, latent.shape[2] - top - side)
            total = total + torch.nn.functional.pad(part * gaussian, pad)
            weight += torch.nn.functional.pad(gaussian, pad)
    return (total / weight).float()
