"""Self-attention that all views of a sample share (Wu et al., Difix3D+, CVPR 2025, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor


class ViewAttention:
    """Attention processor; with ``mix`` all views of a sample share one self-attention.

    The batch holds the views of a sample one after the other. It keeps no state: the number of views and the masks
    travel through ``cross_attention_kwargs``, so that several models, threads and plain diffusers models do not disturb
    each other.
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
        masks: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, tokens, _ = hidden_states.shape
        groups = batch // views if self.mix else batch
        if self.mix and masks is not None:
            attention_mask = masks[tokens]

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


def token_masks(filled: Tensor, grid: tuple[int, int], levels: int) -> dict[int, Tensor] | None:
    """Masks of the keys that are more than padding, for every resolution of a UNet; None if all are.

    A token counts as padding if no latent it stands for shows the picture.

    Args:
        filled: [B, V, 2] rows and columns of the latents that show the picture; the rest is padding below and right.
        grid: rows and columns of the latents.
        levels: resolutions of the UNet; each halves the one before, rounding up.

    Returns:
        tokens of one view -> [B, 1, 1, V * tokens] bool, True where a query may attend.
    """
    rows, columns = grid
    if bool((filled >= torch.tensor(grid, device=filled.device)).all()):
        return None
    masks: dict[int, Tensor] = {}
    for _ in range(levels):
        down = torch.arange(rows, device=filled.device) < filled[..., :1]
        across = torch.arange(columns, device=filled.device) < filled[..., 1:]
        masks[rows * columns] = (down[..., :, None] & across[..., None, :]).flatten(1)[:, None, None]
        rows, columns, filled = -(-rows // 2), -(-columns // 2), (filled + 1) // 2
    return masks
