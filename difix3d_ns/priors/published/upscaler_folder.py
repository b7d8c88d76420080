"""Folders of upscalers in diffusers' layouts ``LDMSuperResolutionPipeline`` and ``StableDiffusionUpscalePipeline``.

The first has an autoencoder with a codebook in ``vqvae/`` and no text; the second ``vae/``, a text encoder, of which
the empty prompt's embedding is all that is needed, and ``low_res_scheduler/`` for noise on the photograph. Read are
JSON and safetensors; what a folder is follows from its parts, not from names of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel
from torch import Tensor

from difix3d_ns.priors.networks.from_config import construct
from difix3d_ns.priors.published.folder import fill, read_json, read_part
from difix3d_ns.priors.published.hub import PICKLES
from difix3d_ns.priors.published.prompt import prompt_embedding

FACTOR = 4
"""Both kinds enlarge four times: the latent has the photograph's size, which is shown beside it."""


@dataclass(frozen=True)
class UpscalerParts:
    """Networks and settings of a folder, on the CPU and in the precision of its files."""

    unet: Any  # UNet2DModel, or UNet2DConditionModel where there is a prompt
    autoencoder: Any  # VQModel, or AutoencoderKL where there is a prompt
    scheduler: Mapping[str, Any]
    low_scheduler: Mapping[str, Any] | None = None  # of the noise on the photograph
    prompt: Tensor | None = None  # [n, d] embedding of the empty prompt


def is_upscaler_folder(folder: Path) -> bool:
    """Return whether a folder has the parts of an upscaler."""
    return (folder / "vqvae").is_dir() or (folder / "low_res_scheduler").is_dir()


def read_upscaler(folder: Path, fetch_encoder: Callable[[], object] = lambda: None) -> UpscalerParts:
    """Read the parts of an upscaler.

    Args:
        folder: with everything but, possibly, the text encoder.
        fetch_encoder: see ``prompt_embedding``.

    Raises:
        FileNotFoundError: it is no folder of an upscaler, or a file is missing.
        RuntimeError: a file is damaged; or ``UnfitWeightsError``.
    """
    _check(folder)
    with_codes = (folder / "vqvae").is_dir()
    names = ("unet", "vqvae") if with_codes else ("unet", "vae")
    kinds = (UNet2DModel, VQModel) if with_codes else (UNet2DConditionModel, AutoencoderKL)
    configs = [read_json(folder / name / "config.json") for name in names]
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    low_scheduler = None if with_codes else read_json(folder / "low_res_scheduler" / "scheduler_config.json")
    states = [read_part(folder / name) for name in names]
    prompt = None if with_codes else prompt_embedding(folder, fetch_encoder, prompt="")
    try:
        with torch.device("meta"):  # no time and memory for random weights
            unet, autoencoder = (construct(kind, config) for kind, config in zip(kinds, configs, strict=True))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise RuntimeError(f"{folder}: unet/ or {names[1]}/ has an unusable configuration: {error}") from error
    _check_shapes(folder, unet.config, autoencoder.config, prompt)
    for network, state, name in zip((unet, autoencoder), states, names, strict=True):
        fill(network, state, folder / name)
    return UpscalerParts(unet, autoencoder, scheduler, low_scheduler, prompt)


def _check(folder: Path) -> None:
    if folder.is_file():
        remedy = " (a single file with everything in it can't be read)" if folder.suffix in PICKLES else ""
        raise FileNotFoundError(f"{folder} is a file{remedy}; give the folder that has unet/ and vqvae/ or vae/")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not is_upscaler_folder(folder):
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds no upscaler: neither vqvae/ nor low_res_scheduler/ is there (found {found}). Give a copy "
            "of CompVis/ldm-super-resolution-4x-openimages or stabilityai/stable-diffusion-x4-upscaler, for example"
        )


def _check_shapes(folder: Path, unet: Any, autoencoder: Any, prompt: Tensor | None) -> None:
    """Raise a RuntimeError if the parts do not belong together."""
    channels, factor = autoencoder.latent_channels, 2 ** (len(autoencoder.block_out_channels) - 1)
    if (unet.in_channels, unet.out_channels) != (channels + 3, channels):
        raise RuntimeError(
            f"{folder}: the UNet maps {unet.in_channels} channels to {unet.out_channels}, but the latent has "
            f"{channels} and the photo 3: this is no upscaler that is shown the photo beside the latent"
        )
    if factor != FACTOR:
        raise RuntimeError(f"{folder}: the autoencoder enlarges {factor} times, {FACTOR} are needed")
    if prompt is not None and (prompt.dim() != 2 or prompt.shape[1] != unet.cross_attention_dim):
        raise RuntimeError(
            f"{folder}: the prompt's embedding is {list(prompt.shape)}, the UNet wants [n, {unet.cross_attention_dim}]"
        )
