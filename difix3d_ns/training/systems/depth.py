"""The embedded depth of photographs: a network that meets procedural scenes, whose depth is exact."""

from __future__ import annotations

import copy
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
from difix3d_ns.geometry.stereo import search_range
from difix3d_ns.geometry.warp import in_view
from difix3d_ns.priors.multiview import NEIGHBOURS, hint_maps, hinted_points, read_net, views_of
from difix3d_ns.priors.networks.depth_net import SIDE, DepthNet, Estimate, Features, Match, Views, reprojected
from difix3d_ns.training.crops import integer, to_bytes, to_unit
from difix3d_ns.training.depth_losses import laplace_likelihood, plane_likelihood, surfaces_seen
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.networks import begin_with, configured, save_half
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import Make

_POSE_ERROR = 0.1  # pixels, standard deviation
_MATCHED, _COARSE, _SURFACE = 0.5, 0.5, 0.2  # weights of losses beside that of the final depth
_POINTS = (0.0, 1.0)  # share of the points that are kept, evenly drawn
_GAIN = 0.25  # of brightness, each photograph by itself, log2


class Prepared(NamedTuple):
    """A photograph with its neighbours and its truth; sides are padded to what the network takes."""

    pictures: Tensor  # [1 + K, 3, H, W] uint8
    tables: Tensor  # [K, 3, 4]
    extents: Tensor  # [K, 4]
    bounds: Tensor  # [2] least and largest depth that is searched
    hints: Tensor  # [H, W, 1] sparse depth, 0: unknown
    depth: Tensor  # [1, H, W] truth, 0: sky, negative: padding
    seen: Tensor  # [K, h, w] bool, whether a neighbour sees the surface, at a quarter of the size


class Batch(NamedTuple):
    """One photograph."""

    pictures: Tensor  # [1 + K, 3, H, W] in [0, 1]
    views: Views
    hints: Tensor  # [1, 2, H/4, W/4]
    depth: Tensor  # [1, 1, H, W]
    seen: Tensor  # [1, 1, H/4, W/4]


