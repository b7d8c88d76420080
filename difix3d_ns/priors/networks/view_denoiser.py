"""A diffusion model of what a predicted view lacks, conditioned on the prediction (SparseFusion, section 3.2).

Its latent is no autoencoder's: the difference to the predicted picture, four by four pixels to a place, where the
epipolar network's features lie. So what the photographs tell for certain costs nothing, and the model is of the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from difix3d_ns.priors.networks.blend_net import silence
from difix3d_ns.priors.networks.residual_net import PATCH, ResidualBlock, cosine_transformed

CHANNELS = 3 * PATCH**2
_KNOWN = CHANNELS + 3  # patches of the prediction; whether photographs show it, and the errors of depth and colour
_LEVELS = 32  # numbers that stand for a level of noise
_SPREAD = 0.7  # variance of a latent in units of that of all


class ViewDenoiser(nn.Module):
    """A U-Net of three levels that predicts ``x_0``; without attention or normalisation.

    Args:
        hidden: channels of the features that come with a prediction.
        widths: channels of the levels.
        blocks: residual blocks before and after in the upper two levels, and in the lowest.
        embedding: numbers that stand for the level of noise.
        scale: of differences, so that latents have about unit variance.
    """

    def __init__(
        self,
        hidden: int = 48,
        widths: tuple[int, int, int] = (64, 96, 128),
        blocks: tuple[int, int, int] = (2, 2, 2),
        embedding: int = 64,
        scale: float = 8.0,
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.scale = scale
        self.embed = nn.Sequential(nn.Linear(_LEVELS, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.enter = nn.Conv2d(CHANNELS + _KNOWN + hidden, first, 3, padding=1)
        self.before = _Blocks(first, embedding, blocks[0])
        self.down = nn.Conv2d(first, second, 2, stride=2)
        self.before_lower = _Blocks(second, embedding, blocks[1])
        self.down_again = nn.Conv2d(second, third, 2, stride=2)
        self.inside = _Blocks(third, embedding, blocks[2])
        self.up_again = nn.Conv2d(third, 4 * second, 1)
        self.after_lower = _Blocks(second, embedding, blocks[1])
        self.up = nn.Conv2d(second, 4 * first, 1)
        self.after = _Blocks(first, embedding, blocks[0])
        self.leave = nn.Conv2d(first, CHANNELS, 3, padding=1)
        silence(self.leave)

    def encode(self, pictures: Tensor, predicted: Tensor) -> Tensor:
        """Latent [B, 48, H/4, W/4] of pictures [B, 3, H, W] beside predicted ones; sides are multiples of 16."""
        return F.pixel_unshuffle((pictures - predicted) * self.scale, PATCH)

    def decode(self, latent: Tensor, predicted: Tensor) -> Tensor:
        """Pictures [B, 3, H, W], not clamped, of a latent."""
        return predicted + F.pixel_shuffle(latent, PATCH) / self.scale

    def conditions(self, predicted: Tensor, hidden: Tensor, known: Tensor) -> Tensor:
        """Compute what the network knows of a prediction, [B, C, H/4, W/4].

        Args:
            predicted: [B, 3, H, W] in [0, 1].
            hidden: [B, hidden, H/4, W/4] features that came with it.
            known: [B, 3, H, W] chance that some photograph shows it, logarithms of the errors of depth and of colour.
        """
        patches = cosine_transformed(F.pixel_unshuffle(predicted - 0.5, PATCH))
        patches = torch.cat([patches[:, :3] / 2, patches[:, 3:] * 8], 1)  # means, details
        return torch.cat([patches, hidden, F.avg_pool2d(known, PATCH)], 1)

    def forward(self, noisy: Tensor, conditions: Tensor, signal: Tensor) -> Tensor:
        """Estimate clean latents.

        Args:
            noisy: [B, 48, h, w], sides multiples of four.
            conditions: [B, C, h, w]; see the method of that name.
            signal: [B] ``a_t``; the network is told the logarithm of its ratio to noise.
        """
        signal = signal.to(noisy)
        log_ratio = (signal / (1 - signal)).log()
        embedding = self.embed(get_timestep_embedding(40 * log_ratio, _LEVELS).to(noisy.dtype))
        kept = signal**0.5 * _SPREAD / (signal * _SPREAD + 1 - signal)  # the best linear estimate: no noise is shown
        linear = kept.view(-1, 1, 1, 1) * noisy
        first = self.before(self.enter(torch.cat([linear, conditions], 1)), embedding)
        second = self.before_lower(self.down(first), embedding)
        third = self.inside(self.down_again(second), embedding)
        second = self.after_lower(second + F.pixel_shuffle(self.up_again(F.silu(third)), 2), embedding)
        first = self.after(first + F.pixel_shuffle(self.up(F.silu(second)), 2), embedding)
        return linear + self.leave(F.silu(first))


class _Blocks(nn.ModuleList):
    """Residual blocks one after the other."""

    def __init__(self, width: int, embedding: int, count: int) -> None:
        super().__init__([ResidualBlock(width, embedding) for _ in range(count)])

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            hidden = block(hidden, embedding)
        return hidden
