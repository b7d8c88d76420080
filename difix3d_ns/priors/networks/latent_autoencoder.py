"""Autoencoders of latent diffusion models, one that draws latents (AutoencoderKL) and one with a codebook (VQModel)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from difix3d_ns.priors.networks.tiling import Tiling
from difix3d_ns.priors.networks.tiling import decode as decode_tiled
from difix3d_ns.priors.networks.tiling import encode as encode_tiled

MAX_PIXELS = 2**18
"""of a picture that is encoded or decoded whole: 256 channels of it are 256 MB in float32"""
_MAX_DISTANCES = 2**25  # between latents and codes at once
_TILED = {"DownEncoderBlock2D", "UpDecoderBlock2D"}


class LatentAutoencoder:
    """An autoencoder as its diffusion model uses it: pictures [B, 3, H, W] in [-1, 1], latents scaled.

    Args:
        network: an AutoencoderKL or a VQModel of diffusers, left as it is.
        max_pixels: larger pictures are worked through in tiles, with the same result but for rounding.
    """

    def __init__(self, network: Any, max_pixels: int = MAX_PIXELS) -> None:
        self.network = network
        config = network.config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        """Height and width of a picture are so many times those of its latent."""
        self._codes: Any = getattr(network, "quantize", None)
        # VQModel's configuration has a scale as well, which no model of that kind was trained with.
        self._scale = 1.0 if self._codes is not None else float(config.scaling_factor)
        self._max_pixels = max_pixels
        self._tiled = _TILED.issuperset((*config.down_block_types, *config.up_block_types))

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode to latents [B, c, H / factor, W / factor]: their mode, or what they are before a code is looked up."""
        pictures = pictures.to(self._weights.dtype)
        network, encoder = self.network, self.network.encoder
        if (tiling := self._tiling(pictures.shape[2] * pictures.shape[3])) is None:
            hidden = encoder(pictures)
        else:
            hidden = encoder.mid_block(encode_tiled(encoder, pictures, False, tiling)[0])
            hidden = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(hidden)))
        if network.quant_conv is not None:
            hidden = network.quant_conv(hidden)
        latents: Tensor = hidden if self._codes is not None else hidden.chunk(2, dim=1)[0]
        return latents.float() * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, each replaced by its nearest code if there are codes, to pictures, not clamped."""
        network, decoder = self.network, self.network.decoder
        hidden = (latents.float() / self._scale) if self._codes is None else self._nearest_codes(latents.float())
        hidden = hidden.to(self._weights.dtype)
        if network.post_quant_conv is not None:
            hidden = network.post_quant_conv(hidden)
        if (tiling := self._tiling(hidden.shape[2] * hidden.shape[3] * self.factor**2)) is None:
            return decoder(hidden).float()
        hidden = decoder.mid_block(decoder.conv_in(hidden))
        return decode_tiled(decoder, hidden, None, 0.0, (), tiling).float()

    @property
    def _weights(self) -> Tensor:
        return self.network.decoder.conv_in.weight

    def _tiling(self, pixels: int) -> Tiling | None:
        return Tiling(self._max_pixels) if self._tiled and pixels > self._max_pixels else None

    def _nearest_codes(self, latents: Tensor) -> Tensor:
        """Row by row, or the distances from all latents to all codes would take gigabytes."""
        rows = max(1, _MAX_DISTANCES // (latents.shape[3] * self._codes.embedding.num_embeddings))
        return torch.cat([self._codes(part)[0] for part in latents.split(rows, 2)], 2)
