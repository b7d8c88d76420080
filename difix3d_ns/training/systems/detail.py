"""Detail refinement: it meets views as generators make them, and photographs of the same scene."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import pad_to_multiple
from difix3d_ns.geometry.warp import reproject
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.detail import DetailFixer, pixels_of, read_net
from difix3d_ns.priors.epipolar_views import load as load_views
from difix3d_ns.priors.multiview import read_net as read_depth_net
from difix3d_ns.priors.networks.detail_net import SIDE, DetailNet, Known, Match, Matched
from difix3d_ns.training.crops import colour_jitter, integer, to_bytes, to_unit
from difix3d_ns.training.degradation import generated, smooth_field
from difix3d_ns.training.depth_losses import surfaces_seen_at
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.networks import begin_with, configured, save_half
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import Make, repairs

_PHOTOS = 6  # kept of a sample
_NEAR = 9  # photographs that show most of a view, of which these are drawn
_COUNTS = (0.6, 0.25, 0.15)  # shares of one, two, three photographs
_PREDICTED = 0.3  # share of samples whose view the package's generator predicts from some of their photographs
_FROM_PREDICTED = 0.75  # of these, the share of draws that begin from it
_MIN_SIDE, _MAX_SIDE = 128, 240  # of a draw's longer side, in pixels
_KNOWN = 0.85  # share of draws with places by cameras and depth, or by matched features
_PLACE_ERROR = 0.02  # of the picture's longer side: standard deviation of the largest of these errors
_ASTRAY = 0.15  # of it, the largest error of some
_UNRELATED = 0.06  # share of draws whose photographs are of another scene
_GAIN = 0.2  # of a photograph's brightness, log2
_COARSE, _PLACES, _SEEN = 0.05, 0.02, 0.1  # weights of losses beside that of the picture
_MAX_ERROR = 16.0  # pixels
_RIGHT = 2.0  # pixels of error up to which a match is right


class Prepared(NamedTuple):
    """A view, photographs, and where they show what it shows."""

    truth: Tensor  # [3, H, W] uint8
    predicted: Tensor  # [3, H, W] uint8, or [0] without
    photos: Tensor  # [K, 3, H, W] uint8
    grid: Tensor  # [K, H, W, 2] float16 in [-1, 1]
    seen: Tensor  # [K, H, W] bool
    scene: Tensor  # scalar, a number of its own


class Batch(NamedTuple):
    """One view."""

    image: Tensor  # [3, h, w] in [0, 1]
    truth: Tensor  # [3, h, w]
    photos: Tensor  # [K, 3, h', w']
    places: Tensor  # [K, 2, h, w] in pixels of the photographs
    seen: Tensor  # [K, h, w] 0 or 1
    known: Tensor  # [K, 2, h, w], or [0]
    chance: Tensor  # [K, h, w], or [0]


class DetailSystem:
    """``DetailNet`` as a ``System``."""

    variants = ("identity", "fixed")

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        if recipe.batch != 2:
            raise UserError("recipe: batch is 2: a view, and one whose photos show something else; accumulate views")
        self._generator = load_views()

    def build(self) -> DetailNet:
        """The network, with the features that depth is matched by, or of the weights to start from."""
        net = configured(DetailNet, self._recipe, "network")
        net.features.load_state_dict(read_depth_net(None).features.state_dict())
        begin_with(net, self._recipe, read_net)
        return net.to(memory_format=torch.channels_last)

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """Networks that match, and those that make a picture of the matches."""
        assert isinstance(module, DetailNet)
        match = [*module.encoder.parameters(), *module.features.parameters()]
        match += [*module.everywhere.parameters(), *module.near.parameters()]
        names = {id(parameter) for parameter in match}
        return {"match": match, "fuse": [each for each in module.parameters() if id(each) not in names]}

    def prepare(self, sample: Sample) -> Prepared:
        """Find where photographs show the view; predict some of the views from one to three of them."""
        request, truths = sample.request, sample.reference_true_depths
        assert request.camera is not None and sample.true_depth is not None and truths is not None
        photos = [one for one in request.references if one.image.shape[:2] == sample.truth.shape[:2]]
        if len(photos) < max(1, len(request.references)):
            raise UserError(f"{sample.key}: photos of several sizes, or none; these samples need one size")
        generator = Generator().manual_seed(zlib.crc32(sample.key.encode()))
        nearer = torch.randperm(min(len(photos), _NEAR), generator=generator)
        order = nearer[:_PHOTOS].tolist()
        depth = sample.true_depth[..., 0].float()
        grids, seen = [], []
        for number in order:
            grid, _ = reproject(depth.clamp_min(1e-6), request.camera, photos[number].pose)
            grids.append(grid.clamp(-2, 2).half())
            seen.append(surfaces_seen_at(depth, request.camera, truths[number], photos[number].pose))
        predicted = torch.zeros(0, dtype=torch.uint8)
        if float(torch.rand((), generator=generator)) < _PREDICTED:
            shown = [photos[number] for number in order[: 1 + integer(3, generator)]]
            if integer(2, generator):  # without the scene's points, which are its hints of depth
                shown = [replace(one, depth=None, alpha=None) for one in shown]
            predicted = to_bytes(self._predict(request, shown).permute(2, 0, 1))
        pictures = torch.stack([to_bytes(photos[number].image.permute(2, 0, 1)) for number in order])
        return Prepared(
            to_bytes(sample.truth.permute(2, 0, 1)),
            predicted,
            pictures,
            torch.stack(grids),
            torch.stack(seen),
            torch.tensor(zlib.crc32(sample.key.partition("/")[0].encode())),
        )

    @torch.no_grad()
    def _predict(self, request: FixRequest, shown: Sequence[PosedImage]) -> Tensor:
        assert request.camera is not None
        state = self._generator.start(shown, [request.camera])
        while self._generator.steps_left(state):
            state = self._generator.step(state)
        return self._generator.result(state)[0].image

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """A view made worse, at a random size, mirrored and coloured otherwise, and some photographs."""
        sample, other = prepared
        count = 2
        if "fuse" in phase.modules:
            count = 1 + int(torch.multinomial(torch.tensor(_COUNTS), 1, generator=generator))
        chosen = torch.randperm(len(sample.photos), generator=generator)[:count]
        height, width = sample.truth.shape[-2:]
        longer = max(height, width)
        low, high = (min(side, longer) for side in (_MIN_SIDE, _MAX_SIDE))
        scale = (low + integer(high - low + 1, generator)) / longer
        size = (max(SIDE, round(scale * height)), max(SIDE, round(scale * width)))
        truth, photos = _reduced(sample.truth[None], size)[0], _reduced(sample.photos[chosen], size)
        grid, seen = sample.grid[chosen].float(), sample.seen[chosen].float()
        places = torch.stack([pixels_of(each, photos[0]) for each in grid])
        places = F.interpolate(places, size, mode="bilinear")
        seen = (F.interpolate(seen[None], size, mode="area")[0] > 0.9).float()
        use = len(sample.predicted) > 0 and float(torch.rand((), generator=generator)) < _FROM_PREDICTED
        image = _reduced(sample.predicted[None], size)[0] if use else truth
        if not use or integer(3, generator) == 0:
            image, truth, places, seen = generated(image, truth, places, seen, generator)
        if float(torch.rand((), generator=generator)) < _UNRELATED and sample.scene != other.scene:
            photos = _reduced(other.photos[:count], size)
            places, seen = torch.zeros(len(photos), *places.shape[1:]), torch.zeros(len(photos), *seen.shape[1:])
        gain, colours = colour_jitter(generator)
        image, truth, photos = (maps.index_select(-3, colours) * gain[:, None, None] for maps in (image, truth, photos))
        brightness = 2 ** (_GAIN * (2 * torch.rand(len(photos), 1, 1, 1, generator=generator) - 1))
        photos = (photos * brightness).clamp(0, 1)
        if integer(2, generator):
            image, truth, photos, places, seen = (maps.flip(-1) for maps in (image, truth, photos, places, seen))
            places = torch.stack([size[1] - places[:, 0], places[:, 1]], 1)
        known = chance = torch.zeros(0)
        if float(torch.rand((), generator=generator)) < _KNOWN:
            known, chance = _nearly_known(places, seen, longer * scale, generator)
        return Batch(image.contiguous(), truth, photos, places, seen, known, chance)

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """The recipe's losses of the picture, and of the matches at three scales."""
        assert isinstance(module, DetailNet)
        known: list[Known | None] = [None] * len(batch.photos)
        if len(batch.known):
            known = [
                Known(places, chance, torch.ones_like(chance))
                for places, chance in zip(batch.known, batch.chance, strict=True)
            ]
        photos = list(batch.photos)
        loss = batch.image.new_zeros(())
        if "fuse" in phase.modules:
            out = module(batch.image, photos, known, [None] * len(photos))
            matched = out.matched
            loss = compare(out.image[None], batch.truth[None])
        else:
            matched = module.match(batch.image, photos, known).matched
        with torch.autocast(batch.image.device.type, enabled=False):
            size = batch.photos.shape[-2:]
            parts = [
                matching_loss(found, places, seen, (int(size[0]), int(size[1])))
                for found, places, seen in zip(matched, batch.places, batch.seen, strict=True)
            ]
        return loss + torch.stack(parts).mean()

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Repairs of samples."""
        assert isinstance(module, DetailNet)
        return repairs({"fixed": DetailFixer(copy.deepcopy(module).float())})

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float16) and its JSON."""
        save_half(module, folder, {"fixer": "detail", **self._recipe.network, **self._recipe.extra})


