"""A network that predicts what a camera sees from posed photographs, by features gathered along epipolar lines.

Zhou and Tulsiani, "SparseFusion: Distilling View-conditioned Diffusion for 3D Reconstruction", CVPR 2023, section 3.1
(epipolar feature transformer). As there, each ray of the requested camera is sampled uniformly in inverse depth, each
sample is projected into every photograph, and what is fetched is compared by attention over photographs, weighed
over depth, and compared again. Three things differ, since they learn more in the same time: depth is weighed by a
convolutional network over the volume of all rays, so that neighbouring rays inform each other; sparse depth that is
known is shown to it; and colours are fetched from the photographs at the depth found, at full size, instead of being
predicted from features alone.

Cameras are relative to the requested one, so the network knows no world frame. Inverse depths are in units of the
range that is searched: 0 at its far end, 1 at its near one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difix3d_ns.priors.networks.blend_net import silence
from difix3d_ns.priors.networks.depth_net import (
    Enlarge,
    FeatureNet,
    Features,
    PictureNet,
    Views,
    VolumeNet,
    bounded,
    reprojected,
)

SIDE = 32  # sides of pictures are multiples of it
_QUARTER, _HALF = 32, 16  # channels of features at a quarter and at half of the size
_GROUPS = 8  # of features, whose spread over the photographs is shown
_OCTAVES = 2  # of the harmonics of Pluecker coordinates
_GEOMETRY = 6 * (1 + 2 * _OCTAVES) + 1
_EPS = 1e-6
_COLOUR_SCALE = (-5.0, 0.0)  # logarithm of the Laplace scale of errors of colour: from 0.007 to 1


class Rays(NamedTuple):
    """Rays of the requested camera and centres of the photographs, relative to it, in units of the middle depth."""

    slopes: Tensor  # [3, h, w] of the rays through the places of a quarter of the size, z = 1
    centres: Tensor  # [K, 3] of the photographs' cameras
    middle: Tensor  # [] inverse of the unit

    def to(self, device: torch.device | str) -> Rays:
        """Return the same on a device."""
        return Rays(*(values.to(device) for values in self))


class Prediction(NamedTuple):
    """Picture that a camera sees, and what is known of its errors."""

    image: Tensor  # [1, 3, H, W], not clamped
    place: Tensor  # [1, 1, H, W] inverse depth, in the range's units
    log_scale: Tensor  # [1, 1, H, W] logarithm of the Laplace scale of the error of log depth
    seen: Tensor  # [1, 1, H, W] logit of some photograph showing the surface
    log_error: Tensor  # [1, 1, H, W] logarithm of the Laplace scale of the error of colour
    hidden: Tensor  # [1, C, H/4, W/4] features
    coarse: Tensor  # [1, 3, H/4, W/4] colours predicted from features alone
    logits: Tensor  # [1, D, H/4, W/4] of the planes, far to near


class EpipolarNet(nn.Module):
    """Prediction of one camera from photographs of any number.

    Args:
        planes: depths along each ray.
        token: channels of what is fetched at a sample.
        volume: channels of the network over the volume, at its three levels.
        picture: channels of that over the picture, at a quarter, an eighth, a sixteenth, a thirty-second of the size.
        refinement: channels of what corrects at half of the size and at the full one.
    """

    def __init__(
        self,
        planes: int = 32,
        token: int = 24,
        volume: tuple[int, int, int] = (12, 20, 28),
        picture: tuple[int, int, int, int] = (48, 64, 80, 96),
        refinement: int = 24,
    ) -> None:
        super().__init__()
        self.config = {"planes": planes, "token": token, "volume": volume, "picture": picture, "refinement": refinement}
        self.planes, self.hidden = planes, picture[0]
        self.features = FeatureNet()
        self.fetch = nn.Conv2d(_QUARTER + 3, token, 1)
        self.place_token = nn.Linear(_GEOMETRY, token)
        self.among_views = _Attention(token)
        self.point = nn.Linear(token + _GROUPS + 1, volume[0])
        self.volume = VolumeNet(volume[0] + 2, *volume)
        self.among_views_again = _Attention(token)
        self.view_summary = nn.Linear(token, 8)
        self.complete = PictureNet(token + 3 + 4 + 2 + volume[0] + 1, picture)
        self.head = nn.Conv2d(picture[0], 7, 3, padding=1)
        self.enlarge = Enlarge(picture[0])
        self.to_half = nn.Conv2d(picture[0], refinement, 1)
        self.correct = nn.Sequential(
            nn.Conv2d(2 * _HALF + 7 + 3 + refinement, refinement, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(refinement, refinement, 3, padding=1),
            nn.SiLU(),
        )
        self.correct_head = nn.Conv2d(refinement, 2, 3, padding=1)
        self.enlarge_again = Enlarge(refinement)
        self.weigh = nn.Sequential(
            nn.Conv2d(3 + 3 + 1 + 8, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU()
        )
        self.weigh_head = nn.Conv2d(16, 1, 1)
        self.finish = nn.Sequential(
            nn.Conv2d(3 + 3 + 3 + 3 + refinement, refinement, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(refinement, refinement, 3, padding=1),
            nn.SiLU(),
        )
        self.finish_head = nn.Conv2d(refinement, 5, 3, padding=1)
        for layer in (self.head, self.correct_head, self.weigh_head, self.finish_head):
            silence(layer)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    def describe(self, picture: Tensor) -> Features:
        """Compute the features of pictures [B, 3, H, W] in [0, 1], each by itself; sides are multiples of 32."""
        features: Features = self.features(picture.contiguous(memory_format=torch.channels_last))
        return features

    def forward(
        self,
        pictures: Sequence[Tensor],
        described: Sequence[Features],
        views: Views,
        rays: Rays,
        hints: Tensor,
        masks: Sequence[Tensor | None] | None = None,
    ) -> Prediction:
        """Predict what the requested camera sees.

        Args:
            pictures: [1, 3, h, w] in [0, 1], the photographs.
            described: their features.
            views: tables of the photographs beside the requested camera, and the range.
            rays: of it.
            hints: [1, 2, H/4, W/4] inverse depth of sparse points in the range's units, and 1 where there is one.
            masks: [1, 1, h, w] of each photograph, 1 where its pixels may be used; None: all may.
        """
        usable = [None] * len(pictures) if masks is None else masks
        tokens, inside, spread = self._fetched(pictures, described, views, rays, usable)
        count = inside.sum(0)  # [D, h, w]
        pooled = _mean(tokens, inside)
        planes = torch.linspace(0, 1, self.planes, device=hints.device)
        point = self.point(torch.cat([pooled, spread, (count / len(pictures))[..., None]], -1))
        hinted = hints[:, 1:] * torch.exp(-((self.planes * (planes.view(1, -1, 1, 1) - hints[:, :1])) ** 2))
        known = hints[:, 1:].expand(-1, self.planes, -1, -1)
        volume = torch.cat([point.permute(3, 0, 1, 2)[None], hinted[:, None], known[:, None]], 1)
        logits, volume = self.volume(volume)
        chance = logits.softmax(1)  # [1, D, h, w]
        place = (chance * planes.view(1, -1, 1, 1)).sum(1, keepdim=True)
        weights = chance[0][None, ..., None] * inside[..., None]  # [K, D, h, w, 1]
        share = weights.sum(1)  # [K, h, w, 1] in [0, 1]: of the ray that lies in the photograph
        each = (weights * tokens).sum(1) / share.clamp_min(_EPS)  # [K, h, w, C]
        each = self.among_views_again(each, share[..., 0])
        small = [F.avg_pool2d(picture, 4) for picture in pictures]
        colours = warped(small, views, views.inverse(place), usable)
        seen_by = colours[1]  # [K, 1, h, w]
        blended = (colours[0] * seen_by).sum(0, keepdim=True) / seen_by.sum(0, keepdim=True).clamp_min(_EPS)
        hidden = self.complete(
            torch.cat(
                [
                    _mean(each, share[..., 0]).permute(2, 0, 1)[None],
                    blended,
                    self._summary(chance, place),
                    hints,
                    (volume * chance[:, None]).sum(2),
                    seen_by.mean(0, keepdim=True),
                ],
                1,
            )
        )
        guess, gate, log_scale, seen, change = self.head(hidden).float().split([1, 1, 1, 1, 3], 1)
        place = torch.lerp(place, torch.sigmoid(guess), torch.sigmoid(gate - 2))
        coarse = blended + change
        summary = self.view_summary(each).permute(0, 3, 1, 2)  # [K, 8, h, w]
        maps = self.enlarge(hidden, torch.cat([place, log_scale, seen, coarse], 1))
        return self._refined(pictures, described, views, usable, maps, hidden, summary, coarse, logits)

    def _fetched(
        self,
        pictures: Sequence[Tensor],
        described: Sequence[Features],
        views: Views,
        rays: Rays,
        usable: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [K, D, h, w, C] at all samples; 1 inside of each photograph [K, D, h, w]; spread [D, h, w, groups]."""
        height, width = rays.slopes.shape[-2:]
        planes = torch.linspace(0, 1, self.planes, device=rays.slopes.device)
        inverse = views.inverse(planes.view(1, -1, 1, 1).expand(-1, -1, height, width))
        points = rays.slopes[None] * (rays.middle / inverse[0][:, None])  # [D, 3, h, w]
        way = F.normalize(rays.slopes, dim=0)
        tokens, insides, fetched = [], [], []
        for number, (picture, features) in enumerate(zip(pictures, described, strict=True)):
            grid, inside = _placed(views, number, inverse, usable[number])
            maps = torch.cat([features.quarter.float(), F.avg_pool2d(picture, 4)], 1)
            sampled = F.grid_sample(maps, grid.flatten(1, 2), padding_mode="border", align_corners=False)
            sampled = sampled[0].unflatten(1, (self.planes, height)) * inside  # [C, D, h, w]
            other = F.normalize(points - rays.centres[number].view(1, 3, 1, 1), dim=1)
            moment = torch.cross(rays.centres[number].view(1, 3, 1, 1).expand_as(other), other, dim=1)
            pluecker = torch.cat([other - way, moment], 1)
            waves = [wave(2**octave * pluecker) for octave in range(_OCTAVES) for wave in (torch.sin, torch.cos)]
            dot = (other * way).sum(1, keepdim=True)
            geometry = torch.cat([pluecker, *waves, dot], 1).permute(0, 2, 3, 1)  # [D, h, w, G]
            token = self.fetch(sampled.flatten(1, 2)[None])[0].view(-1, *sampled.shape[1:]).permute(1, 2, 3, 0)
            tokens.append(token + self.place_token(geometry))
            insides.append(inside[0])
            fetched.append(sampled[:_QUARTER])
        inside = torch.stack(insides)
        return self.among_views(torch.stack(tokens), inside), inside, _spread(torch.stack(fetched), inside)

    def _summary(self, chance: Tensor, place: Tensor) -> Tensor:
        """Place, spread, highest chance and entropy of the planes, [1, 4, h, w]."""
        planes = torch.linspace(0, 1, self.planes, device=chance.device).view(1, -1, 1, 1)
        spread = (chance * (planes - place) ** 2).sum(1, keepdim=True).clamp_min(_EPS).sqrt()
        entropy = -(chance * chance.clamp_min(_EPS).log()).sum(1, keepdim=True)
        return torch.cat([place, 4 * spread, chance.amax(1, keepdim=True), 0.3 * entropy], 1)

    def _refined(
        self,
        pictures: Sequence[Tensor],
        described: Sequence[Features],
        views: Views,
        usable: Sequence[Tensor | None],
        maps: Tensor,
        hidden: Tensor,
        summary: Tensor,
        coarse: Tensor,
        logits: Tensor,
    ) -> Prediction:
        """Correct depth at half of the size, then fetch colours at the full one."""
        place = maps[:, :1]
        fetched, inside = warped([features.half for features in described], views, views.inverse(place), usable)
        weights = inside.sum(0, keepdim=True).clamp_min(_EPS)
        mean = (fetched * inside).sum(0, keepdim=True) / weights
        spread = ((fetched - mean).square() * inside).sum(0, keepdim=True) / weights
        more = F.interpolate(self.to_half(hidden), scale_factor=2.0, mode="bilinear", align_corners=False)
        half = [F.avg_pool2d(picture, 2) for picture in pictures]
        shown, _ = warped(half, views, views.inverse(place))
        blended = (shown * inside).sum(0, keepdim=True) / weights
        count = inside.mean(0, keepdim=True)
        correct = self.correct(torch.cat([mean, spread, maps, count, blended, more], 1))
        change, certain = self.correct_head(correct).float().split(1, 1)
        place = place + change / self.planes
        maps = torch.cat([place, maps[:, 1:2] + certain, maps[:, 2:]], 1)
        maps = self.enlarge_again(correct, maps)
        place, log_scale, seen, smooth = maps.split([1, 1, 1, 3], 1)

        shown, inside = warped(pictures, views, views.inverse(place), usable)
        mean = (shown * inside).sum(0, keepdim=True) / inside.sum(0, keepdim=True).clamp_min(_EPS)
        summary = F.interpolate(summary, scale_factor=4.0, mode="bilinear", align_corners=False)
        size = shown.shape[-2:]
        each = torch.cat([shown - mean, (shown - smooth).expand(len(shown), -1, *size), inside, summary], 1)
        scores = self.weigh_head(self.weigh(each)).float().clamp(-15, 15)
        scores = scores.exp() * inside
        weights = scores / scores.sum(0, keepdim=True).clamp_min(_EPS)
        blend = (weights * shown).sum(0, keepdim=True)
        spread = ((shown - blend).square() * weights).sum(0, keepdim=True).clamp_min(_EPS).sqrt()
        more = F.interpolate(correct, scale_factor=2.0, mode="bilinear", align_corners=False)
        known = (inside.sum(0, keepdim=True) > 0).to(blend)
        judged = self.finish(torch.cat([blend, smooth, spread, seen, log_scale, known, more], 1))
        gate, change, log_error = self.finish_head(judged).float().split([1, 3, 1], 1)
        image = smooth + known * torch.sigmoid(gate + 1) * (blend - smooth) + change
        low, high = _COLOUR_SCALE
        log_error = low + (high - low) * torch.sigmoid(log_error)
        return Prediction(image, place, bounded(log_scale), seen, log_error, hidden, coarse, logits)


