"""Detail of photographs, carried into a picture of the same things by features alone: no camera is needed.

Features of picture and photographs at three scales are matched both ways: everything with everything at an eighth of
the size, after attention within and between the two (Sun et al., "LoFTR", CVPR 2021), then in windows around what was
found, at a quarter and at half, as optical flow does for the interpolation of video frames (Teed and Deng, "RAFT", ECCV
2020). The photographs' features are fetched at these places, brought to the picture's mean and deviation (Huang and
Belongie, "AdaIN", ICCV 2017) and fused by attention over the photographs; what is added to the picture is exactly 0
where no photograph matches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difix3d_ns.geometry.resize import pad_to_multiple
from difix3d_ns.priors.alignment.matcher import run_network
from difix3d_ns.priors.networks.blend_net import silence
from difix3d_ns.priors.networks.depth_net import QUARTER, FeatureNet, Features

SIDE = 8
"""sides of pictures are enlarged to multiples of it"""
MIN_MATCH = 0.05
"""chance of a match below which there is none"""
_MAX_CELLS = 64  # of the coarse matching, on a side: larger pictures have larger cells
_HEADS = 4
_TEMPERATURE = 0.1  # of similarities of unit vectors
_PEAK = 1.5  # cells around the best one that share in a place
_RADII = (3, 2)  # of the windows at a quarter and at half of the size, in pixels there
_EVIDENCE = 4  # channels that a scale of matching hands to the next
_POOL = 8  # pixels of the picture: mean and deviation are those of blocks, since sharpness must not enter
_MAX_RATIO = 1.5  # of deviations
_EPS = 1e-4


class Pyramid(NamedTuple):
    """Features of a picture."""

    half: Tensor  # [C, H / 2, W / 2]
    quarter: Tensor  # [C, H / 4, W / 4]
    eighth: Tensor  # [C, H / 8, W / 8]


class Match(NamedTuple):
    """Places at which a photograph shows what a picture shows, at one scale."""

    places: Tensor  # [2, h, w] x, y in pixels of the photograph
    logits: Tensor  # [h, w] that it does


class Known(NamedTuple):
    """Places by cameras and depth, or by matched features."""

    places: Tensor  # [2, H, W] x, y in pixels of the photograph
    chance: Tensor  # [H, W] in [0, 1], 0: not known
    allowed: Tensor  # [H, W] 0 or 1; 0: the photograph must not be used here


class Matched(NamedTuple):
    """Matches of a photograph at all scales."""

    scores: Tensor  # [n, m] log probability, both ways, of cells of the picture and of the photograph
    cells: tuple[tuple[int, int], tuple[int, int]]  # rows and columns of both
    quarter: Match
    half: Match


class Matches(NamedTuple):
    """A picture and photographs, with enlarged sides, and what was found."""

    pictures: list[Tensor]  # [3, H, W] in [0, 1], the picture first
    pyramids: list[Pyramid]
    known: list[Known | None]  # of each photograph
    matched: list[Matched]  # of each photograph


class Refined(NamedTuple):
    """A picture with the detail of photographs."""

    image: Tensor  # [3, H, W], not clamped
    match: Tensor  # [H, W] in [0, 1], that some photograph shows it; exactly 0 where none does
    matched: list[Matched]  # of each photograph


class _Block(nn.Module):
    """Residual block without normalisation, so that a crop and a whole picture are treated alike."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        silence(self.second)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(F.silu(self.first(F.silu(hidden))))


