"""The embedded depth network at a tiny size, with random weights."""

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