class DepthSystem:
    """``DepthNet`` as a ``System``."""

    variants = ("swept", "estimated")

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        if recipe.batch != 1:
            raise UserError("recipe: photos differ in size: batch is 1; accumulate takes its place")

    def build(self) -> DepthNet:
        """The network, new or of the weights to start from."""
        net = configured(DepthNet, self._recipe, "depth network")
        begin_with(net, self._recipe, read_net)
        return net

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """The whole network."""
        return {"net": list(module.parameters())}

    def prepare(self, sample: Sample) -> Prepared:
        """Keep the pictures, where the neighbours' cameras see what, and the truth."""
        request = sample.request
        assert request.camera is not None and request.depth is not None and sample.true_depth is not None
        photographs = [PosedImage(request.image, request.camera, request.depth, request.alpha), *request.references]
        points = hinted_points(photographs[:1])
        seen = None if points is None else [in_view(points, photograph.pose)[0] for photograph in photographs]
        pictures = [pad_to_multiple(one.image.permute(2, 0, 1)[None], SIDE) for one in photographs]
        height, width = (max(one.shape[side] for one in pictures) for side in (-2, -1))
        pictures = [F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2])) for one in pictures]
        cameras, bounds = [one.pose for one in photographs], search_range(0, photographs, points, seen)
        views = views_of(cameras, [(height, width)] * len(cameras), *bounds)
        truth = torch.full((1, height, width), -1.0)
        truth[:, : sample.true_depth.shape[0], : sample.true_depth.shape[1]] = sample.true_depth[..., 0]
        visible = torch.zeros(len(cameras) - 1, height // 4, width // 4, dtype=torch.bool)
        if sample.reference_true_depths is not None:
            for number, depth in enumerate(sample.reference_true_depths):
                enlarged = replace(cameras[0], width=width, height=height)
                visible[number] = surfaces_seen(truth[0], enlarged, depth, cameras[1 + number])
        hints = F.pad(request.depth[..., 0], (0, width - request.depth.shape[1], 0, height - request.depth.shape[0]))
        return Prepared(
            to_bytes(torch.cat(pictures)),
            views.tables[0],
            views.extents[0],
            torch.tensor(bounds),
            hints[..., None].half(),
            truth.half(),
            visible,
        )

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """The photograph with some of its neighbours and points, poses a little wrong, each of its own exposure."""
        (sample,) = prepared
        count = min(len(sample.tables), 1 + integer(NEIGHBOURS, generator))
        # mostly the best neighbours, since these are shown in use; now and then others
        order = torch.randperm(len(sample.tables), generator=generator) if integer(4, generator) == 0 else None
        chosen = torch.arange(count) if order is None else order[:count]
        pictures = to_unit(sample.pictures[torch.cat([torch.zeros(1, dtype=torch.long), 1 + chosen])])
        gains = 2 ** (_GAIN * (2 * torch.rand(len(pictures), 1, 1, 1, generator=generator) - 1))
        pictures = (pictures * gains).clamp(0, 1)
        height, width = pictures.shape[-2:]
        tables, extents = sample.tables[chosen].clone(), sample.extents[chosen]
        shift = _POSE_ERROR * torch.randn(count, 2, generator=generator) * torch.tensor([2 / width, 2 / height])
        tables[:, :2] += shift[:, :, None] * tables[:, 2:]
        near, far = sample.bounds.tolist()
        low, high = _POINTS
        share = low + (high - low) * float(torch.rand((), generator=generator))
        kept = torch.rand(sample.hints.shape, generator=generator) < share
        hints = hint_maps(sample.hints.float() * kept, near, far, (height // 4, width // 4))
        depth, seen = sample.depth[None].float(), sample.seen[chosen].any(0)[None, None].float()
        if integer(2, generator):  # mirrored, all of them
            mirror = torch.tensor([[-1.0, 0, 2], [0, 1, 0], [0, 0, 1]])  # of columns from 0 to 2
            tables[:, :, :3] = tables[:, :, :3] @ mirror
            tables[:, 0] *= -1
            extents = extents[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1])
            pictures, hints, depth, seen = (values.flip(-1) for values in (pictures, hints, depth, seen))
        views = Views(tables[None], extents[None], torch.tensor([1 / far]), torch.tensor([1 / near]))
        return Batch(pictures, views, hints, depth, seen)

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """Likelihood of the true log depth under Laplace's distribution, and of the plane where a neighbour sees it."""
        assert isinstance(module, DepthNet)
        match, coarse, fine = _estimated(module, batch)
        depth = batch.depth.float()
        quarter = depth[..., 2::4, 2::4]  # one of the pixels in the middle
        return (
            _likelihood(fine, batch.views, depth)
            + _COARSE * _likelihood(coarse, batch.views, quarter)
            + _MATCHED * plane_likelihood(match.logits, batch.views, quarter, batch.seen)
        )

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Photographs remade from their neighbours by depth: that of matching alone, and the estimate."""
        assert isinstance(module, DepthNet)
        net = copy.deepcopy(module).eval()

        def make(sample: Sample, place_of: str) -> Tensor:
            (batch,) = [self._whole(self.prepare(sample), next(net.parameters()).device)]
            with torch.no_grad():
                match, _, fine = _estimated(net, batch)
            place = fine.place
            if place_of == "swept":
                place = F.interpolate(match.place, fine.place.shape[-2:], mode="bilinear", align_corners=False)
            remade = _remade(batch, place)
            height, width = sample.truth.shape[:2]
            return remade[:height, :width].to(sample.truth)

        return {
            "swept": lambda sample: make(sample, "swept"),
            "estimated": lambda sample: make(sample, "estimated"),
        }

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float16) and its JSON."""
        save_half(module, folder, {**self._recipe.network, **self._recipe.extra})

    @staticmethod
    def _whole(sample: Prepared, device: torch.device) -> Batch:
        """A sample as it is, with the neighbours and points that it would have in use."""
        near, far = sample.bounds.tolist()
        count = min(NEIGHBOURS, len(sample.tables))
        pictures = to_unit(sample.pictures[: 1 + count])
        height, width = pictures.shape[-2:]
        tables, extents = sample.tables[None, :count], sample.extents[None, :count]
        views = Views(tables, extents, torch.tensor([1 / far]), torch.tensor([1 / near]))
        hints = hint_maps(sample.hints.float(), near, far, (height // 4, width // 4))
        seen = sample.seen[:count].any(0)[None, None].float()
        return Batch(
            pictures.to(device), views.to(device), hints.to(device), sample.depth[None].float().to(device), seen
        )


def _estimated(net: DepthNet, batch: Batch) -> tuple[Match, Estimate, Estimate]:
    features = net.describe(batch.pictures)
    described = [Features(*(maps[number, None] for maps in features)) for number in range(len(batch.pictures))]
    result: tuple[Match, Estimate, Estimate] = net(
        batch.pictures[:1], described[0], described[1:], batch.views, batch.hints
    )
    return result


def _likelihood(estimate: Estimate, views: Views, depth: Tensor) -> Tensor:
    """Negative logarithm of the likelihood of depth [1, 1, H, W]: 0 is sky, below that nothing is known."""
    known, surface = depth >= 0, (depth > 0).float()
    there = F.binary_cross_entropy_with_logits(estimate.surface, surface, reduction="none")
    of_depth = laplace_likelihood(views.depth(estimate.place), estimate.log_scale, depth, surface)
    return of_depth + _SURFACE * (there * known).sum() / known.sum().clamp_min(1)


def _remade(batch: Batch, place: Tensor) -> Tensor:
    """The photograph [H, W, 3] as its neighbours show its surfaces; itself where none does."""
    own = batch.pictures[:1]
    far, near = (bound.view(-1, 1, 1, 1) for bound in (batch.views.far, batch.views.near))
    total, weight = torch.zeros_like(own), own.new_zeros(1, 1, *own.shape[-2:])
    for number, other in enumerate(batch.pictures[1:]):
        grid, inside = reprojected(
            batch.views.tables[:, number], batch.views.extents[:, number], far + (near - far) * place
        )
        warped = F.grid_sample(other[None], grid[:, 0], align_corners=False)
        total, weight = total + warped * inside, weight + inside
    return torch.where(weight > 0, total / weight.clamp_min(1), own)[0].permute(1, 2, 0)


def create(recipe: Recipe) -> DepthSystem:
    """Create the system."""
    return DepthSystem(recipe)
