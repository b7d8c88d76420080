"""The epipolar network: it meets procedural scenes, of which it is shown a few photographs and asked for another."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resize import pad_to_multiple
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.priors.eft import read_net
from difix3d_ns.priors.epipolar import geometry_of
from difix3d_ns.priors.multiview import read_net as read_depth_net
from difix3d_ns.priors.networks.depth_net import Views
from difix3d_ns.priors.networks.eft_net import SIDE, EpipolarNet, Prediction, Rays, warped
from difix3d_ns.training.crops import integer, to_bytes, to_unit
from difix3d_ns.training.depth_losses import laplace_likelihood, plane_likelihood, surfaces_seen
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.networks import begin_with, configured, save_half
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import Make

_COUNTS = (0.1, 0.35, 0.35, 0.2)  # shares of one, two, three, four photographs
_DENSE = 0.5  # share of samples with depth of the photographs, as a prior estimates it, instead of the scene's points
_DEPTH_NOISE = (0.01, 0.03)  # of log depth: of a photograph as a whole; most of a pixel
_GAIN = 0.25  # of brightness, log2
_COARSE, _DEPTH, _PLANES, _SEEN, _ERROR = 0.5, 0.1, 0.1, 0.05, 0.02  # weights of losses beside that of the picture
_UNSEEN = 0.3  # weight of the depth of what no photograph shows


class Prepared(NamedTuple):
    """A requested picture, photographs of the scene, and what is known exactly."""

    pictures: Tensor  # [1 + K, 3, H, W] uint8, the requested one first
    poses: Tensor  # [1 + K, 4, 4]
    intrinsics: Tensor  # [1 + K, 3, 3]
    depths: Tensor  # [1 + K, H, W] float16, 0: sky
    seen: Tensor  # [K, H/4, W/4] bool
    points: Tensor  # [P, 3] of the scene, world
    owners: Tensor  # [P] photograph that shows it, from 0


class Batch(NamedTuple):
    """One request."""

    pictures: Tensor  # [K, 3, H, W] in [0, 1], sides enlarged
    views: Views
    rays: Rays
    hints: Tensor  # [1, 2, H/4, W/4]
    truth: Tensor  # [1, 3, H, W]
    depth: Tensor  # [1, 1, H, W], 0: sky
    seen: Tensor  # [1, 1, H/4, W/4]


class EpipolarSystem:
    """``EpipolarNet`` as a ``System``."""

    variants = ("warped", "predicted")

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        if recipe.batch != 1:
            raise UserError("recipe: photos differ in number: batch is 1; accumulate takes its place")

    def build(self) -> EpipolarNet:
        """The network, with the features that depth is matched by, or of the weights to start from."""
        net = configured(EpipolarNet, self._recipe, "network")
        if self._recipe.start is None:
            net.features.load_state_dict(read_depth_net(None).features.state_dict())
        begin_with(net, self._recipe, read_net)
        return net

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """The whole network."""
        return {"net": list(module.parameters())}

    def prepare(self, sample: Sample) -> Prepared:
        """Keep pictures, cameras, the truth, and the scene's points."""
        request, truths = sample.request, sample.reference_true_depths
        assert request.camera is not None and sample.true_depth is not None and truths is not None
        height, width = sample.truth.shape[:2]
        shown = [one for one in request.references if one.image.shape[:2] == (height, width)]
        if len(shown) < len(request.references):
            raise UserError(f"{sample.key}: photos of several sizes; these samples need one")
        cameras = [request.camera, *(one.pose for one in shown)]
        exact = torch.stack([sample.true_depth, *truths])[..., 0]
        seen = [surfaces_seen(exact[0], cameras[0], depth, one.pose) for one, depth in zip(shown, truths, strict=True)]
        points, owners = [torch.zeros(0, 3)], [torch.zeros(0, dtype=torch.long)]
        for number, one in enumerate(shown):
            if one.depth is not None:
                points.append(unproject(one.depth, one.pose)[one.depth[..., 0] > 0].float())
                owners.append(torch.full((len(points[-1]),), number))
        pictures = [to_bytes(picture.permute(2, 0, 1)) for picture in (sample.truth, *(one.image for one in shown))]
        return Prepared(
            torch.stack(pictures),
            torch.stack([camera.camera_to_world.float() for camera in cameras]),
            torch.stack([camera.intrinsics.float() for camera in cameras]),
            exact.half(),
            torch.stack(seen),
            torch.cat(points),
            torch.cat(owners),
        )

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """Some of the photographs, with points or noisy depth of them; mirrored and brightened, all alike."""
        (sample,) = prepared
        count = 1 + int(torch.multinomial(torch.tensor(_COUNTS), 1, generator=generator))
        available = len(sample.pictures) - 1
        nearby = available if integer(3, generator) else min(available, 5)  # the best come first
        chosen = torch.randperm(nearby, generator=generator)[:count]
        points = _points(sample, chosen, generator)
        return self._batch(sample, chosen, points, bool(integer(2, generator)), _gain(generator))

    def _batch(
        self, sample: Prepared, chosen: Tensor, points: Tensor | None, mirrored: bool = False, gain: float = 1.0
    ) -> Batch:
        used = torch.cat([torch.zeros(1, dtype=torch.long), 1 + chosen])
        pictures = (gain * to_unit(sample.pictures[used])).clamp(0, 1)
        height, width = pictures.shape[-2:]
        cameras = [Pinhole(sample.poses[i], sample.intrinsics[i], width, height) for i in used.tolist()]
        depth, seen = sample.depths[0].float(), sample.seen[chosen].any(0).float()
        if mirrored:
            pictures, depth, seen = pictures.flip(-1), depth.flip(-1), seen.flip(-1)
            cameras = [_mirrored(camera) for camera in cameras]
            points = None if points is None else points * torch.tensor([-1.0, 1, 1])
        geometry = geometry_of(cameras[0], cameras[1:], points)
        pictures = pad_to_multiple(pictures, SIDE)
        right, below = pictures.shape[-1] - width, pictures.shape[-2] - height
        return Batch(
            pictures[1:],
            geometry.views,
            geometry.rays,
            geometry.hints,
            pictures[:1],
            F.pad(depth, (0, right, 0, below))[None, None],
            F.pad(seen, (0, right // 4, 0, below // 4))[None, None],
        )

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """The recipe's losses of the picture, and likelihoods of its error, of depth, and of being seen."""
        assert isinstance(module, EpipolarNet)
        found = predicted(module, batch)
        truth, depth = batch.truth, batch.depth
        small, quarter = F.avg_pool2d(truth, 4), depth[..., 2::4, 2::4]
        error = (found.image.detach() - truth).abs().mean(1, keepdim=True)
        seen = F.interpolate(batch.seen, depth.shape[-2:], mode="nearest")
        surface = (depth > 0).float()
        return (
            compare(found.image, truth)
            + _COARSE * (found.coarse - small).abs().mean()
            + _DEPTH
            * laplace_likelihood(
                batch.views.depth(found.place), found.log_scale, depth, surface * (_UNSEEN + (1 - _UNSEEN) * seen)
            )
            + _PLANES * plane_likelihood(found.logits, batch.views, quarter, _UNSEEN + (1 - _UNSEEN) * batch.seen)
            + _SEEN * F.binary_cross_entropy_with_logits(found.seen, seen)
            + _ERROR * (error * (-found.log_error).exp() + found.log_error).mean()
        )

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Predictions from three photographs, and these photographs warped by the depth found, their mean."""
        assert isinstance(module, EpipolarNet)
        net = copy.deepcopy(module).eval()
        device = next(net.parameters()).device

        def make(sample: Sample, warped: bool) -> Tensor:
            batch = self.whole(sample, device)
            with torch.no_grad():
                found = predicted(net, batch)
                picture = _warped_mean(batch, found) if warped else found.image
            height, width = sample.truth.shape[:2]
            return picture[0, :, :height, :width].permute(1, 2, 0).clamp(0, 1).to(sample.truth)

        return {"warped": lambda sample: make(sample, True), "predicted": lambda sample: make(sample, False)}

    def whole(self, sample: Sample, device: torch.device) -> Batch:
        """A sample as it is, with three of its photographs and their points."""
        prepared = self.prepare(sample)
        chosen = torch.tensor([i for i in (0, 3, 6) if i < len(prepared.pictures) - 1])
        points = prepared.points[torch.isin(prepared.owners, chosen)]
        batch: Batch = send_to_device(self._batch(prepared, chosen, points), device)
        return batch

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float16) and its JSON."""
        save_half(module, folder, {**self._recipe.network, **self._recipe.extra})


def predicted(net: EpipolarNet, batch: Batch) -> Prediction:
    """Predict what a request asks for."""
    described = net.describe(batch.pictures)
    each = [type(described)(*(maps[i : i + 1] for maps in described)) for i in range(len(batch.pictures))]
    prediction: Prediction = net(list(batch.pictures.split(1)), each, batch.views, batch.rays, batch.hints)
    return prediction


def _points(sample: Prepared, chosen: Tensor, generator: Generator) -> Tensor | None:
    """World points [P, 3] on what the chosen photographs show: the scene's, or of their depth with errors."""
    share = float(torch.rand((), generator=generator))
    if float(torch.rand((), generator=generator)) >= _DENSE:
        points = sample.points[torch.isin(sample.owners, chosen)]
        return points[torch.rand(len(points), generator=generator) < share] if share > 0.1 else None
    whole, each = _DEPTH_NOISE
    found = []
    height, width = sample.depths.shape[-2:]
    for number in (1 + chosen).tolist():
        depth = sample.depths[number].float()
        error = whole * torch.randn((), generator=generator)
        error = error + each * float(torch.rand((), generator=generator)) * torch.randn(
            depth.shape, generator=generator
        )
        kept = (depth > 0) & (torch.rand(depth.shape, generator=generator) < 0.5 * share)
        camera = Pinhole(sample.poses[number], sample.intrinsics[number], width, height)
        found.append(unproject((depth * error.exp())[..., None], camera)[kept])
    return torch.cat(found)


def _mirrored(camera: Pinhole) -> Pinhole:
    """Camera of the mirrored scene whose picture is the mirrored one."""
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    intrinsics = camera.intrinsics.clone()
    intrinsics[0, 2] = camera.width - intrinsics[0, 2]
    return replace(camera, camera_to_world=mirror @ camera.camera_to_world @ mirror, intrinsics=intrinsics)


def _gain(generator: Generator) -> float:
    return float(2 ** (_GAIN * (2 * torch.rand((), generator=generator) - 1)))


def _warped_mean(batch: Batch, found: Prediction) -> Tensor:
    """Mean of the photographs, each fetched at the depth found, where they show it; grey where none does."""
    shown, inside = warped(list(batch.pictures.split(1)), batch.views, batch.views.inverse(found.place))
    total = inside.sum(0, keepdim=True)
    mean = (shown * inside).sum(0, keepdim=True) / total.clamp_min(1e-6)
    return torch.where(total > 0, mean, 0.5)


def create(recipe: Recipe) -> EpipolarSystem:
    """The system ``eft``."""
    return EpipolarSystem(recipe)
