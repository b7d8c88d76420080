"""The published model at a tiny size: files as the official code writes them, and a slow forward that shares no code.

The forward keeps the adapters unmerged in peft, mixes views by reshaping around diffusers' own attention modules, takes
the scheduler's step, repairs one picture at a time, and computes in float64, so that only our rounding counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

# Which of the decoder's layers are adapted: names end so.
ADAPTED = ("conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v", "to_out.0")
VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [2, 4, 8, 8],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "scaling_factor": 0.18215,
}
UNET: dict[str, Any] = {  # SD 2.1: attention at all resolutions but the last, linear projections
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": [1, 2, 2],
    "norm_num_groups": 4,
    "use_linear_projection": True,
}
COARSE_UNET: dict[str, Any] = {  # large pictures: no attention among the many tokens of the first resolutions
    **UNET,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
}
SCHEDULER: dict[str, Any] = {  # SD-Turbo's
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.25.1",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


class Official:
    """A tiny model as the official code builds it, random but lively."""

    def __init__(self, unet: dict[str, Any] = UNET, seed: int = 0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.vae = AutoencoderKL(**VAE).eval()
            self.vae.encoder.conv_out.weight.data *= 20  # latents as large as trained ones
            widths = VAE["block_out_channels"]
            shapes = zip([widths[2], widths[1], widths[0], widths[0]], [widths[3], *widths[:0:-1]], strict=True)
            for number, (source, target) in enumerate(shapes, 1):
                skip = torch.nn.Conv2d(source, target, 1, bias=False)
                torch.nn.init.normal_(skip.weight, std=0.2)
                setattr(self.vae.decoder, f"skip_conv_{number}", skip)
            self.base_vae = {key: value.clone() for key, value in self.vae.state_dict().items() if "skip" not in key}
            self.targets = [
                name
                for name, _ in self.vae.named_modules()
                if "decoder" in name and (name.endswith(ADAPTED) or "skip_conv_" in name)
            ]
            self.vae.add_adapter(
                LoraConfig(r=4, init_lora_weights="gaussian", target_modules=self.targets), adapter_name="vae_skip"
            )
            for name, weight in self.vae.named_parameters():
                if ".lora_B." in name:
                    torch.nn.init.normal_(weight, std=0.2)  # zero after initialisation
            self.unet_config = unet
            self.unet = UNet2DConditionModel(**unet).eval()
            torch.nn.init.normal_(self.unet.conv_out.weight, std=0.05)
            self.prompt = torch.randn(77, unet["cross_attention_dim"])
        self.vae, self.unet, self.prompt = self.vae.double(), self.unet.double(), self.prompt.double()
        for block in (m for m in self.unet.modules() if type(m).__name__ == "BasicTransformerBlock"):
            self._wrap(block.attn1)
        self.views = 1
        self.shown: Tensor | None = None  # [V, H, W] which pixels are picture, not padding

    def write(
        self, folder: Path, with_reference: bool = True, text_encoder: bool = False, tokenizer: str = "parts"
    ) -> Path:
        """The folder of nvidia/difix_ref, or with ``with_reference=False`` of nvidia/difix."""
        custom = {"unet": ["unet_2d_condition", "UNet2DConditionModel"]} if with_reference else {}
        index = {
            "_class_name": ["pipeline_difix", "DifixPipeline"],
            "_diffusers_version": "0.25.1",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["autoencoder_kl", "AutoencoderKL"],
            **custom,
        }
        extras = {"gamma": 1.0, "ignore_skip": False, "lora_rank": 4, "force_upcast": True, "sample_size": 768}
        for part in ("unet", "vae", "scheduler"):
            (folder / part).mkdir(parents=True)
        (folder / "model_index.json").write_text(json.dumps(index))
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
        header = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.25.1", "_name_or_path": "somewhere/vae"}
        (folder / "vae" / "config.json").write_text(json.dumps({**header, **VAE, **extras}))
        header = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.25.1", "conv_in_kernel": 3}
        (folder / "unet" / "config.json").write_text(json.dumps({**header, **self.unet_config}))
        for part, module in (("unet", self.unet), ("vae", self.vae)):
            tensors = {key: value.float().contiguous() for key, value in module.state_dict().items()}
            save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors")
        if text_encoder:
            self.prompt = write_text_encoder(folder, self.unet_config["cross_attention_dim"], tokenizer).double()
        else:
            save_file({"prompt": self.prompt.float()}, folder / "prompt_embedding.safetensors")
        return folder

    def write_checkpoint(self, file: Path, dtype: torch.dtype = torch.float32) -> Path:
        """``model_N.pkl`` of the official training; from another ``dtype`` on, this model has its rounded weights."""
        for module in (self.unet, self.vae):
            for name, value in module.named_parameters():
                if module is self.unet or "lora" in name or "skip" in name:
                    value.data = value.data.to(dtype).double()
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
        content = {
            "vae_lora_target_modules": self.targets,
            "rank_vae": 4,
            "state_dict_unet": {k: v.to(dtype) for k, v in self.unet.state_dict().items()},
            "state_dict_vae": {k: v.to(dtype) for k, v in self.vae.state_dict().items() if "lora" in k or "skip" in k},
            "optimizer": optimizer.state_dict(),
        }
        torch.save(content, file)
        return file

    def write_base(self, folder: Path) -> Path:
        """The folder of stabilityai/sd-turbo the training started from: another UNet, an autoencoder without skips."""
        self.write(folder)
        (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **VAE}))
        save_file(self.base_vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        return folder

    @torch.no_grad()
    def repair(self, image: Tensor, references: Sequence[Tensor]) -> Tensor:
        """[H, W, 3] in [0, 1] from pictures [H_k, W_k, 3] in [0, 1]."""
        height, width = image.shape[:2]
        tall, wide = -(-height // 8) * 8, -(-width // 8) * 8
        views, shown = [], []
        for number, picture in enumerate([image, *references]):
            pixels = picture.double().permute(2, 0, 1)[None] * 2 - 1
            if picture.shape[:2] == image.shape[:2]:
                used = (tall, wide)  # the few repeated rows and columns share tokens with the picture
            else:
                factor = min(tall / picture.shape[0], wide / picture.shape[1])
                used = (min(tall, round(picture.shape[0] * factor)), min(wide, round(picture.shape[1] * factor)))
                pixels = F.interpolate(pixels, used, mode="bilinear", antialias=True, align_corners=False)
            assert number or picture is image
            rows = torch.arange(tall).clamp(max=pixels.shape[2] - 1)
            columns = torch.arange(wide).clamp(max=pixels.shape[3] - 1)
            views.append(pixels[:, :, rows][:, :, :, columns])
            visible = torch.zeros(tall, wide)
            visible[: used[0], : used[1]] = 1
            shown.append(visible)
        self.views, self.shown = len(views), torch.stack(shown)
        kept: list[Tensor] = []
        hooks = [
            block.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
            for block in self.vae.encoder.down_blocks
        ]
        latent = self.vae.encode(torch.cat(views)).latent_dist.mode() * VAE["scaling_factor"]
        for hook in hooks:
            hook.remove()
        prediction = self.unet(latent, 199, self.prompt.expand(len(views), -1, -1)).sample
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
        clean = scheduler.step(prediction, 199, latent).pred_original_sample / VAE["scaling_factor"]
        hooks = []
        for number, block in enumerate(self.vae.decoder.up_blocks, 1):
            skip = getattr(self.vae.decoder, f"skip_conv_{number}")
            source = kept[-number]
            hooks.append(
                block.register_forward_pre_hook(
                    lambda _, inputs, skip=skip, source=source: (inputs[0] + skip(source), *inputs[1:])
                )
            )
        decoded = self.vae.decode(clean).sample[0]
        for hook in hooks:
            hook.remove()
        return (decoded[:, :height, :width].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1)

    def _wrap(self, attention: torch.nn.Module) -> None:
        """Lay views end to end before a self-attention, take them apart after it."""

        def forward(hidden: Tensor, **ignored: Any) -> Tensor:
            batch, tokens, width = hidden.shape
            long = hidden.reshape(batch // self.views, self.views * tokens, width)
            allowed = self._visible(tokens)
            out = []
            for sample in long:
                query, key, value = attention.to_q(sample), attention.to_k(sample), attention.to_v(sample)
                size = width // attention.heads
                heads = []
                for head in range(attention.heads):
                    part = slice(head * size, (head + 1) * size)
                    scores = query[:, part] @ key[:, part].T / size**0.5
                    heads.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value[:, part])
                out.append(attention.to_out[0](torch.cat(heads, -1)))
            return torch.stack(out).reshape(batch, tokens, width)

        attention.forward = forward  # of this instance alone

    def _visible(self, tokens: int) -> Tensor:
        """[V * tokens]: does any pixel below a token belong to the picture?"""
        assert self.shown is not None
        visible = F.max_pool2d(self.shown[:, None], 8)
        while visible[0].numel() > tokens:
            visible = F.max_pool2d(visible, 2, ceil_mode=True)
        assert visible[0].numel() == tokens
        return visible.flatten() > 0


def write_text_encoder(folder: Path, width: int, tokenizer: str = "parts") -> Tensor:
    """Tiny ``tokenizer/`` and ``text_encoder/``; returns the embedding of the prompt, computed by hand.

    Args:
        folder: to write to.
        width: of the embedding.
        tokenizer: parts: vocabulary and merges, padded with the end of text; old: as stable-diffusion-2-1
            has it, whose padding "!" is in the map of special tokens alone; decoder: as sd-turbo has it, the
            same with a list of added tokens; whole: one ``tokenizer.json``.
    """
    place = folder / "tokenizer"
    place.mkdir()
    letters = sorted(set("remove degradation".replace(" ", "")))
    words = ["!", "!</w>", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    special: dict[str, Any] = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    settings = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", **special}
    known = special
    if tokenizer != "parts":
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        known = {**{key: {"content": word, **flags} for key, word in special.items()}, "pad_token": "!"}
        if tokenizer == "old":
            settings |= {key: {"__type": "AddedToken", "content": word, **flags} for key, word in special.items()}
        else:
            added = {words.index(word): {"content": word, **flags, "special": True} for word in ("!", *words[-2:])}
            settings |= {"pad_token": "!", "added_tokens_decoder": added}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    (place / "special_tokens_map.json").write_text(json.dumps(known))
    if tokenizer == "whole":
        CLIPTokenizerFast.from_pretrained(str(place)).save_pretrained(place)
        for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
            (place / name).unlink(missing_ok=True)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=len(words) - 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder = CLIPTextModel(config).eval()
    encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    ids = [len(words) - 2]
    for word in ("remove", "degradation"):
        ids += [words.index(letter) for letter in word[:-1]] + [words.index(word[-1] + "</w>")]
    end = len(words) - 1
    ids += [end] + [end if tokenizer == "parts" else 0] * (76 - len(ids))
    with torch.no_grad():
        return encoder(torch.tensor([ids])).last_hidden_state[0]
