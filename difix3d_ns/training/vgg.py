"""Features of torchvision's VGG16 and the losses on them; the weights are never downloaded here."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import lpips as lpips_package
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from difix3d_ns.errors import UserError

_GRAM_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Of relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, as the published training weighs them."""


def weights_file() -> Path:
    """Where torchvision keeps the weights: below ``TORCH_HOME`` or ``~/.cache/torch``."""
    return Path(torch.hub.get_dir()) / "checkpoints" / VGG16_Weights.IMAGENET1K_V1.url.rpartition("/")[2]


class Vgg(nn.Module):
    """LPIPS of the package ``lpips`` (Zhang et al. 2018) with its frozen VGG16 filled from ``weights_file``.

    Args:
        wanted: names of the losses that need it, for the message.

    Raises:
        UserError: the file is not there or damaged.
    """

    def __init__(self, wanted: Sequence[str]):
        super().__init__()
        file = weights_file()
        if not file.is_file():
            raise UserError(
                f"the losses {', '.join(wanted)} need the weights of VGG16, and {file} is not there: put "
                f"{VGG16_Weights.IMAGENET1K_V1.url} there, or take {' and '.join(f'`{name}`' for name in wanted)} out "
                "of the recipe's `losses` (without them: l1, l2, ssim, ms-ssim, flip, gradient)"
            )
        with torch.random.fork_rng():  # the values it is made with do not stay
            self.metric = lpips_package.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            for part in self.metric.net.children():
                # lpips numbers the layers as torchvision does
                mine = {key: state[f"features.{key}"] for key in part.state_dict()}
                part.load_state_dict(mine)
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise UserError(f"{file} is damaged or no VGG16 ({error}): fetch it again") from error
        self.eval().requires_grad_(False)

    def features(self, picture: Tensor) -> tuple[Tensor, ...]:
        """relu1_2 to relu5_3 of pictures [B, 3, H, W] in [0, 1]."""
        return tuple(self.metric.net(self.metric.scaling_layer(picture * 2 - 1)))


def lpips(vgg: Vgg, picture: Tensor, truth: Tensor) -> Tensor:
    """Mean LPIPS (VGG) of pictures [B, 3, H, W] in [0, 1]."""
    return vgg.metric(picture, truth, normalize=True).mean()


def gram(vgg: Vgg, picture: Tensor, truth: Tensor) -> Tensor:
    """Weighted squared differences of Gram matrices (Gatys et al. 2016; weights of Wu et al., Difix3D+, 2025)."""
    pairs = zip(_GRAM_WEIGHTS, vgg.features(picture), vgg.features(truth), strict=True)
    terms = [weight * F.mse_loss(_correlations(first), _correlations(second)) for weight, first, second in pairs]
    return torch.stack(terms).sum()


def _correlations(features: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, C], the mean product of each two channels over all pixels and channels."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()
