"""Diffusers' AutoencoderKL with the skip connections of Difix (Wu et al., CVPR 2025, following img2img-turbo)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from difix3d_ns.priors.networks.tiling import Tiling
from difix3d_ns.priors.networks.tiling import decode as decode_tiled
from difix3d_ns.priors.networks.tiling import encode as encode_tiled


def skip_convolutions(widths: Sequence[int]) -> nn.ModuleList:
    """Create 1x1 convolutions from the inputs of the encoder's down blocks to the inputs of the decoder's up blocks.

    Args:
        widths: ``block_out_channels`` of the autoencoder.
    """
    kept = [widths[0], *widths[:-1]][::-1]  # deepest first
    targets = [widths[-1], *list(widths)[:0:-1]]
    convolutions = nn.ModuleList(
        nn.Conv2d(source, target, 1, bias=False) for source, target in zip(kept, targets, strict=True)
    )
    for weight in convolutions.parameters():
        nn.init.constant_(weight, 1e-5)
    return convolutions


class SkipVae:
    """An autoencoder and its skips, used together; owns neither, so that both keep their names in a model.

    Args:
        vae: an AutoencoderKL, left as it is; none of its methods is replaced.
        skips: see ``skip_convolutions``.
        gamma: scales the skips; 0 leaves them out.
    """

    def __init__(self, vae: Any, skips: nn.ModuleList, gamma: float):
        self.vae = vae
        self.skips = skips
        self.gamma = gamma
        config = self.vae.config
        self.scale = float(config.scaling_factor)
        self.multiple = 2 ** (len(config.block_out_channels) - 1)
        """Height and width of pictures must be multiples of this."""

    def encode(self, pictures: Tensor, keep: bool = True, tiling: Tiling | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode to the scaled latent and, for the decoder, the inputs of the down blocks.

        The latent is the posterior's mode: a sample would flicker from frame to frame.

        Args:
            pictures: [B, C, H, W] in [-1, 1].
            keep: False if nothing will be decoded: the list stays empty.
            tiling: work through the picture in tiles, to save memory; the result is the same.
        """
        encoder = self.vae.encoder
        kept: list[Tensor] = []
        if tiling is not None:
            hidden, kept = encode_tiled(encoder, pictures, keep, tiling)
        else:
            hidden = encoder.conv_in(pictures)
            for block in encoder.down_blocks:
                if keep:
                    kept.append(hidden)
                hidden = block(hidden)
        hidden = _with_layout_of(hidden, encoder.mid_block(hidden))
        hidden = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(hidden)))
        if self.vae.quant_conv is not None:
            hidden = self.vae.quant_conv(hidden)
        return hidden.chunk(2, dim=1)[0] * self.scale, kept

    def decode(self, latent: Tensor, kept: Sequence[Tensor], tiling: Tiling | None = None) -> Tensor:
        """Decode a scaled latent, with what ``encode`` kept, to [B, C_out, H, W], not clamped."""
        decoder = self.vae.decoder
        hidden = latent / self.scale
        if self.vae.post_quant_conv is not None:
            hidden = self.vae.post_quant_conv(hidden)
        hidden = decoder.conv_in(hidden)
        hidden = _with_layout_of(hidden, decoder.mid_block(hidden))
        if tiling is not None:
            return decode_tiled(decoder, hidden, self.skips if self.gamma else None, self.gamma, kept, tiling)
        for block, skip, source in zip(decoder.up_blocks, self.skips, reversed(kept), strict=True):
            hidden = block(hidden + skip(source * self.gamma) if self.gamma else hidden)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))


def _with_layout_of(before: Tensor, after: Tensor) -> Tensor:
    """Restore the memory layout from before attention.

    It leaves batches in channels-last order, where the CPU's float32 group normalisation loses digits.
    """
    if before.is_contiguous():
        return after.contiguous()
    return after.contiguous(memory_format=torch.channels_last)
