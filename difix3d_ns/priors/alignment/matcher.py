"""Networks that score hypotheses of depth: a light cost volume over the references.

Learned features of all references are sampled at each hypothesis along a pixel's ray (the epipolar lines in the
references) and compared with each other and with the render, as in Yao et al., "MVSNet" (ECCV 2018) and the epipolar
feature transformer of Zhou and Tulsiani, "SparseFusion" (CVPR 2023); one small scorer is shared by all hypotheses, so
that their number and spacing are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difix3d_ns.priors.alignment.sampling import Sampled

COARSE, FINE = 4, 2  # the volumes' pixels are so many pixels of the picture wide
GROUPS = 4


class Pyramid(NamedTuple):
    """Features of a picture."""

    fine: Tensor  # [C, H / 2, W / 2]
    coarse: Tensor  # [C, H / 4, W / 4]


class Encoder(nn.Module):
    """Features for matching at half and at a quarter of the resolution; the first three channels are colour."""

    def __init__(self, fine: int, coarse: int):
        super().__init__()
        self.first = nn.Conv2d(12, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.fine = nn.Conv2d(16, fine, 1)
        self.down = nn.Conv2d(16, 32, 2, stride=2)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.fourth = nn.Conv2d(32, 32, 3, padding=1)
        self.coarse = nn.Conv2d(32, coarse, 1)

    def forward(self, picture: Tensor) -> Pyramid:
        """Encode [3, H, W] in [0, 1]; odd sides are padded."""
        height, width = picture.shape[-2:]
        padded = F.pad(picture[None], (0, -width % 4, 0, -height % 4), mode="replicate")
        folded = F.pixel_unshuffle(padded - 0.5, 2)
        hidden = F.silu(self.second(F.silu(self.first(folded))))
        deep = F.silu(self.third(F.silu(self.down(hidden))))
        deep = deep + F.silu(self.fourth(deep))
        half, quarter = F.avg_pool2d(padded, 2)[0], F.avg_pool2d(padded, 4)[0]
        return Pyramid(torch.cat([half, self.fine(hidden)[0]]), torch.cat([quarter, self.coarse(deep)[0]]))


class Scorer(nn.Module):
    """A score per hypothesis and pixel."""

    inputs = 2 * GROUPS + 9

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(self.inputs, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation),
            nn.SiLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Score features [D, inputs, h, w] of hypotheses: [D, h, w]."""
        return run_network(self.layers, features)[:, 0]


def run_network(network: nn.Module, features: Tensor) -> Tensor:
    """Run a network on [N, C, h, w] in its own precision; the result has that of the features."""
    precision = next(network.parameters()).dtype
    return network(features.to(precision, memory_format=torch.channels_last)).to(features.dtype)


def agreement(mismatch: Tensor, tolerance: float) -> Tensor:
    """Agreement of the splat's surface at the reference with a hypothesis: 0 from 1.5 times ``tolerance`` on."""
    return (1.5 - mismatch.abs() / tolerance).clamp(0, 1)


def reference_weight(inside: Tensor, mismatch: Tensor) -> Tensor:
    """Weight of a reference: a little even where the splat shows it another surface, since the splat may err."""
    return inside * (0.05 + 0.95 * agreement(mismatch, 0.16))


def matching_features(render: Tensor, alpha: Tensor, found: Sequence[Sampled], offsets: Tensor) -> Tensor:
    """Features of each hypothesis: how well the references agree.

    Args:
        render: [C, h, w] features of the render, colour first.
        alpha: [h, w] confidence in them.
        found: the references.
        offsets: [D, h, w] log of hypothesis over the splat's depth, 0 where that is not known.

    Returns:
        [D, Scorer.inputs, h, w].
    """
    total = inside_sum = near_sum = wide_sum = before = torch.zeros_like(offsets)
    first, second = torch.zeros_like(found[0].features), torch.zeros_like(found[0].features)
    for reference in found:
        inside, wide = reference.inside, agreement(reference.mismatch, 0.16)
        weight = reference_weight(inside, reference.mismatch)
        weighted = reference.features * weight[:, None]
        first = first + weighted
        second = torch.addcmul(second, weighted, reference.features)
        total, inside_sum, wide_sum = total + weight, inside_sum + inside, wide_sum + inside * wide
        near_sum = near_sum + inside * agreement(reference.mismatch, 0.04)
        before = before + inside * (reference.mismatch < -0.08)  # it should see the surface and does not
    total = total.clamp_min(1e-3)[:, None]
    mean = first / total
    apart = (second / total - mean.square()).clamp_min(0)  # [D, C, h, w]
    alike = mean[:, 3:] * render[3:]
    colour = (mean[:, :3] - render[:3]).abs().mean(1, keepdim=True)
    deep = apart[:, 3:].unflatten(1, (GROUPS, -1)).mean(2)
    levels = [
        (deep + 1e-4).sqrt(),
        alike.unflatten(1, (GROUPS, -1)).mean(2) * alpha,
        (apart[:, :3].mean(1, keepdim=True) + 1e-6).sqrt() * 4,
        colour * alpha * 4,
        torch.stack([inside_sum, near_sum, wide_sum, before], 1) / 3,
        offsets[:, None] * 5,
        offsets[:, None].abs() * 5,
        alpha.expand_as(colour),
    ]
    return torch.cat(levels, 1)


class Shifter(nn.Module):
    """Displacement at which a warped reference fits better: what wrong depth and poses leave over.

    Differences to the render and to the other references at shifts of a small window, as optical flow compares them;
    a small network reads a displacement off them. It starts at zero.
    """

    window = tuple(
        (y, x)
        for y in (-2, -1, 0, 1, 2)
        for x in (-2, -1, 0, 1, 2)
        if (y % 2, x % 2) == (0, 0) or max(abs(y), abs(x)) == 1
    )
    reach = 2.0  # pixels of the fine volume

    def __init__(self, width: int = 24):
        super().__init__()
        inputs = 2 * len(self.window) + 4
        last = nn.Conv2d(width, 2, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.SiLU(),
            last,
        )

    def forward(self, render: Tensor, alpha: Tensor, features: Tensor, weight: Tensor, confidence: Tensor) -> Tensor:
        """Displacements in pixels of the fine volume (x, y): the reference's content at x + d belongs to x.

        Args:
            render: [C, h, w] features of the render.
            alpha: [h, w] confidence in them.
            features: [K, C, h, w] of the warped references.
            weight: [K, h, w] confidence that each shows the surface.
            confidence: [h, w] of the depth.

        Returns:
            [K, 2, h, w].
        """
        total = (weight[:, None] * features).sum(0)
        weight_of_others = weight.sum(0) - weight  # [K, h, w]
        others = (total - weight[:, None] * features) / weight_of_others.clamp_min(1e-3)[:, None]
        others_confidence = weight_of_others.clamp(max=1)
        padded = F.pad(features, (2, 2, 2, 2), mode="replicate")
        height, width = render.shape[-2:]
        costs = []
        for y, x in self.window:
            moved = padded[..., 2 + y : 2 + y + height, 2 + x : 2 + x + width]
            costs.append((moved - render).abs().mean(1) * alpha)
            costs.append((moved - others).abs().mean(1) * others_confidence)
        rows = [torch.stack(costs, 1) * 4, weight[:, None], others_confidence[:, None]]
        rows += [plane.expand(len(features), 1, -1, -1) for plane in (alpha, confidence)]
        return self.reach * run_network(self.layers, torch.cat(rows, 1)).tanh()
