"""A picture of an object from a text, by a text-to-image pipeline of diffusers that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.priors.published.hub import download, is_hub_id

ALONE = ", a single object, all of it in the picture, centered, on a plain white background"
"""added to the text: what is cut out has to stand before one colour"""
FILES = (
    *("model_index.json", "*/*.json", "*/merges.txt", "*/*.model"),
    *("*/diffusion_pytorch_model*.safetensors", "*/model*.safetensors"),
)
"""of a text-to-image pipeline, as diffusers has it"""


def picture_of(
    text: str, weights: str, device: str, seed: int = 0, side: int | None = None, steps: int | None = None
) -> Tensor:
    """Make a picture from a text.

    Args:
        text: what it shows.
        weights: a folder in diffusers' layout with safetensors, or a hub id, which downloads.
        device: cpu or cuda.
        seed: of the noise.
        side: of the square picture, pixels; None: the pipeline's own.
        steps: of the pipeline; None: its own number.

    Returns:
        [S, S, 3] in [0, 1].

    Raises:
        UserError: there is no such pipeline, it makes no pictures of texts, or it fails, as for want of memory.
    """
    try:
        folder = download(weights, FILES) if is_hub_id(weights) else Path(weights).expanduser()
        if not (folder / "model_index.json").is_file():
            raise FileNotFoundError("there is no model_index.json in it")
        from diffusers import AutoPipelineForText2Image  # takes seconds

        dtype = torch.float16 if device == "cuda" else torch.float32
        pipeline: Any = AutoPipelineForText2Image.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, torch_dtype=dtype
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(
            f"--text-weights {weights}: no text-to-image pipeline can be loaded: {error}; give a folder of diffusers "
            "with model_index.json and safetensors, or a hub id"
        ) from error
    pipeline.set_progress_bar_config(desc="Picture of the text")
    options: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed), "output_type": "pt"}
    if side is not None:
        options |= {"width": side, "height": side}
    if steps is not None:
        options["num_inference_steps"] = steps
    try:
        made: Tensor = pipeline.to(device)(text + ALONE, **options).images[0]
    except (ValueError, RuntimeError) as error:  # of memory, CUDA's is a RuntimeError
        raise UserError(
            f"--text-weights {weights}: the pipeline fails on {device}: {error}; give a smaller one, or a picture that "
            "was made elsewhere, in place of --prompt"
        ) from error
    return made.permute(1, 2, 0).float().cpu().clamp(0, 1)
