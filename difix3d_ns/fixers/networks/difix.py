"""The Difix architecture: a single-step latent diffusion model whose views attend to each other.

Wu et al., "Difix3D+: Improving 3D Reconstructions with Single-Step Diffusion Models", CVPR 2025 (arXiv 2503.01774).
One class for every size: the configurations are those of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

TIMESTEP = 199  # the paper's tau = 200, counted from zero


class ViewAttention:
    """Attention processor; with ``mix`` all views of a sample share one self-attention (section 4.1 of the paper).

    The batch holds the views of a sample one after the other. It keeps no state: the number of views travels through
    ``cross_attention_kwargs``, so that several models, threads and plain diffusers models do not disturb each other.
    """

    def __init__(self, mix: bool):
        self.mix = mix

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        views: int = 1,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, tokens, _ = hidden_states.shape
        groups = batch // views if self.mix else batch

        def heads(states: Tensor) -> Tensor:  # [(b v), n, (h d)] -> [b, h, (v n), d]
            return states.view(groups, -1, attn.heads, states.shape[-1] // attn.heads).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            heads(attn.to_q(hidden_states)),
            heads(attn.to_k(context)),
            heads(attn.to_v(context)),
            attn_mask=attention_mask,
            scale=attn.scale,
        )
        mixed = mixed.transpose(1, 2).reshape(batch, tokens, -1)
        return attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor


class DifixNet(nn.Module):
    """Degraded picture and reference views in, repaired picture out, in one UNet call at t = 199 without added noise.

    Args:
        unet: configuration of ``UNet2DConditionModel``.
        vae: configuration of ``AutoencoderKL``; ``gamma`` scales the skips, ``ignore_skip`` leaves them out.
        scheduler: betas and prediction type, as in a scheduler's JSON.
        prompt: [n, d] the constant prompt's embedding; a Parameter is trained.
    """

    def __init__(
        self,
        unet: Mapping[str, Any],
        vae: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        prompt: Tensor,
    ):
        super().__init__()
        self.unet = UNet2DConditionModel.from_config(dict(unet))
        self.unet.set_attn_processor({name: ViewAttention(mix=".attn1." in name) for name in self.unet.attn_processors})
        self.vae = AutoencoderKL.from_config(dict(vae))
        self.gamma = 0.0 if vae.get("ignore_skip", False) else float(vae.get("gamma", 1.0))
        widths = list(self.vae.config.block_out_channels)
        kept = [widths[0], *widths[:-1]][::-1]  # inputs of the encoder's down blocks, deepest first
        wanted = [widths[-1], *widths[:0:-1]]  # inputs of the decoder's up blocks
        self.skips = nn.ModuleList(
            nn.Conv2d(source, target, 1, bias=False) for source, target in zip(kept, wanted, strict=True)
        )
        for weight in self.skips.parameters():
            nn.init.constant_(weight, 1e-5)
        if isinstance(prompt, nn.Parameter):
            self.prompt: Tensor = prompt
        else:
            self.register_buffer("prompt", prompt)
        noise = DDPMScheduler.from_config({**scheduler, "clip_sample": False})
        self.prediction_type: str = noise.config.prediction_type
        self.alpha_bar = float(noise.alphas_cumprod[TIMESTEP])

    @property
    def multiple(self) -> int:
        """Height and width are padded to a multiple of this."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def forward(self, views: Tensor) -> Tensor:
        """Repair the first view of each sample.

        Args:
            views: [B, V, C, H, W] in [-1, 1]; the first is the degraded picture, the others are references.

        Returns:
            [B, C_out, H, W], not clamped.
        """
        batch, count, _, height, width = views.shape
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        flat = F.pad(views.flatten(0, 1), pad, mode="replicate")
        latent, kept = self._encode(flat)
        prompt = self.prompt.to(latent.dtype).expand(batch * count, -1, -1)
        prediction = self.unet(
            latent, TIMESTEP, encoder_hidden_states=prompt, cross_attention_kwargs={"views": count}
        ).sample
        # Only the target is decoded: the references' latents and skips end here.
        clean = self._clean(latent[::count], prediction[::count])
        return self._decode(clean, [skip[::count] for skip in kept])[..., :height, :width]

    def _encode(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        encoder, kept = self.vae.encoder, []
        hidden = encoder.conv_in(pictures)
        for block in encoder.down_blocks:
            kept.append(hidden)
            hidden = block(hidden)
        hidden = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(hidden))))
        if self.vae.quant_conv is not None:
            hidden = self.vae.quant_conv(hidden)
        mode = hidden.chunk(2, dim=1)[0]  # the posterior's mode: a sample would flicker
        return mode * self.vae.config.scaling_factor, kept

    def _clean(self, noisy: Tensor, prediction: Tensor) -> Tensor:
        signal, noise = self.alpha_bar**0.5, (1 - self.alpha_bar) ** 0.5
        if self.prediction_type == "epsilon":
            return (noisy - noise * prediction) / signal
        if self.prediction_type == "v_prediction":
            return signal * noisy - noise * prediction
        if self.prediction_type == "sample":
            return prediction
        raise ValueError(f"unknown prediction_type {self.prediction_type!r} in the scheduler's configuration")

    def _decode(self, latent: Tensor, kept: list[Tensor]) -> Tensor:
        decoder = self.vae.decoder
        hidden = latent / self.vae.config.scaling_factor
        if self.vae.post_quant_conv is not None:
            hidden = self.vae.post_quant_conv(hidden)
        hidden = decoder.mid_block(decoder.conv_in(hidden))
        for block, skip, source in zip(decoder.up_blocks, self.skips, reversed(kept), strict=True):
            hidden = block(hidden + skip(source * self.gamma) if self.gamma else hidden)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))