class _Encoder(nn.Module):
    """Features at three scales."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.first = nn.Sequential(nn.Conv2d(12, half, 3, padding=1), _Block(half))
        self.second = nn.Sequential(nn.Conv2d(half, quarter, 2, stride=2), _Block(quarter))
        self.third = nn.Sequential(
            nn.Conv2d(quarter, eighth, 2, stride=2), _Block(eighth), _Block(eighth, 2), _Block(eighth, 4)
        )

    def forward(self, picture: Tensor) -> Pyramid:
        """Encode [3, H, W] in [0, 1], whose sides are multiples of ``SIDE``."""
        half = run_network(self.first, F.pixel_unshuffle(picture[None] - 0.5, 2))
        quarter = run_network(self.second, half)
        return Pyramid(half[0], quarter[0], run_network(self.third, quarter)[0])


class _Attention(nn.Module):
    """Linear attention (Katharopoulos et al. 2020) and a perceptron: many tokens cost little each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ask, self.answer = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        silence(self.leave)
        silence(self.perceptron[-1])

    def forward(self, tokens: Tensor, others: Tensor, marks: Tensor, other_marks: Tensor) -> Tensor:
        """Let tokens [N, C] gather from others [M, C], by content and by marks of their places [N, C], [M, C]."""
        asked = F.elu(self.ask(self.before(tokens) + marks)) + 1
        keys, values = self.answer(self.before(others) + other_marks).chunk(2, -1)
        keys = F.elu(keys) + 1
        with torch.autocast(tokens.device.type, enabled=False):  # sums of many tokens need the digits
            asked, keys, values = (x.float().unflatten(-1, (_HEADS, -1)) for x in (asked, keys, values))
            known = torch.einsum("mhc,mhd->hcd", keys, values)
            found = torch.einsum("nhc,hcd->nhd", asked, known)
            total = torch.einsum("nhc,hc->nh", asked, keys.sum(0))
            found = (found / (total[..., None] + _EPS)).flatten(1)
        tokens = tokens + self.leave(found.to(tokens))
        return tokens + self.perceptron(self.after(tokens))


class _GlobalMatcher(nn.Module):
    """Matches of every cell of a picture with every cell of a photograph."""

    def __init__(self, width: int, layers: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(4 * QUARTER + width, width)
        self.within = nn.ModuleList(_Attention(width) for _ in range(layers))
        self.between = nn.ModuleList(_Attention(width) for _ in range(layers))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / _TEMPERATURE)))

    def forward(
        self, picture: tuple[Tensor, Tensor], photo: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[tuple[int, int], tuple[int, int]]]:
        """Match features at a quarter [QUARTER, 2 h, 2 w] and at an eighth of the size [C, h, w], of both.

        Returns:
            Log probabilities [n, m], both ways multiplied, and rows and columns of the cells.
        """
        maps = [
            _fewer_cells(torch.cat([F.pixel_unshuffle(quarter[None], 2)[0], eighth]))
            for quarter, eighth in (picture, photo)
        ]
        precision = self.enter.weight.dtype
        marks = [_marks(features, len(self.enter.weight)).to(precision) for features in maps]
        one, other = (self.enter(features.flatten(1).T.to(precision)) for features in maps)
        for within, between in zip(self.within, self.between, strict=True):
            one, other = within(one, one, marks[0], marks[0]), within(other, other, marks[1], marks[1])
            one, other = between(one, other, *marks), between(other, one, *reversed(marks))
        one, other = (F.normalize(tokens.float(), dim=-1) for tokens in (one, other))
        with torch.autocast(one.device.type, enabled=False):
            similar = one @ other.T * self.log_scale.float().exp()
            scores = similar.log_softmax(0) + similar.log_softmax(1)
        return scores, (_size(maps[0]), _size(maps[1]))


