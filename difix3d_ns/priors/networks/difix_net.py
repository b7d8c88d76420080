"""The Difix architecture: a single-step latent diffusion model whose views attend to each other.

Wu et al., "Difix3D+: Improving 3D Reconstructions with Single-Step Diffusion Models", CVPR 2025 (arXiv 2503.01774).
One class for every size: the configurations are those of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from difix3d_ns.priors.networks.diffusion import clean_estimate, signal_levels
from difix3d_ns.priors.networks.from_config import construct
from difix3d_ns.priors.networks.skip_vae import SkipVae, skip_convolutions
from difix3d_ns.priors.networks.tiling import Tiling
from difix3d_ns.priors.networks.view_attention import ViewAttention, token_masks

TIMESTEP = 199  # the paper's tau = 200, counted from zero


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
        self.unet: Any = construct(UNet2DConditionModel, unet)
        self.unet.set_attn_processor({name: ViewAttention(mix=".attn1." in name) for name in self.unet.attn_processors})
        self.vae: Any = construct(AutoencoderKL, vae)
        gamma = 0.0 if vae.get("ignore_skip", False) else float(vae.get("gamma", 1.0))
        self.skips = skip_convolutions(self.vae.config.block_out_channels)
        self.autoencoder = SkipVae(self.vae, self.skips, gamma)
        if isinstance(prompt, nn.Parameter):
            self.prompt: Tensor = prompt
        else:
            self.register_buffer("prompt", prompt)
        self.prediction_type: str = scheduler.get("prediction_type", "epsilon")
        self.alpha_bar = float(signal_levels(scheduler)[TIMESTEP])

    @property
    def multiple(self) -> int:
        """Number that height and width are padded to a multiple of."""
        return self.autoencoder.multiple

    def forward(self, views: Tensor) -> Tensor:
        """Repair the first view of each sample.

        Args:
            views: [B, V, C, H, W] in [-1, 1]; the first is the degraded picture, the others are references.

        Returns:
            [B, C_out, H, W], not clamped.
        """
        count, height, width = views.shape[1], *views.shape[-2:]
        latents, kept = self.encode(self.pad(views.flatten(0, 1)))
        clean = self.denoise(latents.unflatten(0, (-1, count)))
        # Only the target is decoded: the references' latents and skips end here.
        return self.decode(clean, [skip[::count] for skip in kept])[..., :height, :width]

    def pad(self, pictures: Tensor) -> Tensor:
        """Enlarge [B, C, H, W] at the right and the bottom to multiples of ``multiple``, repeating the edge."""
        height, width = pictures.shape[-2:]
        return F.pad(pictures, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")

    def encode(self, pictures: Tensor, keep: bool = True, tiling: Tiling | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode [B, C, H, W] in [-1, 1]: scaled latents [B, c, h, w] and what decoding needs (``SkipVae.encode``)."""
        return self.autoencoder.encode(pictures, keep, tiling)

    def masks(self, filled: Tensor, grid: tuple[int, int]) -> dict[int, Tensor] | None:
        """Attention masks for ``denoise`` where some views are partly padding.

        Args:
            filled: [B, V, 2] rows and columns of each latent that show the picture.
            grid: rows and columns of the latents.
        """
        return token_masks(filled, grid, len(self.unet.config.block_out_channels))

    def denoise(self, latents: Tensor, masks: Mapping[int, Tensor] | None = None) -> Tensor:
        """Predict the targets' clean latents.

        Args:
            latents: [B, V, c, h, w] scaled latents, the target first, then its references.
            masks: of attention (see ``masks``); None: everything is attended to.

        Returns:
            [B, c, h, w].
        """
        batch, count = latents.shape[:2]
        prediction = self.unet(
            latents.flatten(0, 1),
            TIMESTEP,
            encoder_hidden_states=self.prompt.to(latents.dtype).expand(batch * count, -1, -1),
            cross_attention_kwargs={"views": count, "masks": masks},
        ).sample
        return self._clean(latents[:, 0], prediction[::count])

    def decode(self, latent: Tensor, kept: Sequence[Tensor], tiling: Tiling | None = None) -> Tensor:
        """Decode to [B, C_out, H, W], not clamped (see ``SkipVae.decode``)."""
        return self.autoencoder.decode(latent, kept, tiling)

    def _clean(self, noisy: Tensor, prediction: Tensor) -> Tensor:
        return clean_estimate(noisy, prediction, self.alpha_bar, self.prediction_type)