class _Attention(nn.Module):
    """A transformer layer over photographs: each place for itself; those that do not show it are left out.

    Args:
        width: channels.
    """

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.mixed = nn.Linear(width, 3 * width)
        self.after = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        silence(self.after)
        silence(self.feed[2])

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Mix tokens [K, ..., C], those with weights [K, ...] of 0 with no share."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)) for part in self.mixed(self.before(tokens)).chunk(3, -1)
        )
        scores = torch.einsum("i...hc,j...hc->ij...h", query, key) / query.shape[-1] ** 0.5
        shares = scores.clamp(-15, 15).exp() * weights[None, ..., None]
        shares = shares / shares.sum(1, keepdim=True).clamp_min(_EPS)
        mixed = torch.einsum("ij...h,j...hc->i...hc", shares, value).flatten(-2)
        tokens = tokens + self.after(mixed)
        result: Tensor = tokens + self.feed(self.between(tokens))
        return result


def _mean(tokens: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean [..., C] of tokens [K, ..., C] with weights [K, ...]."""
    weights = weights[..., None]
    return (tokens * weights).sum(0) / weights.sum(0).clamp_min(_EPS)


def _spread(fetched: Tensor, inside: Tensor) -> Tensor:
    """Mean variance [D, h, w, groups] of features [K, C, D, h, w] over the photographs that show the place."""
    total = inside.sum(0).clamp_min(_EPS)
    mean = fetched.sum(0) / total  # it is 0 beyond a photograph
    square = fetched.square().unflatten(1, (_GROUPS, -1)).mean(2).sum(0) / total
    variance = square - mean.square().unflatten(0, (_GROUPS, -1)).mean(1)
    return variance.clamp_min(0).permute(1, 2, 3, 0)


def warped(
    maps: Sequence[Tensor], views: Views, inverse: Tensor, usable: Sequence[Tensor | None] | None = None
) -> tuple[Tensor, Tensor]:
    """Maps of the photographs where the requested camera's surfaces lie.

    Args:
        maps: [1, C, h_k, w_k] of each photograph.
        views: tables beside the requested camera.
        inverse: [1, 1, h, w] inverse depth.
        usable: [1, 1, h, w] of each photograph, 1 where its pixels may be used.

    Returns:
        [K, C, h, w], and [K, 1, h, w] 1 where the photograph may show it.
    """
    found, insides = [], []
    for number, one in enumerate(maps):
        grid, inside = _placed(views, number, inverse, None if usable is None else usable[number])
        found.append(F.grid_sample(one.float(), grid[:, 0], padding_mode="border", align_corners=False))
        insides.append(inside)
    return torch.cat(found), torch.cat(insides)


def _placed(views: Views, number: int, inverse: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Places [1, D, h, w, 2] in a photograph of inverse depths [1, D, h, w]; 1 where it may show what is there."""
    grid, inside = reprojected(views.tables[:, number], views.extents[:, number], inverse)
    if mask is not None:
        usable = F.grid_sample(mask.float(), grid.flatten(1, 2), mode="nearest", align_corners=False)
        inside = inside * usable[:, 0].unflatten(1, inside.shape[1:3])
    return grid, inside
