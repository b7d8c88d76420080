"""Networks of the fixers at a tiny size, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from difix3d_ns.priors.networks.detail_net import DetailNet
from difix3d_ns.priors.networks.stages import EmbeddedChain

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
CHAIN = {
    "align": {},
    "blend": {"widths": [8, 8, 8]},
    "difix": {
        "unet": UNET,
        "vae": {**VAE, "in_channels": 16, "out_channels": 12, "scaling_factor": 1.0},
        "scheduler": SCHEDULER,
        "prompt": [2, 8],
    },
}

DETAIL = {"net": {"widths": [8, 8, 8], "attention": 4, "decoder": 8}, "fixer": "detail"}


def write_embedded(folder: Path) -> Path:
    """Weights of the embedded fixer whose every link does something, as ``difix3d`` writes trained ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chain = EmbeddedChain(CHAIN)
        torch.nn.init.normal_(chain.blend.leave.weight, std=0.05)
        torch.nn.init.normal_(chain.gate[2].weight, std=0.1)
    state = {key: value.half().contiguous() for key, value in chain.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    (folder / "weights.json").write_text(json.dumps(CHAIN))
    return folder


def write_detail(folder: Path) -> Path:
    """Weights of detail refinement whose every link does something, and that matches nearly everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DetailNet(**DETAIL["net"])
        torch.nn.init.normal_(net.leave.weight, std=0.05)
        net.leave.bias.data[12:] = -2.0  # the gate of what is copied
        for matcher in net.near:
            matcher.layers[-1].bias.data.fill_(1.0)  # type: ignore[union-attr]
    state = {key: value.half().contiguous() for key, value in net.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    (folder / "weights.json").write_text(json.dumps(DETAIL))
    return folder
