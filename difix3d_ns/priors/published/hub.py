"""Downloading weights from the Hugging Face hub, only when a hub id was given, and no file that could run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

CACHE = "prompt_embedding.safetensors"
"""the prompt's embedding, beside the weights"""
EMPTY_CACHE = "empty_prompt_embedding.safetensors"
"""of the empty prompt"""
FACTS = "difix3d.json"
"""what we know of weights that we wrote, beside them"""
NETWORKS = (
    *("model_index.json", "scheduler/*.json", "unet/config.json", "vae/config.json", CACHE, FACTS),
    *("unet/diffusion_pytorch_model*.safetensors", "vae/diffusion_pytorch_model*.safetensors"),
)
TEXT = ("text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/*.json", "tokenizer/merges.txt")
BASE = tuple(name for name in NETWORKS if name != "unet/diffusion_pytorch_model*.safetensors")
"""of a folder whose UNet is not wanted"""
UPSCALER = (
    *("model_index.json", "scheduler/*.json", "low_res_scheduler/*.json", EMPTY_CACHE, FACTS),
    *(
        f"{part}/{name}"
        for part in ("unet", "vae", "vqvae")
        for name in ("config.json", "diffusion_pytorch_model*.safetensors")
    ),
)
"""of a folder of an upscaler"""
DEPTH = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
"""of Depth Anything, as transformers has it"""
IMAGE_ENCODER = ("image_encoder/config.json", "image_encoder/model.safetensors")
"""of Stable Video Diffusion"""
VIDEO = (
    *("scheduler/*.json", FACTS, *IMAGE_ENCODER),
    *(f"{part}/{name}" for part in ("unet", "vae") for name in ("config.json", "diffusion_pytorch_model.safetensors")),
)
"""of a folder of a video diffusion model"""
PICKLED = (
    *("model_index.json", "*/*.json", "tokenizer/merges.txt"),
    *("*/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"),
    *("*/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"),
)
"""of a folder whose pickles are converted"""
PICKLES = frozenset({".pkl", ".pt", ".pth", ".ckpt", ".bin"})
"""endings of files that are never read as weights: they could run code"""
_VARIANTS = ("*.fp16.safetensors", "*.fp16-*.safetensors", "*.non_ema.safetensors", "*.non_ema-*.safetensors")
"""of files that are there in the usual precision too; in parts, as 00001-of-00002, as well"""


def is_hub_id(name: str) -> bool:
    """Return whether a name can only be a hub id: owner/name, and nothing of that name lies here."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).expanduser().exists()


def download(hub_id: str, files: Sequence[str] = NETWORKS) -> Path:
    """Fetch files with a progress bar; interrupted downloads go on, what is here already is not fetched again.

    Honours HF_HUB_OFFLINE, HF_HOME and HF_TOKEN.

    Raises:
        FileNotFoundError: the hub or the files cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files), ignore_patterns=list(_VARIANTS)))
    except Exception as error:  # of several libraries: no connection, no such model, licence not accepted, offline
        raise FileNotFoundError(
            f"no folder of that name is here, and {hub_id} cannot be downloaded: {error} Check the name, the "
            "connection and HF_HUB_OFFLINE; or give the folder of a local copy"
        ) from error
