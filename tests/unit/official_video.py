"""The video UNet and autoencoder of Stability's ``generative-models`` as its files name them, and how they compute.

Written from descriptions of the architecture; ours must load such tensors and give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

TINY = (32, 64, 96, 96)
CROSS = 16


def sinusoid(values: Tensor, size: int) -> Tensor:
    """[N] -> [N, size]: cosines, then sines, of falling frequencies."""
    half = size // 2
    rates = torch.tensor([10000 ** (-k / half) for k in range(half)])
    angles = values[:, None].float() * rates
    return F.pad(torch.cat([angles.cos(), angles.sin()], 1), (0, size % 2))


def _linear_pair(first: int, second: int, third: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(first, second), nn.SiLU(), nn.Linear(second, third))


class Residual(nn.Module):
    """A residual block of pictures, or over time by a kernel of (3, 1, 1), told its level of noise."""

    def __init__(self, before: int, after: int, embedding: int, time: bool = False) -> None:
        super().__init__()
        kernel: Any = (3, 1, 1) if time else 3
        padding: Any = (1, 0, 0) if time else 1
        conv = nn.Conv3d if time else nn.Conv2d
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, before), nn.SiLU(), conv(before, after, kernel, padding=padding)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, after))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, after), nn.SiLU(), nn.Dropout(0), conv(after, after, kernel, padding=padding)
        )
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def inner(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.skip_connection(x) + self.out_layers(self.in_layers(x) + embedding)

    def embedded(self, embedding: Tensor) -> Tensor:
        return self.emb_layers(embedding)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, space: Tensor, time: Tensor) -> Tensor:
        share = torch.sigmoid(self.mix_factor)
        return share * space + (1 - share) * time


class VideoResidual(Residual):
    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__(before, after, embedding)
        self.time_stack = Residual(after, after, embedding, time=True)
        self.time_mixer = Mixer()

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, frames: int) -> Tensor:
        space = self.inner(x, self.embedded(embedding)[:, :, None, None])  # [N, C, H, W], one clip
        clip = space.transpose(0, 1)[None]  # [1, C, N, H, W]
        added = self.time_stack.embedded(embedding).T[None, :, :, None, None]
        return self.time_mixer(clip, self.time_stack.inner(clip, added))[0].transpose(0, 1)


class Attention(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for values in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        shares = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.to_out((shares @ v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.proj(x).chunk(2, -1)
        return values * F.gelu(gate)


def _forward_layers(width: int) -> nn.Module:
    block = nn.Module()
    block.net = nn.Sequential(Gated(width), nn.Dropout(0), nn.Linear(4 * width, width))
    return block


class Block(nn.Module):
    """A transformer block; over time it has a layer more at its beginning."""

    def __init__(self, width: int, context: int, heads: int, time: bool = False) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width, heads), Attention(width, context, heads)
        self.ff = _forward_layers(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.time = time
        if time:
            self.norm_in, self.ff_in = nn.LayerNorm(width), _forward_layers(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        if self.time:
            x = x + self.ff_in.net(self.norm_in(x))
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff.net(self.norm3(x))


class VideoTransformer(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        heads = max(1, width // 64)
        self.width = width
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([Block(width, context, heads)])
        self.time_stack = nn.ModuleList([Block(width, context, heads, time=True)])
        self.time_pos_embed = _linear_pair(width, 4 * width, width)
        self.time_mixer = Mixer()

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, frames: int) -> Tensor:
        height, width = x.shape[-2:]
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # [N, HW, C]
        space = self.transformer_blocks[0](tokens, context)
        numbered = space + self.time_pos_embed(sinusoid(torch.arange(frames), self.width))[:, None]
        once = context[:1].expand(height * width, -1, -1)
        time = self.time_stack[0](numbered.transpose(0, 1), once).transpose(0, 1)
        mixed = self.proj_out(self.time_mixer(space, time))
        return x + mixed.transpose(1, 2).unflatten(2, (height, width))


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, 2, 1)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, frames: int) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, frames: int) -> Tensor:
        return self.conv(x.repeat_interleave(2, -1).repeat_interleave(2, -2))


class VideoUNet(nn.Module):
    """``model.diffusion_model``: two residual blocks on each of four levels, attention on all but the last."""

    def __init__(
        self, channels: int, vector: int, widths: Sequence[int] = TINY, cross: int = CROSS, embedding: int | None = None
    ) -> None:
        super().__init__()
        self.widths = widths
        embedding = embedding or 4 * widths[0]
        self.time_embed = _linear_pair(widths[0], embedding, embedding)
        self.label_emb = nn.Sequential(_linear_pair(vector, embedding, embedding))

        def residual(before: int, after: int, attends: bool) -> nn.ModuleList:
            block = nn.ModuleList([VideoResidual(before, after, embedding)])
            return block.append(VideoTransformer(after, cross)) if attends else block

        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(channels, widths[0], 3, padding=1)])])
        width, skips = widths[0], [widths[0]]
        for level, after in enumerate(widths):
            for _ in range(2):
                self.input_blocks.append(residual(width, after, level < 3))
                width = after
                skips.append(width)
            if level < 3:
                self.input_blocks.append(nn.ModuleList([Down(width)]))
                skips.append(width)
        self.middle_block = nn.ModuleList(
            [
                VideoResidual(width, width, embedding),
                VideoTransformer(width, cross),
                VideoResidual(width, width, embedding),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level in (3, 2, 1, 0):
            for number in range(3):
                block = residual(width + skips.pop(), widths[level], level < 3)
                width = widths[level]
                if number == 2 and level:
                    block.append(Up(width))
                self.output_blocks.append(block)
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))

    def forward(self, x: Tensor, time: float, vector: Tensor, context: Tensor) -> Tensor:
        """[N, channels, h, w] frames of one clip, c_noise, [vector], [1, cross] -> [N, 4, h, w]."""
        frames = len(x)
        embedding = self.time_embed(sinusoid(torch.tensor([time]), self.widths[0])) + self.label_emb(vector[None])
        given = embedding.expand(frames, -1), context.expand(frames, 1, -1), frames
        kept = []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, *given)
            kept.append(x)
        for layer in self.middle_block:
            x = layer(x, *given)
        for block in self.output_blocks:
            x = torch.cat([x, kept.pop()], 1)
            for layer in block:
                x = layer(x, *given)
        return self.out(x)


class PictureResidual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, before, eps=1e-6), nn.GroupNorm(32, after, eps=1e-6)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return hidden + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PictureAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2) for layer in (self.q, self.k, self.v))
        shares = (q.transpose(1, 2) @ k / math.sqrt(x.shape[1])).softmax(-1)
        return x + self.proj_out((v @ shares.transpose(1, 2)).view_as(x))


def _middle(width: int) -> nn.Module:
    block = nn.Module()
    block.block_1, block.attn_1, block.block_2 = (
        PictureResidual(width, width),
        PictureAttention(width),
        PictureResidual(width, width),
    )
    return block


def _run_middle(block: nn.Module, x: Tensor) -> Tensor:
    return block.block_2(block.attn_1(block.block_1(x)))


class Autoencoder(nn.Module):
    """``first_stage_model``: mode of the encoder, and the decoder of single pictures."""

    def __init__(self, widths: Sequence[int] = (32, 32, 64, 64)) -> None:
        super().__init__()
        encoder, decoder = nn.Module(), nn.Module()
        encoder.conv_in, decoder.conv_in = (
            nn.Conv2d(3, widths[0], 3, padding=1),
            nn.Conv2d(4, widths[-1], 3, padding=1),
        )
        encoder.down, decoder.up = nn.ModuleList(), nn.ModuleList()
        before = widths[0]
        for level, width in enumerate(widths):
            down = nn.Module()
            down.block = nn.ModuleList([PictureResidual(before, width), PictureResidual(width, width)])
            if level + 1 < len(widths):
                down.downsample = nn.Module()
                down.downsample.conv = nn.Conv2d(width, width, 3, 2)
            encoder.down.append(down)
            before = width
        ups = []
        for level in reversed(range(len(widths))):
            up, width = nn.Module(), widths[level]
            up.block = nn.ModuleList([PictureResidual(before if k == 0 else width, width) for k in range(3)])
            if level:
                up.upsample = nn.Module()
                up.upsample.conv = nn.Conv2d(width, width, 3, padding=1)
            ups.append(up)
            before = width
        decoder.up.extend(reversed(ups))
        encoder.mid, decoder.mid = _middle(widths[-1]), _middle(widths[-1])
        encoder.norm_out, decoder.norm_out = (
            nn.GroupNorm(32, widths[-1], eps=1e-6),
            nn.GroupNorm(32, widths[0], eps=1e-6),
        )
        encoder.conv_out = nn.Conv2d(widths[-1], 8, 3, padding=1)
        decoder.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.encoder, self.decoder = encoder, decoder
        self.quant_conv, self.post_quant_conv = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 1)

    def encode(self, pictures: Tensor) -> Tensor:
        x = self.encoder.conv_in(pictures)
        for down in self.encoder.down:
            for block in down.block:
                x = block(x)
            if hasattr(down, "downsample"):
                x = down.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        x = self.encoder.conv_out(F.silu(self.encoder.norm_out(_run_middle(self.encoder.mid, x))))
        return self.quant_conv(x)[:, :4]

    def decode(self, latents: Tensor) -> Tensor:
        x = _run_middle(self.decoder.mid, self.decoder.conv_in(self.post_quant_conv(latents)))
        for up in reversed(self.decoder.up):
            for block in up.block:
                x = block(x)
            if hasattr(up, "upsample"):
                x = up.upsample.conv(x.repeat_interleave(2, -1).repeat_interleave(2, -2))
        return self.decoder.conv_out(F.silu(self.decoder.norm_out(x)))


def official(channels: int, vector: int, seed: int = 0) -> tuple[VideoUNet, Autoencoder]:
    """Tiny networks whose outputs depend on all of their inputs and weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet, autoencoder = VideoUNet(channels, vector), Autoencoder()
        for network in (unet, autoencoder):
            for name, value in network.named_parameters():
                if value.dim() < 2:
                    value.data += 0.2 * torch.randn_like(value)
                elif "attn" in name:
                    value.data *= 1.5
    return unet.eval().requires_grad_(False), autoencoder.eval().requires_grad_(False)


def checkpoint(unet: nn.Module, autoencoder: nn.Module) -> dict[str, Tensor]:
    """Tensors as a file names them, with some that nobody needs."""
    return {
        **{f"model.diffusion_model.{name}": value for name, value in unet.state_dict().items()},
        **{f"first_stage_model.{name}": value for name, value in autoencoder.state_dict().items()},
        "conditioner.embedders.0.open_clip.model.visual.proj": torch.zeros(2, 2),
        "denoiser.sigmas": torch.zeros(3),
    }


def write_checkpoint(file: Path, tensors: dict[str, Tensor]) -> Path:
    """A file as DeepSpeed writes it."""
    torch.save({"module": {f"module.{name}": value for name, value in tensors.items()}, "ds_config": {"a": 1}}, file)
    return file


def write_encoder(folder: Path, width: int = CROSS) -> Path:
    """``folder``, with a tiny image encoder."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224,
        patch_size=112, projection_dim=width,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    return folder
