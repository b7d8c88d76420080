"""The published Difix weights (or others of the same layout) from a local folder.

Reads JSON and safetensors only; class names and Python files in the folder are ignored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from difix3d_ns.fixers.blend import seen_at_all, warp_request
from difix3d_ns.fixers.contract import FixRequest, FixResult
from difix3d_ns.fixers.networks.difix import DifixNet
from difix3d_ns.fixers.networks.precision import fast_dtype

PROMPT = "remove degradation"
# peft's alpha / r for the adapter "vae_skip" (alpha 8 by default, r 4). Not stored in the folder.
LORA_SCALE = 2.0
_ADAPTER = "vae_skip"


class DifixFixer:
    """Difix behind the contract of ``Fixer``: references are shown unaligned, as in the paper.

    The confidence is where the references see the splat, as for the blend; without geometry it is 0.

    Args:
        network: the model.
        views: references shown at most.
    """

    def __init__(self, network: DifixNet, views: int = 1):
        self.network = network.eval().requires_grad_(False)
        self.views = views

    @torch.no_grad()
    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``)."""
        return [self._fix(request) for request in requests]

    def _fix(self, request: FixRequest) -> FixResult:
        place = next(self.network.parameters())
        height, width = request.image.shape[:2]
        references = [_fit(reference.image, height, width) for reference in request.references[: self.views]]
        views = torch.stack([request.image.float().permute(2, 0, 1), *references])
        repaired = self.network(views[None].to(place) * 2 - 1)[0].float().to(request.image.device)
        confidence = seen_at_all(warp_request(request).visibility)
        return FixResult((repaired / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).contiguous(), confidence.float())


def load(
    weights: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    views: int = 1,
) -> DifixFixer:
    """Read a diffusers folder: unet/, vae/, scheduler/ and the prompt's embedding or text_encoder/ and tokenizer/.

    Raises:
        FileNotFoundError: no folder given, or a file is missing from it.
        RuntimeError: keys are missing or left over, or a file is damaged.
    """
    if weights is None:
        raise FileNotFoundError(
            "the fixer 'difix' has no weights of its own: give --pipeline.fixer.weights a local copy of "
            "nvidia/difix_ref or nvidia/difix (non-commercial licence), or use --pipeline.fixer.name embedded"
        )
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"--pipeline.fixer.weights {weights}: no such folder")
    vae_config, vae = _part(folder / "vae")
    unet_config, unet = _part(folder / "unet")
    scheduler = json.loads(_existing(folder / "scheduler" / "scheduler_config.json").read_text())
    network = DifixNet(unet_config, vae_config, scheduler, _prompt(folder))
    vae = merge_lora(vae)
    skips = {key: vae.pop(key) for key in list(vae) if key.startswith("decoder.skip_conv_")}
    renamed = {f"{int(key.split('_')[2].split('.')[0]) - 1}.weight": value for key, value in skips.items()}
    for name, module, state in (
        ("unet", network.unet, unet),
        ("vae", network.vae, vae),
        ("vae skip_conv", network.skips, renamed),
    ):
        if name == "vae skip_conv" and not network.gamma:
            continue
        try:
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise RuntimeError(f"{folder}: the weights of {name} do not fit its config.json: {error}") from error
    return DifixFixer(network.to(device=device, dtype=dtype or fast_dtype(torch.device(device).type)), views)


def merge_lora(state: dict[str, Tensor], scale: float = LORA_SCALE) -> dict[str, Tensor]:
    """Plain weights from peft's unmerged ones: W = base + scale B A (Hu et al., LoRA, equation 3)."""
    merged: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".lora_" in key:
            continue
        plain = key.replace(".base_layer.", ".")
        down = state.get(plain.replace(".weight", f".lora_A.{_ADAPTER}.weight"))
        up = state.get(plain.replace(".weight", f".lora_B.{_ADAPTER}.weight"))
        if plain.endswith(".weight") and down is not None and up is not None:
            # A convolution's A holds the kernel and its B is 1x1: a matrix product either way.
            delta = up.flatten(1).float() @ down.flatten(1).float()
            value = (value.float() + scale * delta.view(value.shape)).to(value.dtype)
        merged[plain] = value
    return merged


def _part(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads(_existing(folder / "config.json").read_text())
    file = _existing(folder / "diffusion_pytorch_model.safetensors")
    try:
        return config, load_file(file)
    except SafetensorError as error:
        raise RuntimeError(f"{file} is damaged or half downloaded: {error}") from error


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: not a complete diffusers folder")
    return file


def _prompt(folder: Path) -> Tensor:
    """[77, d] the embedding of the constant prompt; cached beside the weights, so the text encoder runs once."""
    cache = folder / "prompt_embedding.safetensors"
    if cache.is_file():
        return load_file(cache)["prompt"]
    _existing(folder / "text_encoder" / "config.json")
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(
        str(folder / "text_encoder"), local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    tokens = tokenizer(
        PROMPT, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        prompt = encoder(tokens.input_ids)[0][0].contiguous()
    with contextlib.suppress(OSError, SafetensorError):  # a read-only folder: computed again next time
        save_file({"prompt": prompt}, cache)
    return prompt


def _fit(image: Tensor, height: int, width: int) -> Tensor:
    """[H_k, W_k, 3] -> [3, height, width]: resized to fit with its aspect kept, the rest filled with its edge."""
    picture = image.float().permute(2, 0, 1)[None]
    scale = min(height / picture.shape[2], width / picture.shape[3])
    size = (min(height, round(picture.shape[2] * scale)), min(width, round(picture.shape[3] * scale)))
    if size != tuple(picture.shape[2:]):
        picture = F.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)
    return F.pad(picture, (0, width - size[1], 0, height - size[0]), mode="replicate")[0]