def _nearly_known(places: Tensor, seen: Tensor, longer: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Places as cameras or matched features give them: not exact, wrong here and there, also of what is hidden.

    Args:
        places: [K, 2, h, w] true ones, in pixels.
        seen: [K, h, w].
        longer: side of the picture, in pixels.
        generator: of all chance.

    Returns:
        Places, and where they are given, [K, h, w] 0 or 1.
    """
    size = (seen.shape[-2], seen.shape[-1])
    error = smooth_field(size, 6, generator) * _PLACE_ERROR * longer * torch.rand((), generator=generator)
    if integer(2, generator):
        astray = smooth_field(size, 5, generator)[:1] > 1
        error = error + astray * _ASTRAY * longer * (2 * torch.rand(2, 1, 1, generator=generator) - 1)
    given = torch.ones_like(seen) if integer(2, generator) else seen
    if integer(3, generator) == 0:
        given = given * (smooth_field(size, 5, generator)[0] < 0.5)
    return places + error, given


def _reduced(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures [N, 3, H, W] uint8 as [N, 3, h, w] in [0, 1]."""
    return F.interpolate(to_unit(pictures), size, mode="area")


def matching_loss(found: Matched, places: Tensor, seen: Tensor, size: tuple[int, int]) -> Tensor:
    """Compare matches with the truth.

    Args:
        found: of a photograph.
        places: [2, H, W] true places in pixels of the photograph.
        seen: [H, W] 0 or 1: whether the photograph shows them.
        size: height and width of the photograph.
    """
    loss = _COARSE * _coarse_loss(found, places, seen, size)
    for match, scale in ((found.quarter, 4), (found.half, 2)):
        loss = loss + _place_loss(match, *_at_scale(places, seen, scale))
    return loss


def _coarse_loss(found: Matched, places: Tensor, seen: Tensor, size: tuple[int, int]) -> Tensor:
    """Negative log probability of the true cells, where the photograph shows most of a cell."""
    (rows, columns), (photo_rows, photo_columns) = found.cells
    padded = pad_to_multiple(torch.cat([places * seen, seen[None]])[None], SIDE)
    pooled = F.adaptive_avg_pool2d(padded, (rows, columns))[0]
    share = pooled[2].flatten()
    there = (pooled[:2] / pooled[2:].clamp_min(1e-3)).flatten(1)
    sides = [SIDE * -(-side // SIDE) for side in size]
    row = (there[1] / sides[0] * photo_rows).long().clamp(0, photo_rows - 1)
    column = (there[0] / sides[1] * photo_columns).long().clamp(0, photo_columns - 1)
    chosen = found.scores.gather(1, (row * photo_columns + column)[:, None])[:, 0]
    weight = (share > 0.5).float()
    return -(chosen * weight).sum() / weight.sum().clamp_min(1)


def _place_loss(match: Match, places: Tensor, seen: Tensor) -> Tensor:
    """Error of places in pixels, where they are seen, and likelihood of being seen and found."""
    error = (match.places.float() - places).square().sum(0).add(1e-4).sqrt()
    weight = seen.sum().clamp_min(1)
    right = seen * (error.detach() < _RIGHT)
    chance = F.binary_cross_entropy_with_logits(match.logits.float(), right)
    return _PLACES * (error.clamp(max=_MAX_ERROR) * seen).sum() / weight + _SEEN * chance


def _at_scale(places: Tensor, seen: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Places and visibility at a coarser scale: of blocks that are seen as a whole."""
    padded = pad_to_multiple(torch.cat([places * seen, seen[None]])[None], SIDE)
    pooled = F.avg_pool2d(padded, scale)[0]
    return pooled[:2] / pooled[2:].clamp_min(1e-3), (pooled[2] > 0.99).float()


def create(recipe: Recipe) -> DetailSystem:
    """The system ``detail``."""
    return DetailSystem(recipe)
