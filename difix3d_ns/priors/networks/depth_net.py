"""A network that finds the depth of a photograph from posed neighbours, and completes it where nothing can be matched.

A cost volume over inverse depth (Yao et al., "MVSNet", ECCV 2018) of group-wise correlations (Guo et al., CVPR 2019),
which each neighbour enters with a weight of its own per place (Zhang et al., "Visibility-aware Multi-view Stereo
Network", BMVC 2020), a U-Net over the picture that completes and judges it, and a second, narrow volume at twice the
size (Gu et al., "Cascade Cost Volume", CVPR 2020).

Inverse depths are in units of the range that is searched: 0 at its far end, 1 at its near one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difix3d_ns.priors.networks.blend_net import silence

SIDE = 32  # sides of pictures are multiples of it
_EPS = 1e-6
_MIN_WEIGHT = 1e-3  # of a neighbour's correlation
_BEYOND = 0.25  # of the least inverse depth of the range: nothing is taken for further away
_LOG_SCALE = (-7.0, 1.5)  # of errors of log depth: a thousandth to a factor of four


class Features(NamedTuple):
    """Features of a photograph at half and at a quarter of its size."""

    half: Tensor  # [B, 16, H/2, W/2]
    quarter: Tensor  # [B, 32, H/4, W/4]


class Match(NamedTuple):
    """Result of matching alone, at a quarter of the size."""

    logits: Tensor  # [B, D, H/4, W/4] of the planes, far to near
    place: Tensor  # [B, 1, H/4, W/4] expected inverse depth, in the range's units


class Estimate(NamedTuple):
    """Depth of a photograph, and what is known of its error."""

    place: Tensor  # [B, 1, h, w] inverse depth, in the range's units
    log_scale: Tensor  # [B, 1, h, w] logarithm of the Laplace scale of the error of log depth
    surface: Tensor  # [B, 1, h, w] logit of there being a surface


class Views(NamedTuple):
    """Cameras of photographs beside one another, and the depths that are searched."""

    tables: Tensor  # [B, K, 3, 4], see ``geometry.warp.projection_table``, of the photograph at 2 x 2 pixels
    extents: Tensor  # [B, K, 4] left, top, right, bottom of what is picture, not padding, in the other's [-1, 1]^2
    far: Tensor  # [B] least inverse depth
    near: Tensor  # [B] largest

    def to(self, device: torch.device | str) -> Views:
        """Return the same on a device."""
        return Views(*(values.to(device) for values in self))

    def inverse(self, place: Tensor) -> Tensor:
        """Inverse depth of values [B, D, h, w] in the range's units."""
        far, near = (bound.view(-1, 1, 1, 1) for bound in (self.far, self.near))
        return torch.maximum(far + (near - far) * place, _BEYOND * far)

    def depth(self, place: Tensor) -> Tensor:
        """Depth along z of inverse depths [B, D, h, w] in the range's units."""
        return 1 / self.inverse(place)


