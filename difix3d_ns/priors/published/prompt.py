"""The embedding of a constant prompt, such as the one that Difix knows, computed once and kept beside the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from difix3d_ns.io.atomic import write_tensors
from difix3d_ns.priors.published.hub import CACHE, EMPTY_CACHE

PROMPT = "remove degradation"


def prompt_embedding(
    folder: Path, fetch_encoder: Callable[[], object] = lambda: None, keep: bool = True, prompt: str = PROMPT
) -> Tensor:
    """Embedding of the prompt [77, d], from the cache if there is one.

    The text encoder is read at most once and then forgotten.

    Args:
        folder: of the weights, with the cache or with ``text_encoder/`` and ``tokenizer/``.
        fetch_encoder: called before those two are read.
        keep: write the cache into the folder.
        prompt: Difix's, or empty.

    Raises:
        FileNotFoundError: neither is there.
        RuntimeError: a file is damaged.
    """
    cache = folder / _cache(prompt)
    if cache.is_file():
        try:
            return load_file(cache)["prompt"]
        except (SafetensorError, KeyError) as error:
            raise RuntimeError(f"{cache} is damaged ({error}); delete it, and it is made again") from error
    fetch_encoder()
    embedding = _compute(folder, prompt)
    if keep:
        write_prompt(folder, embedding, prompt)
    return embedding


def write_prompt(folder: Path, embedding: Tensor, prompt: str = PROMPT) -> None:
    """Write the cache, whole or not at all; a folder that cannot be written to stays without."""
    with contextlib.suppress(OSError):
        write_tensors(folder / _cache(prompt), {"prompt": embedding.contiguous()})


def _cache(prompt: str) -> str:
    return CACHE if prompt else EMPTY_CACHE


def _compute(folder: Path, prompt: str) -> Tensor:
    parts = ("tokenizer/vocab.json", "tokenizer/merges.txt")
    in_parts = any((folder / name).is_file() for name in parts)  # else whole, as transformers writes it since version 5
    whole = not in_parts and (folder / "tokenizer" / "tokenizer.json").is_file()
    needed = ("text_encoder/config.json", "text_encoder/model.safetensors", *(() if whole else parts))
    for name in needed:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: without {_cache(prompt)} the text encoder and the tokenizer are needed "
                "once"
            )
    from transformers import CLIPTextModel, CLIPTokenizer, CLIPTokenizerFast  # type: ignore[attr-defined]

    try:
        tokenizer = (CLIPTokenizerFast if whole else CLIPTokenizer).from_pretrained(
            str(folder / "tokenizer"), local_files_only=True
        )
        encoder = CLIPTextModel.from_pretrained(
            str(folder / "text_encoder"), local_files_only=True, use_safetensors=True
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise RuntimeError(f"{folder}: text_encoder/ or tokenizer/ is damaged or half downloaded: {error}") from error
    length = encoder.config.max_position_embeddings
    tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return encoder.float()(tokens.input_ids)[0][0].contiguous()
