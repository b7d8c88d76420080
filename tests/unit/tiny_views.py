"""Networks that predict views, at a tiny size, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from difix3d_ns.priors.networks.eft_net import EpipolarNet
from difix3d_ns.priors.networks.view_denoiser import ViewDenoiser

EFT: dict[str, Any] = {"planes": 6, "token": 8, "volume": [4, 6, 8], "picture": [8, 8, 8, 8], "refinement": 8}
DENOISER: dict[str, Any] = {"hidden": 8, "widths": [8, 12, 12], "blocks": [1, 1, 1], "embedding": 8, "scale": 8.0}


def write_eft(folder: Path, name: str = "weights") -> Path:
    """Weights whose every layer does something, as ``difix3d train-prior eft`` writes trained ones."""
    return _write(EpipolarNet, EFT, folder, name)


def write_sparsefusion(folder: Path) -> Path:
    """The same of ``difix3d train-prior sparsefusion``, with the epipolar network beside it."""
    write_eft(folder, "eft")
    return _write(ViewDenoiser, DENOISER, folder, "weights")


def _write(make: Callable[..., nn.Module], config: dict[str, Any], folder: Path, name: str) -> Path:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        net = make(**config)
    state = {
        key: (0.7 * torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5).half()
        for key, value in net.state_dict().items()
    }
    save_file(state, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps({"net": config}))
    return folder