class DepthNet(nn.Module):
    """Depth from a photograph, its neighbours and sparse points.

    Args:
        planes: of the wide volume.
        offsets: planes of the narrow one.
        groups: of channels that are correlated, in either.
        volume: channels of the wide volume at its three levels.
        picture: channels of the completion at a quarter, an eighth, a sixteenth and a thirty-second of the size.
        refinement: channels of what corrects at half of the size.
    """

    def __init__(
        self,
        planes: int = 48,
        offsets: int = 8,
        groups: tuple[int, int] = (8, 4),
        volume: tuple[int, int, int] = (8, 16, 24),
        picture: tuple[int, int, int, int] = (40, 56, 72, 88),
        refinement: int = 24,
    ) -> None:
        super().__init__()
        self.planes, self.offsets, self.groups = planes, offsets, tuple(groups)
        self.features = FeatureNet()
        self.weigh = nn.ModuleList([_Weigh(count) for count in self.groups])
        self.match = VolumeNet(self.groups[0] + 3, *volume)
        self.complete = PictureNet(QUARTER + 4 + 2 + volume[0], picture)
        self.head = nn.Conv2d(picture[0], 4, 3, padding=1)
        self.enlarge = Enlarge(picture[0])
        narrow = 8
        self.narrow = nn.Sequential(_solid(self.groups[1] + 1, narrow), _solid(narrow, narrow), VolumeConv(narrow, 1))
        self.correct = nn.Sequential(
            nn.Conv2d(_HALF + 3 + 4, refinement, 3, padding=1),
            nn.SiLU(),
            _Dilated(refinement, refinement, 3, padding=2, dilation=2),
            nn.SiLU(),
            nn.Conv2d(refinement, refinement, 3, padding=1),
            nn.SiLU(),
        )
        self.correct_head = nn.Conv2d(refinement, 3, 3, padding=1)
        self.enlarge_again = Enlarge(refinement)
        silence(self.head)
        silence(self.correct_head)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    def describe(self, pictures: Tensor) -> Features:
        """Compute the features of pictures [B, 3, H, W] in [0, 1], each by itself; sides are multiples of 32."""
        features: Features = self.features(pictures.contiguous(memory_format=torch.channels_last))
        return features

    def forward(
        self, picture: Tensor, own: Features, others: list[Features], views: Views, hints: Tensor
    ) -> tuple[Match, Estimate, Estimate]:
        """Estimate the depth of a photograph.

        Args:
            picture: [B, 3, H, W] in [0, 1].
            own: its features.
            others: of its neighbours.
            views: cameras and range.
            hints: [B, 2, H/4, W/4] inverse depth of sparse points in the range's units, and 1 where there is one.

        Returns:
            What was matched; the estimate at a quarter of the size; the estimate at the full one.
        """
        match, volume = self._matched(own, others, views, hints)
        hidden = self.complete(torch.cat([own.quarter, self._summary(match), hints, volume], 1))
        guess, gate, log_scale, surface = self.head(hidden).float().split(1, 1)
        place = torch.lerp(match.place, torch.sigmoid(guess), torch.sigmoid(gate))
        coarse = Estimate(place, bounded(log_scale), surface)
        maps = self.enlarge(hidden, torch.cat([place, log_scale, surface], 1))
        return match, coarse, self._refined(picture, own, others, views, maps)

    def _matched(self, own: Features, others: list[Features], views: Views, hints: Tensor) -> tuple[Match, Tensor]:
        count, (height, width) = len(own.quarter), own.quarter.shape[-2:]
        planes = torch.linspace(0, 1, self.planes, device=own.quarter.device)
        places = planes.view(1, -1, 1, 1).expand(count, -1, height, width)
        correlated, seen = self._correlated(0, own.quarter, [other.quarter for other in others], views, places)
        hinted = hints[:, 1:] * torch.exp(-((self.planes * (planes.view(1, -1, 1, 1) - hints[:, :1])) ** 2))
        known = hints[:, 1:, None].expand(-1, -1, self.planes, -1, -1)
        logits, volume = self.match(torch.cat([correlated, seen, hinted[:, None], known], 1))
        chance = logits.softmax(1)
        place = (chance * planes.view(1, -1, 1, 1)).sum(1, keepdim=True)
        return Match(logits, place), (volume * chance[:, None]).sum(2)

    @staticmethod
    def _summary(match: Match) -> Tensor:
        """Place, spread, highest chance and entropy of what was matched, [B, 4, h, w]."""
        chance = match.logits.softmax(1)
        planes = torch.linspace(0, 1, chance.shape[1], device=chance.device).view(1, -1, 1, 1)
        spread = (chance * (planes - match.place) ** 2).sum(1, keepdim=True).clamp_min(_EPS).sqrt()
        entropy = -(chance * chance.clamp_min(_EPS).log()).sum(1, keepdim=True)
        return torch.cat([match.place, 4 * spread, chance.amax(1, keepdim=True), 0.3 * entropy], 1)

    def _correlated(
        self, level: int, own: Tensor, others: list[Tensor], views: Views, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Correlate at inverse depths [B, D, h, w] -> [B, groups, D, h, w]; share that sees it, [B, 1, D, h, w]."""
        groups = self.groups[level]
        inverse = views.inverse(places)
        total = places.new_zeros(len(own), groups, *places.shape[1:])
        weights = places.new_zeros(len(own), 1, *places.shape[1:])
        seen = weights
        mine = own.float().contiguous().unflatten(1, (groups, -1))[:, :, :, None]
        for number, other in enumerate(others):
            grid, inside = reprojected(views.tables[:, number], views.extents[:, number], inverse)
            flat = grid.flatten(1, 2)  # [B, D h, w, 2]
            warped = F.grid_sample(other.float().contiguous(), flat, padding_mode="zeros", align_corners=False)
            warped = warped.unflatten(2, places.shape[1:3]).unflatten(1, (groups, -1))
            product = (mine * warped).mean(2)  # [B, groups, D, h, w]
            weight = (self.weigh[level](product) + _MIN_WEIGHT) * inside[:, None]
            total, weights = total + weight * product, weights + weight
            seen = seen + inside[:, None]
        return total / weights.clamp_min(_MIN_WEIGHT**2), seen / max(1, len(others))

    def _refined(self, picture: Tensor, own: Features, others: list[Features], views: Views, maps: Tensor) -> Estimate:
        place, log_scale, surface = maps.split(1, 1)  # at half of the size
        step = 0.25 / (self.planes - 1)
        offsets = step * (torch.arange(self.offsets, device=place.device) - (self.offsets - 1) / 2)
        places = place.detach() + offsets.view(1, -1, 1, 1)
        correlated, seen = self._correlated(1, own.half, [other.half for other in others], views, places)
        logits = self.narrow(torch.cat([correlated, seen], 1))[:, 0].float()
        chance = logits.softmax(1)
        offset = (chance * offsets.view(1, -1, 1, 1)).sum(1, keepdim=True)
        small = F.avg_pool2d(picture, 2)
        found = [place, offset / step, chance.amax(1, keepdim=True), log_scale]
        hidden = self.correct(torch.cat([own.half, small, *found], 1))
        gate, change, certain = self.correct_head(hidden).float().split(1, 1)
        place = place + torch.sigmoid(gate) * offset + step * change
        maps = self.enlarge_again(hidden, torch.cat([place, log_scale + certain, surface], 1))
        place, log_scale, surface = maps.split(1, 1)
        return Estimate(place, bounded(log_scale), surface)


_HALF, QUARTER = 16, 32


class FeatureNet(nn.Module):
    """Features that do not change with exposure."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _two(3, _HALF, 2, 5)
        self.second = _two(_HALF, QUARTER, 2)
        self.third = _two(QUARTER, 48, 2)
        self.down = nn.Conv2d(48, QUARTER, 1)
        self.coarse = nn.Conv2d(QUARTER, QUARTER, 3, padding=1)
        self.between = nn.Conv2d(QUARTER, _HALF, 1)
        self.fine = nn.Conv2d(_HALF, _HALF, 3, padding=1)

    def forward(self, pictures: Tensor) -> Features:
        mean = pictures.mean((2, 3), keepdim=True)
        spread = pictures.std((2, 3), keepdim=True).clamp_min(0.02)
        first = self.first((pictures - mean) / spread)
        second = self.second(first)
        wide = F.interpolate(self.down(self.third(second)), scale_factor=2.0, mode="bilinear", align_corners=False)
        middle = second + wide
        fine = first + F.interpolate(self.between(middle), scale_factor=2.0, mode="bilinear", align_corners=False)
        return Features(self.fine(fine), self.coarse(middle))


class _Weigh(nn.Module):
    """Weight of a neighbour by its correlations, [B, groups, D, h, w] -> [B, 1, D, h, w] in (0, 1)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_Mixed(groups, 8), nn.SiLU(), _Mixed(8, 1), nn.Sigmoid())

    def forward(self, products: Tensor) -> Tensor:
        weight: Tensor = self.layers(products)
        return weight.amax(2, keepdim=True).expand_as(weight)  # whether it sees the place, not where


class VolumeNet(nn.Module):
    """U-Net over a volume; logits [B, D, h, w] and its last layer [B, C, D, h, w]."""

    def __init__(self, inputs: int, wide: int, middle: int, deep: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_solid(inputs, wide), _solid(wide, wide))
        self.second = nn.Sequential(_solid(wide, middle, 2), _solid(middle, middle))
        self.third = nn.Sequential(_solid(middle, deep, 2), _solid(deep, deep))
        self.up = _Mixed(deep, middle)
        self.fourth = _solid(middle, middle)
        self.up_again = _Mixed(middle, wide)
        self.fifth = _solid(wide, wide)
        self.last = VolumeConv(wide, 1)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(volume)
        second = self.second(first)
        third = self.third(second)
        second = self.fourth(second + self.up(_like(third, second)))
        first = self.fifth(first + _like(self.up_again(second), first))
        return self.last(first)[:, 0].float(), first


class PictureNet(nn.Module):
    """U-Net over the picture, four levels."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.first = _two(inputs, widths[0])
        self.downs = nn.ModuleList([_two(a, b, 2) for a, b in pairwise(widths)])
        self.ups = nn.ModuleList([nn.Conv2d(b, a, 1) for a, b in pairwise(widths)])
        self.joins = nn.ModuleList([_two(a, a) for a in widths[:-1]])

    def forward(self, maps: Tensor) -> Tensor:
        levels = [self.first(maps)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        hidden = levels.pop()
        for up, join in zip(reversed(self.ups), reversed(self.joins), strict=True):
            beside = levels.pop()
            hidden = join(beside + F.interpolate(up(hidden), beside.shape[-2:], mode="bilinear", align_corners=False))
        result: Tensor = hidden
        return result


class Enlarge(nn.Module):
    """Maps at twice their size: each pixel a mixture of the nine around it (Teed and Deng, "RAFT", ECCV 2020), so that
    edges stay sharp.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, 36, 3, padding=1)

    def forward(self, hidden: Tensor, maps: Tensor) -> Tensor:
        count, channels, height, width = maps.shape
        shares = self.mix(hidden).float().view(count, 1, 9, 4, height, width).softmax(2)
        around = F.unfold(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 3).view(count, channels, 9, 1, height, width)
        return F.pixel_shuffle((shares * around).sum(2).flatten(1, 2), 2)


def _two(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.SiLU(),
    )


class VolumeConv(nn.Conv2d):
    """Convolution of 3 x 3 x 3 over a volume [B, C, D, h, w], as one of 3 x 3 over pictures of three planes each.

    ``nn.Conv3d`` computes the same. With few channels a CPU takes four to ten times as long for it, and in bfloat16 a
    hundred times unless the processor knows such numbers.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(3 * inputs, outputs, 3, stride, 1)

    def forward(self, volume: Tensor) -> Tensor:
        planes = F.pad(volume, (0, 0, 0, 0, 1, 1)).transpose(1, 2)
        last = planes.shape[1] - 2
        threes = [planes[:, first : first + last : self.stride[0]] for first in range(3)]
        pictures = torch.cat([one.flatten(0, 1) for one in threes], 1).contiguous(memory_format=torch.channels_last)
        return super().forward(pictures).unflatten(0, threes[0].shape[:2]).transpose(1, 2)


class _Dilated(nn.Conv2d):
    """Dilated convolution, always in float32: in bfloat16 its gradient on a CPU is not finite with torch 2.15."""

    def forward(self, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            return super().forward(maps.float())


class _Mixed(nn.Conv2d):
    """Linear layer over the channels of a volume [B, C, D, h, w]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, volume: Tensor) -> Tensor:
        return super().forward(volume.flatten(2, 3)).unflatten(2, volume.shape[2:4])


def _solid(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(VolumeConv(inputs, outputs, stride), nn.SiLU())


def _like(volume: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(volume, other.shape[-3:], mode="nearest")


def bounded(log_scale: Tensor) -> Tensor:
    """Bring the logarithm of a scale of errors of log depth into its range."""
    low, high = _LOG_SCALE
    return low + (high - low) * torch.sigmoid(log_scale)


def reprojected(tables: Tensor, extents: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Find the places of pixels in other pictures.

    Args:
        tables: [B, 3, 4] of one other view, see ``Views``.
        extents: [B, 4] of it.
        inverse: [B, D, h, w] inverse depths of the pixels.

    Returns:
        Places [B, D, h, w, 2] in the other's [-1, 1]^2, and [B, D, h, w] 1 where they are inside of its extent, else 0.
    """
    height, width = inverse.shape[-2:]
    columns = (torch.arange(width, device=inverse.device) + 0.5) * (2 / width)
    rows = (torch.arange(height, device=inverse.device) + 0.5) * (2 / height)
    slopes = tables[:, :, :3]
    rays = (
        slopes[:, :, 0, None, None] * columns
        + slopes[:, :, 1, None, None] * rows[:, None]
        + slopes[:, :, 2, None, None]
    )  # [B, 3, h, w]
    x, y, z = (rays[:, i, None] + tables[:, i, 3].view(-1, 1, 1, 1) * inverse for i in range(3))
    ahead = z > _EPS
    grid = torch.stack([x, y], -1) / z.clamp_min(_EPS)[..., None]
    first, last = extents[:, None, None, None, :2], extents[:, None, None, None, 2:]
    inside = ahead & ((grid > first) & (grid < last)).all(-1)
    return grid.clamp(-2, 2), inside.to(inverse.dtype)
