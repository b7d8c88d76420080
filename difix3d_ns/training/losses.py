"""Losses a recipe names: each compares two pictures [B, 3, H, W] in [0, 1] and gives a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.metrics.perceptual import LPIPS, MissingWeights, PerceptualWeights
from difix3d_ns.training.flip import flip

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function of a picture and the truth, [B, 3, H, W] each; the picture may leave [0, 1]."""

_SCALES = 160  # the shorter side of pictures must be larger for the five scales of MS-SSIM
_GRAM_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""weights of relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 in the published training of Difix"""


def _l1(picture: Tensor, truth: Tensor) -> Tensor:
    return (picture - truth).abs().mean()


def _l2(picture: Tensor, truth: Tensor) -> Tensor:
    return (picture - truth).square().mean()


def _gradient(picture: Tensor, truth: Tensor) -> Tensor:
    """L1 between differences of neighbouring pixels."""
    error = picture - truth
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def _ssim(picture: Tensor, truth: Tensor) -> Tensor:
    """1 - SSIM (Wang et al. 2004)."""
    return 1 - ssim(picture.clamp(0, 1), truth, data_range=1.0)


def _ms_ssim(picture: Tensor, truth: Tensor) -> Tensor:
    """1 - MS-SSIM (Wang et al. 2003)."""
    if min(truth.shape[-2:]) <= _SCALES:
        raise UserError(f"the loss ms-ssim needs crops above {_SCALES} pixels, this one is {list(truth.shape[-2:])}")
    return 1 - ms_ssim(picture.clamp(0, 1), truth, data_range=1.0)


def _lpips(vgg: LPIPS, picture: Tensor, truth: Tensor) -> Tensor:
    """LPIPS on VGG16."""
    return vgg(picture, truth).mean()


def _gram(vgg: LPIPS, picture: Tensor, truth: Tensor) -> Tensor:
    """Weighted squared differences of Gram matrices (Gatys et al. 2016; weights of Wu et al., Difix3D+, 2025)."""
    pairs = zip(_GRAM_WEIGHTS, vgg.features(picture), vgg.features(truth), strict=True)
    terms = [weight * F.mse_loss(_correlations(first), _correlations(second)) for weight, first, second in pairs]
    return torch.stack(terms).sum()


def _correlations(features: Tensor) -> Tensor:
    """Mean products [B, C, C] of each two channels over all pixels and channels of features [B, C, H, W]."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()


PIXEL_LOSSES: dict[str, Loss] = {
    "l1": _l1,
    "l2": _l2,
    "gradient": _gradient,
    "ssim": _ssim,
    "ms-ssim": _ms_ssim,
    "flip": lambda picture, truth: flip(picture.clamp(0, 1), truth),
}
"""Losses without weights of their own."""
VGG: dict[str, Callable[[LPIPS, Tensor, Tensor], Tensor]] = {"lpips": _lpips, "gram": _gram}
"""Losses on the features of a VGG16 whose weights must be on the machine."""


@dataclass(frozen=True)
class _Term:
    name: str
    weight: float = 1.0
    from_step: int = 0  # of the phase
    crop: int | None = None  # side of a random square to compare, the same in both pictures


class Losses:
    """The weighted sum of a recipe's losses, in float32 whatever the network's precision.

    Args:
        entries: the recipe's ``losses``.
        device: where the pictures will be.
        weights: where those of VGG16 are; None for torch's hub folder.

    Raises:
        UserError: an unknown loss or option, or VGG weights that are not there.
    """

    def __init__(self, entries: Mapping[str, Any], device: torch.device, weights: PerceptualWeights | None = None):
        self._terms = [_term(name, entry) for name, entry in entries.items()]
        wanted = [term.name for term in self._terms if term.name in VGG]
        self._vgg = _vgg(wanted, weights).to(device) if wanted else None

    def __call__(self, picture: Tensor, truth: Tensor, step: int) -> Tensor:
        """The sum at a step of the phase; random crops come from the global generator."""
        with torch.autocast(truth.device.type, enabled=False):
            picture, truth = picture.float(), truth.float()
            values = [self._value(term, picture, truth) for term in self._terms if step >= term.from_step]
            return torch.stack(values).sum() if values else picture.sum() * 0

    def _value(self, term: _Term, picture: Tensor, truth: Tensor) -> Tensor:
        if term.crop:
            height, width = (min(side, term.crop) for side in truth.shape[-2:])
            top = int(torch.randint(truth.shape[-2] - height + 1, ()))
            left = int(torch.randint(truth.shape[-1] - width + 1, ()))
            picture, truth = (p[..., top : top + height, left : left + width] for p in (picture, truth))
        if self._vgg is not None and term.name in VGG:
            return term.weight * VGG[term.name](self._vgg, picture, truth)
        return term.weight * PIXEL_LOSSES[term.name](picture, truth)


def _vgg(wanted: Sequence[str], weights: PerceptualWeights | None) -> LPIPS:
    try:
        return LPIPS("vgg", weights)
    except MissingWeights as error:
        names = " and ".join(f"`{name}`" for name in wanted)
        raise UserError(
            f"the losses {', '.join(wanted)} need VGG16: {error}, or take {names} out of the recipe's `losses` "
            f"(without them: {', '.join(PIXEL_LOSSES)}), or give --fetch-weights"
        ) from error


def _term(name: str, entry: Any) -> _Term:
    if name not in PIXEL_LOSSES and name not in VGG:
        raise UserError(f"recipe: unknown loss {name!r}; known are {', '.join([*PIXEL_LOSSES, *VGG])}")
    try:
        return _Term(name, **entry) if isinstance(entry, Mapping) else _Term(name, float(entry))
    except (TypeError, ValueError) as error:
        raise UserError(f"recipe: losses: {name}: {error}; give a weight, or weight, from_step and crop") from error
