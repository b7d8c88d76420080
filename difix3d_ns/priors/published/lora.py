"""Low-rank adapters of the published autoencoder, merged into plain weights (Hu et al., LoRA, 2021, equation 3)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

ADAPTER = "vae_skip"
ALPHA = 8
"""peft's default, which the official code leaves; no file of the published folder states it. The rank is the file's: 4,
so B A counts twice."""


def merge_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge peft's weights into plain ones, float32: W = base + (ALPHA / rank) B A.

    Rounding them to the base's bfloat16 would cost 35 dB.

    Adapters without a weight of their own, or with another name, stay: whoever loads the result names them as surplus.
    """
    merged = {key.replace(".base_layer.", "."): value for key, value in state.items()}
    for key in state:
        stem, found, _ = key.partition(f".lora_A.{ADAPTER}.weight")
        down, up = key, f"{stem}.lora_B.{ADAPTER}.weight"
        weight = f"{stem}.weight"
        if found and up in merged and weight in merged:
            a, b, base = merged.pop(down), merged.pop(up), merged[weight]
            # A convolution's A holds the kernel and its B is 1x1: a matrix product either way.
            change = (b.flatten(1).float() @ a.flatten(1).float()).view(base.shape)
            merged[weight] = base.float() + ALPHA / len(a) * change
    return merged


def missing_halves(state: Mapping[str, Tensor]) -> list[str]:
    """Names of what adapters lack: the other of their two matrices, or the weight that they change."""
    stems = {key.partition(".lora_")[0] for key in state if f".{ADAPTER}." in key and ".lora_" in key}
    lacking = [
        name
        for stem in stems
        for name in (f"{stem}.lora_A.{ADAPTER}.weight", f"{stem}.lora_B.{ADAPTER}.weight")
        if name not in state
    ]
    plain = {f"{stem}.weight" for stem in stems} - {key.replace(".base_layer.", ".") for key in state}
    return sorted([*lacking, *plain])
