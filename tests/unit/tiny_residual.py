"""The embedded upscaler at a tiny size, with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from difix3d_ns.priors.networks.orbit_frames import DEPTH_CHANNELS
from difix3d_ns.priors.networks.residual_net import ResidualNet
from tests.unit.tiny_fixers import SCHEDULER

NET: dict[str, Any] = {
    "widths": [8, 8],
    "blocks": [1, 1, 1],
    "embedding": 8,
    "scales": [[4, 18.0], [2, 30.0], [1.5, 40.0]],
}


def write_hi3d(folder: Path) -> Path:
    """The same of ``difix3d train-prior hi3d``, whose network is told depth."""
    return write_residual(folder, {**NET, "extra": DEPTH_CHANNELS})


def write_residual(folder: Path, settings: Mapping[str, Any] = NET) -> Path:
    """Weights whose every layer does something, as ``difix3d train-prior upscale`` writes trained ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        net = ResidualNet(**settings)
    state = {
        key: (0.3 * torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5).half()
        for key, value in net.state_dict().items()
    }
    save_file(state, folder / "weights.safetensors")
    config = {"net": dict(settings), "scheduler": {**SCHEDULER, "prediction_type": "sample"}}
    (folder / "weights.json").write_text(json.dumps(config))
    return folder