class _LocalMatcher(nn.Module):
    """Matches in a window around places that are known nearly."""

    offsets: Tensor

    def __init__(self, radius: int, width: int) -> None:
        super().__init__()
        self.radius = radius
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / _TEMPERATURE)))
        count = (2 * radius + 1) ** 2
        self.layers = nn.Sequential(
            nn.Conv2d(count + _EVIDENCE, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        last = nn.Conv2d(width, count + 1 + _EVIDENCE, 1)
        with torch.no_grad():  # at initialisation, what is most similar
            for parameter in last.parameters():
                parameter[:count] = 0
        self.layers.append(last)
        steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
        offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy")).flatten(1)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(
        self, picture: Tensor, photo: Tensor, places: Tensor, evidence: Tensor, scale: int
    ) -> tuple[Match, Tensor]:
        """Improve places.

        Args:
            picture, photo: [C, h, w] features at this scale.
            places: [2, h, w] in pixels of the photograph.
            evidence: [_EVIDENCE, h, w] of the scale before.
            scale: pixels of the photograph to one of its features.

        Returns:
            The match, and evidence for the next scale.
        """
        one, other = (F.normalize(maps.float(), dim=0) for maps in (picture, photo))
        offsets = self.offsets.float()
        places = places.detach()  # each scale learns from its own error
        height = one.shape[-2]
        costs = []
        for row in offsets.split(2 * self.radius + 1, 1):  # row by row: all at once would take much memory
            there = places[:, None] + scale * row[:, :, None, None]  # [2, n, h, w]
            found = fetch(other, there.flatten(1, 2), scale).unflatten(1, (-1, height))
            costs.append((one[:, None] * found).sum(0))
        similar = torch.cat(costs) * self.log_scale.float().exp()
        out = run_network(self.layers, torch.cat([similar, evidence])[None])[0]
        count = len(similar)
        chance = (similar + out[:count].float()).softmax(0)
        moved = places + scale * torch.stack([(chance * row[:, None, None]).sum(0) for row in offsets])
        return Match(moved, out[count]), out[count + 1 :]


class DetailNet(nn.Module):
    """See the module.

    Args:
        widths: channels at half, a quarter and an eighth of the size.
        attention: channels of the attention over photographs.
        decoder: channels of what is decoded at half the size.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 48, 64),
        attention: int = 24,
        decoder: int = 40,
    ) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.encoder = _Encoder(widths)
        self.features = FeatureNet()
        self.everywhere = _GlobalMatcher(eighth)
        self.near = nn.ModuleList(_LocalMatcher(radius, width) for radius, width in zip(_RADII, (48, 32), strict=True))
        self.ask = nn.Conv2d(half, attention + 1, 1)  # one more: a score of the picture itself
        self.key = nn.Conv2d(half + 12 + 1, attention, 1)
        self.values = nn.ModuleList([nn.Conv2d(half + 12, half, 1), nn.Conv2d(quarter, quarter, 1)])
        self.coarsest = nn.Conv2d(eighth, eighth, 1)
        self.deep = nn.Sequential(nn.Conv2d(2 * eighth, eighth, 3, padding=1), _Block(eighth))
        self.up_deep = nn.Conv2d(eighth, 4 * quarter, 1)
        self.middle = nn.Sequential(nn.Conv2d(3 * quarter, quarter, 3, padding=1), _Block(quarter))
        self.up_middle = nn.Conv2d(quarter, 4 * decoder, 1)
        self.fine = nn.Sequential(
            nn.Conv2d(2 * half + 12 + 12 + decoder, decoder, 3, padding=1), _Block(decoder), _Block(decoder)
        )
        self.leave = nn.Conv2d(decoder, 4 * 4, 3, padding=1)
        silence(self.leave)

    def forward(
        self, image: Tensor, photos: Sequence[Tensor], known: Sequence[Known | None], masks: Sequence[Tensor | None]
    ) -> Refined:
        """Refine a picture.

        Args:
            image: [3, H, W] in [0, 1].
            photos: at least one, [3, h, w] in [0, 1], of any sizes.
            known: places of each by cameras and depth, or by matched features, if there are any.
            masks: [1, h, w] of each in [0, 1], 0: not to be used; None: all of it.
        """
        height, width = image.shape[-2:]
        seen = self.match(image, photos, known)
        with torch.autocast(image.device.type, enabled=False):
            usable = [
                torch.ones_like(photo[:1]) if mask is None else mask.float()
                for photo, mask in zip(photos, masks, strict=True)
            ]
        refined, match = self._fuse(seen, usable)
        return Refined(refined[:, :height, :width], match[:height, :width], seen.matched)

    def match(self, image: Tensor, photos: Sequence[Tensor], known: Sequence[Known | None]) -> Matches:
        """Find a picture's content in photographs; arguments as of ``forward``."""
        with torch.autocast(image.device.type, enabled=False):
            pictures = [pad_to_multiple(picture[None].float(), SIDE)[0] for picture in (image, *photos)]
            known = [None if place is None else _padded(place) for place in known]
        pyramids = [self.encoder(picture) for picture in pictures]
        features = [self._features(picture) for picture in pictures]
        own, *others = zip(features, pyramids, strict=True)
        matched = [self._match(own, other, place) for other, place in zip(others, known, strict=True)]
        return Matches(pictures, pyramids, known, matched)

    def _features(self, picture: Tensor) -> Features:
        """Features that are compared, of one picture [3, H, W]."""
        precision = self.features.down.weight.dtype
        found = self.features(picture[None].to(precision))
        return Features(*(maps[0].float() for maps in found))

    def _match(self, own: tuple[Features, Pyramid], other: tuple[Features, Pyramid], known: Known | None) -> Matched:
        """Match a photograph."""
        picture, photo = own[0], other[0]
        eighths = [pyramid.eighth.float() for pyramid in (own[1], other[1])]
        scores, cells = self.everywhere((picture.quarter, eighths[0]), (photo.quarter, eighths[1]))
        here = _size(picture.quarter)
        with torch.autocast(scores.device.type, enabled=False):
            places, evidence = _best(scores.float(), cells, _size(photo.quarter))
            places, evidence = (_resized(maps, here) for maps in (places, evidence))
            if known is not None:
                places, evidence = _with_known(places, evidence, known)
        quarter, evidence = self.near[0](picture.quarter, photo.quarter, places, evidence, 4)
        here = _size(picture.half)
        places, evidence = (_resized(maps.float(), here) for maps in (quarter.places, evidence))
        half, _ = self.near[1](picture.half, photo.half, places, evidence, 2)
        return Matched(scores, cells, quarter, half)

    def _fuse(self, matches: Matches, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The picture with what the photographs add, and the chance that some photograph matches."""
        (image, *photos), (picture, *pyramids) = matches.pictures, matches.pyramids
        known, matched = matches.known, matches.matched
        size = _size(image)
        seen, keys, values, changes, middles, deeps = [], [], [], [], [], []
        view = F.pixel_unshuffle(image[None] - 0.5, 2)
        for photo, mask, place, pyramid, found in zip(photos, masks, known, pyramids, matched, strict=True):
            chance = ((found.half.logits.float().sigmoid() - MIN_MATCH) / (1 - MIN_MATCH)).clamp_min(0)
            places = found.half.places.detach().float()  # places learn from the truth of places alone
            chance = chance * _inside(places, _size(mask)) * (fetch(mask, places, 1)[0] > 0.5)
            if place is not None:
                chance = chance * (F.avg_pool2d(place.allowed[None], 2)[0] > 0.99)
            weight = chance.detach()[None]
            full = _resized(places, size)
            colour = _adapted(fetch(photo, full, 1), image, _resized(weight, size), _POOL)
            change = (colour - image) * (_resized(chance[None], size) > 0)
            features = _adapted(fetch(pyramid.half.float(), places, 2), picture.half.float(), weight, _POOL // 2)
            small = [_resized(maps, _size(picture.quarter)) for maps in (places, weight)]
            middle = _adapted(fetch(pyramid.quarter.float(), small[0], 4), picture.quarter.float(), small[1], 2)
            tiny = [_resized(maps, _size(picture.eighth)) for maps in (places, weight)]
            deep = _adapted(fetch(pyramid.eighth.float(), tiny[0], 8), picture.eighth.float(), tiny[1], 1)
            seen.append(chance)
            changes.append(change)
            content = torch.cat([features[None], F.pixel_unshuffle(change[None], 2)], 1)
            keys.append(run_network(self.key, torch.cat([content, chance[None, None]], 1))[0])
            values.append(run_network(self.values[0], content)[0])
            middles.append(run_network(self.values[1], middle[None])[0])
            deeps.append(run_network(self.coarsest, deep[None])[0])
        asked = run_network(self.ask, picture.half[None])[0].float()
        chances = torch.stack(seen)  # [K, h, w]
        scores = (asked[:-1] * torch.stack(keys).float()).sum(1) / math.sqrt(len(asked) - 1) + (chances + _EPS).log()
        shares = torch.cat([asked[-1:], scores]).softmax(0)[1:] * (chances > 0)  # [K, h, w]
        match = 1 - (1 - chances).prod(0)
        whole = _resized(match[None], size)[0]

        def fused(maps: Sequence[Tensor]) -> Tensor:
            return (_resized(shares, _size(maps[0]))[:, None] * torch.stack(list(maps)).float()).sum(0)[None]

        deep = run_network(self.deep, torch.cat([picture.eighth[None].float(), fused(deeps)], 1))
        deep = F.pixel_shuffle(run_network(self.up_deep, deep), 2)
        middle = run_network(self.middle, torch.cat([picture.quarter[None].float(), fused(middles), deep], 1))
        middle = F.pixel_shuffle(run_network(self.up_middle, middle), 2)
        copied = fused(changes)
        fine = torch.cat([picture.half[None].float(), fused(values), view, F.pixel_unshuffle(copied, 2), middle], 1)
        out = F.pixel_shuffle(run_network(self.leave, F.silu(run_network(self.fine, fine))), 2)[0]
        added = out[:3] + out[3:].sigmoid() * copied[0]
        return image + whole * added, whole


def fetch(maps: Tensor, places: Tensor, scale: int) -> Tensor:
    """Read maps of a picture at places, bilinear; beyond the border its value.

    Args:
        maps: [C, h, w].
        places: [2, H, W] x, y in pixels of the picture, whose first pixel's centre is (0.5, 0.5).
        scale: pixels of the picture to one of the maps.

    Returns:
        [C, H, W].
    """
    height, width = maps.shape[-2:]
    grid = torch.stack([places[0] * (2 / (scale * width)) - 1, places[1] * (2 / (scale * height)) - 1], -1)
    return F.grid_sample(maps[None], grid[None], padding_mode="border", align_corners=False)[0]


def cell_centres(cells: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Centres [rows * columns, 2] of cells, x and y in pixels of a picture of some height and width."""
    rows, columns = (
        (torch.arange(count, dtype=torch.float32) + 0.5) * (side / count)
        for count, side in zip(cells, size, strict=True)
    )
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)


def _best(
    scores: Tensor, cells: tuple[tuple[int, int], tuple[int, int]], photo: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Best place of each cell [2, h, w] in pixels, and evidence for it [_EVIDENCE, h, w].

    Args:
        scores, cells: of ``_GlobalMatcher``.
        photo: height and width of the photograph's features at a quarter of its size.
    """
    size = (4 * photo[0], 4 * photo[1])
    centres = cell_centres(cells[1], size).to(scores.device)
    best, index = scores.max(1)
    reach = centres.new_tensor([size[1] / cells[1][1], size[0] / cells[1][0]]) * _PEAK
    close = ((centres[index][:, None] - centres).abs() < reach).all(-1)
    weight = scores.masked_fill(~close, -torch.inf).softmax(1)
    # the way back: how far from a cell ends who goes to its match and from there to the match of that
    back = scores.max(0).indices[index]
    rows, columns = cells[0][0], cells[0][1]
    own = torch.arange(len(scores), device=scores.device)
    away = torch.stack([back // columns - own // columns, back % columns - own % columns]).abs().amax(0).float()
    sharpness = (close * scores.exp()).sum(1)
    evidence = torch.stack([best / 8, sharpness, (away / 4).clamp(max=2), torch.zeros_like(best)])
    return (weight @ centres).T.unflatten(1, (rows, columns)), evidence.unflatten(1, (rows, columns))


def _padded(known: Known) -> Known:
    """Maps enlarged as pictures are; beyond them nothing is known, and nothing forbidden."""
    height, width = known.chance.shape
    edge = (0, -width % SIDE, 0, -height % SIDE)
    places, chance, allowed = (maps.float() for maps in known)
    return Known(F.pad(places, edge), F.pad(chance, edge), F.pad(allowed, edge, value=1.0))


def _with_known(places: Tensor, evidence: Tensor, known: Known) -> tuple[Tensor, Tensor]:
    """Places [2, h, w] and evidence with those that cameras tell in their stead."""
    size = _size(places)
    chance = F.interpolate(known.chance[None, None], size, mode="area")
    there = F.interpolate((known.places * known.chance)[None], size, mode="area") / chance.clamp_min(_EPS)
    is_known = (chance > 0.5)[0]
    by_cameras = torch.cat([torch.zeros_like(evidence[:-1]), torch.ones_like(evidence[-1:])])
    return torch.where(is_known, there[0], places), torch.where(is_known, by_cameras, evidence)


def _adapted(features: Tensor, view: Tensor, weight: Tensor, pool: int) -> Tensor:
    """Bring features [C, h, w] to mean and deviation of the view's, by blocks of ``pool`` pixels where both match.

    Args:
        features, view: [C, h, w].
        weight: [1, h, w].
        pool: side of the blocks.
    """
    pool = max(1, min(pool, *features.shape[-2:]))
    share = F.avg_pool2d(weight[None], pool)
    total = share.sum()
    statistics = []
    for maps in (features, view):
        blocks = F.avg_pool2d(maps[None] * weight, pool) / share.clamp_min(_EPS)
        mean = (share * blocks).sum((2, 3)) / (total + _EPS)
        deviation = ((share * (blocks - mean[..., None, None]).square()).sum((2, 3)) / (total + _EPS) + _EPS).sqrt()
        statistics.append((mean[0, :, None, None], deviation[0, :, None, None]))
    (mean, deviation), (wanted_mean, wanted_deviation) = statistics
    ratio = (wanted_deviation / deviation).clamp(1 / _MAX_RATIO, _MAX_RATIO)
    some = total / (total + 1)  # of next to no match nothing follows
    return features + some * ((features - mean) * ratio + wanted_mean - features)


def _inside(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Places [2, h, w] inside of a picture of some height and width, [h, w] 0 or 1."""
    x, y = places
    return ((x > 0) & (y > 0) & (x < size[1]) & (y < size[0])).to(places)


def _fewer_cells(features: Tensor) -> Tensor:
    height, width = features.shape[-2:]
    factor = max(height, width) / _MAX_CELLS
    if factor <= 1:
        return features
    return F.adaptive_avg_pool2d(features[None], (math.ceil(height / factor), math.ceil(width / factor)))[0]


def _marks(features: Tensor, width: int) -> Tensor:
    """Marks [h * w, width] of the places of features [C, h, w]."""
    height, columns_count = features.shape[-2:]
    rows, columns = (
        torch.arange(side, device=features.device, dtype=torch.float32) for side in (height, columns_count)
    )
    count = width // 4
    rates = torch.exp(torch.arange(count, device=features.device) * (-math.log(64.0) / count))
    waves = [
        torch.cat([(ticks[:, None] * rates).sin(), (ticks[:, None] * rates).cos()], -1) for ticks in (rows, columns)
    ]
    down, across = (
        waves[0][:, None].expand(-1, columns_count, -1),
        waves[1][None].expand(height, -1, -1),
    )
    return torch.cat([down, across], -1).flatten(0, 1)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [C, h, w] at another size."""
    if _size(maps) == size:
        return maps
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
