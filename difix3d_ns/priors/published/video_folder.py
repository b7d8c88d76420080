"""Folders of video diffusion models: ``unet/``, ``vae/`` and ``image_encoder/``, as ``difix3d convert`` writes them.

Read are JSON and safetensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNetSpatioTemporalConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from difix3d_ns.priors.networks.from_config import construct
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.folder import fill, read_json, read_part, read_tensors
from difix3d_ns.priors.published.hub import FACTS
from difix3d_ns.priors.published.video_kinds import KINDS, KindName, VideoKind

ENCODER = "image_encoder"
BASE = "stabilityai/stable-video-diffusion-img2vid-xt"
"""whose image encoder Hi3D and SV3D-u have"""
_CLASSES: dict[str, Any] = {"unet": UNetSpatioTemporalConditionModel, "vae": AutoencoderKL}
_NUMBERS = "position_ids"
"""of patches, in files of earlier versions"""
_EPS = 1e-5
"""of normalisation in residual blocks, as trained; diffusers writes 1e-6 in some"""


@dataclass(frozen=True)
class VideoParts:
    """Networks of a folder, on the CPU and in the precision of its files."""

    kind: VideoKind
    unet: Any  # UNetSpatioTemporalConditionModel, which is given the finished vector
    autoencoder: Any  # AutoencoderKL
    encoder: Any  # CLIPVisionModelWithProjection


def build(part: str, config: dict[str, Any]) -> Any:
    """Construct the network of a part, unet or vae, without memory.

    Raises:
        TypeError, ValueError: the configuration is unusable.
    """
    with torch.device("meta"):
        network = construct(_CLASSES[part], config)
    if part == "unet":
        # Its own would embed three numbers alike, and Hi3D embeds a score otherwise.
        network.add_time_proj = nn.Identity()
        for name, module in network.named_modules():
            if isinstance(module, nn.GroupNorm) and "_res_block." in name:
                module.eps = _EPS
    return network


def read_video(folder: Path, from_picture: bool) -> VideoParts:
    """Read the parts of a model.

    Args:
        folder: as ``difix3d convert --kind`` writes it, with image_encoder/.
        from_picture: whether it has to make an orbit from one picture, else to refine one.

    Raises:
        FileNotFoundError: it is no such folder, or a file is missing.
        RuntimeError: a file is damaged, or the model is of the other sort; or ``UnfitWeightsError``.
    """
    kind = _kind(folder)
    if kind.from_picture != from_picture:
        wanted = [name for name, known in KINDS.items() if known.from_picture == from_picture]
        raise RuntimeError(f"{folder} holds a model of another sort: one of {', '.join(wanted)} is needed")
    check_encoder(folder)
    networks = []
    for part in _CLASSES:
        config = read_json(folder / part / "config.json")
        try:
            network = build(part, config)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise RuntimeError(f"{folder}: {part}/ has an unusable configuration: {error}") from error
        fill(network, read_part(folder / part) if part == "vae" else read_tensors(folder / part), folder / part)
        networks.append(network)
    unet, autoencoder = networks
    found = unet.config.in_channels, unet.config.projection_class_embeddings_input_dim
    if found != (kind.channels, kind.vector):
        raise RuntimeError(
            f"{folder}: the UNet takes {found[0]} channels and a vector of {found[1]} numbers, but {FACTS} says it is "
            f"a model of {kind.channels} and {kind.vector}; convert it again"
        )
    encoder = _read_encoder(folder / ENCODER)
    if encoder.config.projection_dim != unet.config.cross_attention_dim:
        raise RuntimeError(
            f"{folder}: {ENCODER}/ gives {encoder.config.projection_dim} numbers, the UNet wants "
            f"{unet.config.cross_attention_dim}; copy that of {BASE}"
        )
    return VideoParts(kind, unet, autoencoder, encoder)


def load_video(weights: str | None, device: torch.device, dtype: torch.dtype | None, from_picture: bool) -> VideoParts:
    """Read the parts of a model where they are run.

    Args:
        weights: a folder, or a hub id, which downloads; None is refused, since the package has none.
        device: where they are run.
        dtype: their precision; None for float16 on CUDA, as published, else ``fast_dtype``.
        from_picture: see ``read_video``.

    Raises:
        FileNotFoundError: nothing is named, or see ``read_video``.
        RuntimeError: see ``read_video``.
    """
    if weights is None:
        kinds = "hi3d-stage1 or --kind sv3d-u" if from_picture else "hi3d-stage2"
        raise FileNotFoundError(
            f"it has no weights of its own: give a folder that difix3d convert --kind {kinds} wrote"
        )
    folder = hub.download(weights, hub.VIDEO) if hub.is_hub_id(weights) else Path(weights).expanduser()
    parts = read_video(folder, from_picture)
    precision = dtype or (torch.float16 if device.type == "cuda" else fast_dtype(device.type))
    for network in (parts.unet, parts.encoder):
        nn.Module.to(network, device, precision)  # diffusers' own warns of nothing
    # In half precision this autoencoder overflows.
    nn.Module.to(parts.autoencoder, device, torch.float32 if precision == torch.float16 else precision)
    return parts


def check_encoder(folder: Path) -> Path:
    """Return the folder of the image encoder in a model's folder. Raises FileNotFoundError with a remedy."""
    encoder = folder / ENCODER
    for name in ("config.json", "model.safetensors"):
        if not (encoder / name).is_file():
            raise FileNotFoundError(
                f"{encoder / name} is missing: copy {ENCODER}/ of {BASE} to {encoder} (2.5 GB, or its .fp16 file under "
                f"this name, 1.3 GB), or convert with --base"
            )
    return encoder


def _kind(folder: Path) -> VideoKind:
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "no such folder"
        raise FileNotFoundError(f"{folder}: {what}; give a folder that difix3d convert --kind wrote")
    facts = read_json(folder / FACTS) if (folder / FACTS).is_file() else {}
    name: KindName | None = facts.get("kind")
    if name not in KINDS:
        raise FileNotFoundError(
            f"{folder} holds no model of orbits: {FACTS} names none of {', '.join(KINDS)}. Give a folder that difix3d "
            "convert --kind wrote"
        )
    steps = facts.get("steps")  # of a model that needs fewer, say
    return replace(KINDS[name], steps=steps) if isinstance(steps, int) and steps > 0 else KINDS[name]


def _read_encoder(folder: Path) -> Any:
    config = read_json(folder / "config.json")
    try:
        with torch.device("meta"):
            network = CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))
        state: dict[str, Tensor] = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise RuntimeError(f"{folder / 'model.safetensors'} is damaged ({error}); download it again") from error
    except (TypeError, ValueError, KeyError) as error:
        raise RuntimeError(f"{folder}: unusable configuration: {error}") from error
    fill(network, {name: value for name, value in state.items() if not name.endswith(_NUMBERS)}, folder)
    for name, buffer in network.named_buffers():
        if buffer.is_meta:
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, torch.arange(buffer.numel()).view(buffer.shape))
    return network
