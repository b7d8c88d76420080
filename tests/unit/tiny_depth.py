"""Networks of depth at a tiny size, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from difix3d_ns.priors.networks.depth_net import DepthNet

NET: dict[str, Any] = {
    "planes": 8,
    "offsets": 4,
    "groups": [4, 2],
    "volume": [4, 6, 8],
    "picture": [8, 8, 8, 8],
    "refinement": 8,
}


def write_depth(folder: Path) -> Path:
    """Weights whose every layer does something, as ``difix3d train-prior depth`` writes trained ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        net = DepthNet(**NET)
    state = {
        key: (torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5).half()
        for key, value in net.state_dict().items()
    }
    save_file(state, folder / "weights.safetensors")
    (folder / "weights.json").write_text(json.dumps({"net": NET}))
    return folder


def write_single_view(folder: Path, kind: str = "relative") -> Path:
    """A Depth Anything of ``transformers`` as it is published."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=28,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DepthAnythingForDepthEstimation(config)
        for parameter in net.parameters():  # nothing is flat
            parameter.data += 0.2 * torch.randn_like(parameter)
    net.save_pretrained(folder)
    settings = {"size": {"height": 56, "width": 56}, "ensure_multiple_of": 14, "image_mean": [0.5, 0.4, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
