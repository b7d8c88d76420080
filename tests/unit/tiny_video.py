"""A video diffusion model of orbits at a tiny size, as a folder that ``difix3d convert --kind`` would write."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNetSpatioTemporalConditionModel

from difix3d_ns.priors.published.video_kinds import KINDS, KindName
from tests.unit.official_upscalers import lively
from tests.unit.official_video import write_encoder

CROSS = 8


def write_video(folder: Path, kind: KindName, steps: int = 2, seed: int = 0) -> Path:
    """Write random networks of a kind, which take so many steps; returns ``folder``."""
    described = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNetSpatioTemporalConditionModel(
            in_channels=described.channels,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            block_out_channels=(32, 32),
            layers_per_block=1,
            num_attention_heads=(1, 1),
            cross_attention_dim=CROSS,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=described.vector,
        )
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[4, 4, 4, 8],
            layers_per_block=1,
            norm_num_groups=2,
        )
    lively(unet).save_pretrained(folder / "unet")
    lively(vae).save_pretrained(folder / "vae")
    (folder / "difix3d.json").write_text(json.dumps({"kind": kind, "steps": steps}))
    return write_encoder(folder, CROSS)
