"""The epipolar network as a fixer: what photographs predict of a view takes the place of its render."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from difix3d_ns.geometry.resize import resized
from difix3d_ns.priors.base import FixRequest, FixResult, finite
from difix3d_ns.priors.epipolar import LONG_SIDE, Predictor
from difix3d_ns.priors.networks.eft_net import EpipolarNet
from difix3d_ns.priors.networks.weight_files import find_weights, loaded, read_weights

WEIGHTS = Path(__file__).parent / "weights" / "eft.safetensors"
PHOTOGRAPHS = 4
"""most that the network was shown in training"""


class EFTFixer:
    """``EpipolarNet`` behind the contract of ``Fixer``; it never looks at the render but to fill what it does not know.

    Args:
        net: the network.
        device: where it lives.
    """

    trained_references = PHOTOGRAPHS
    default_references = PHOTOGRAPHS
    generative = False
    aligns = True

    def __init__(self, net: EpipolarNet, device: torch.device) -> None:
        self._predictor = Predictor(net, device)

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair pictures one by one (contract of ``Fixer``)."""
        return [self._fix(finite(request)) for request in requests]

    @torch.no_grad()
    def _fix(self, request: FixRequest) -> FixResult:
        image = request.image.float()
        references = [reference for reference in request.references if reference.camera is not None]
        if request.camera is None or not references:
            return FixResult(image.clamp(0, 1), torch.zeros_like(image[..., :1]))
        height, width = image.shape[:2]
        camera = request.camera.resized(width, height).within(LONG_SIDE)
        found = self._predictor.predict(references, camera)
        picture, confidence, depth = (
            resized(values.to(image.device), height, width, mode)
            for values, mode in (
                (found.image, "bilinear"),
                (found.confidence, "bilinear"),
                (found.depth, "nearest-exact"),
            )
        )
        return FixResult(torch.lerp(image, picture, confidence).clamp(0, 1), confidence, depth)


def load(weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> EFTFixer:
    """Read it from a .safetensors file with its .json beside it.

    Args:
        weights: such a file, a folder with one ("weights.safetensors", as ``difix3d train-prior eft`` writes), or None
            for the package's own.
        device: where the network lives.
        dtype: ignored: it computes in float32, whose digits depth needs.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: it cannot be read or does not fit.
    """
    return EFTFixer(read_net(weights).to(device), torch.device(device))


def read_net(weights: str | None) -> EpipolarNet:
    """Read the network (float32, on the CPU); errors and argument as of ``load``."""
    path = find_weights(WEIGHTS if weights is None else weights, "eft", "eft", "eft")
    remedy = "a folder written by `difix3d train-prior eft`"
    return read_weights(path, lambda config, tensors: loaded(EpipolarNet(**config["net"]), tensors), "eft", remedy)
