"""A volume from one photograph: it meets procedural objects, whose inside is known exactly."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from difix3d_ns.data.object_sides import ObjectSides
from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import project, unproject
from difix3d_ns.priors.networks.volume_net import SIDE, VolumeNet
from difix3d_ns.priors.photo_volume import (
    REACH,
    PhotoVolumeOrbitGenerator,
    network_input,
    outlines,
    ray_depths,
    ray_places,
    read_net,
)
from difix3d_ns.training.crops import colour_jitter, integer, to_bytes, to_unit
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.networks import begin_with, configured, save_half
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import Make

_POINTS = 1024  # of the surface, in a draw
_HIDDEN = 0.8  # share of them that the photograph does not show
_BEHIND = 0.03  # how far a point is behind what a photograph shows, that it does not show
_COLOUR, _ELEVATION = 1.0, 0.05  # weights of losses beside that of the shape


class Prepared(NamedTuple):
    """An object's photographs, and what is known exactly."""

    pictures: Tensor  # [V, 3, 64, 64] uint8
    masks: Tensor  # [V, 64, 64] bool
    outlines: Tensor  # [V, 2, 64, 64] float16
    depths: Tensor  # [V, 64, 64] float16
    inside: Tensor  # [R, D] uint8 share of each place, for all pixels of all silhouettes, one photograph after another
    points: Tensor  # [R, 3] of the surface at these pixels, in the object's frame
    poses: Tensor  # [V, 4, 4]
    intrinsics: Tensor  # [3, 3]
    elevations: Tensor  # [V] degrees


class Batch(NamedTuple):
    """Photographs, and what they do not show."""

    pictures: Tensor  # [B, 8, 64, 64]
    elevations: Tensor  # [B] degrees
    inside: Tensor  # [B, D, 64, 64] in [0, 1]
    places: Tensor  # [B, P, 3] of surfaces, in the field
    colours: Tensor  # [B, 3, P, 1] of these


class PhotoVolume:
    """``VolumeNet`` as a ``System``."""

    variants = ("generated",)

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._depths = int(recipe.network["net"].get("depths", 48))

    def build(self) -> VolumeNet:
        """The network, or the one to start from."""
        net = configured(VolumeNet, self._recipe, "volume network")
        begin_with(net, self._recipe, read_net)
        return net

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """The whole network."""
        return {"net": list(module.parameters())}

    def prepare(self, sample: Sample) -> Prepared:
        """Keep pictures and silhouettes, and find out what is inside of the object along their rays."""
        about = sample.provenance
        if "object" not in about or sample.truth.shape[1] != SIDE or sample.true_depth is None:
            raise UserError(f"{sample.key}: this system needs samples of sides:N with --long-side {SIDE}")
        drawn = ObjectSides.drawn(int(about["object"]), SIDE)
        pictures = sample.truth.view(-1, SIDE, SIDE, 3)
        depths = sample.true_depth.view(-1, SIDE, SIDE, 1)
        masks = depths[..., 0] > 0
        step = 2 * REACH / self._depths
        inside, points, found = [], [], []
        for camera, depth, mask in zip(drawn.cameras, depths, masks, strict=True):
            surface = unproject(depth, camera)[mask].double()
            way = (surface - camera.position) / depth[mask].double()
            places = camera.position + way[:, None] * ray_depths(self._depths).double()[:, None]
            share = 0.5 - torch.from_numpy(drawn.distance(places.reshape(-1, 3).numpy())) / step
            inside.append(to_bytes(share.view(len(way), -1)))
            points.append(surface.float())
            found.append(outlines(mask[..., None].float()))
        return Prepared(
            to_bytes(pictures.permute(0, 3, 1, 2)),
            masks,
            torch.stack(found).half(),
            depths[..., 0].half(),
            torch.cat(inside),
            torch.cat(points),
            torch.stack([camera.camera_to_world.float() for camera in drawn.cameras]),
            drawn.cameras[0].intrinsics.float(),
            torch.tensor(drawn.elevations),
        )

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """A photograph of each object, and points of its surface that this one does not show; some are mirrored."""
        drawn = [self._one(sample, generator) for sample in prepared]
        return Batch(*(torch.stack(values) for values in zip(*drawn, strict=True)))

    def _one(self, sample: Prepared, generator: Generator) -> tuple[Tensor, ...]:
        view = integer(len(sample.pictures), generator)
        counts = sample.masks.sum((1, 2)).tolist()
        own = slice(sum(counts[:view]), sum(counts[: view + 1]))
        mask = sample.masks[view]
        inside = torch.zeros(self._depths, SIDE, SIDE)
        inside[:, mask] = to_unit(sample.inside[own]).T
        gain, order = colour_jitter(generator)
        pictures = to_unit(sample.pictures[:, order]) * gain[:, None, None]
        chosen, places = self._points(sample, view, generator)
        colours = pictures.permute(0, 2, 3, 1)[sample.masks][chosen]
        one = (pictures[view, None], mask[None, None].float(), sample.outlines[view, None].float())
        if integer(2, generator):
            one, inside = (one[0].flip(-1), one[1].flip(-1), one[2].flip(-1)), inside.flip(-1)
            places = places * torch.tensor([-1.0, 1, 1])
        return network_input(*one)[0], sample.elevations[view].float(), inside, places, colours.T[..., None]

    def _points(self, sample: Prepared, view: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Numbers [P] of points of the surface, and their places [P, 3] in the field of a photograph."""
        camera = Pinhole(sample.poses[view], sample.intrinsics, SIDE, SIDE)
        pixels, depth = project(sample.points, camera)
        columns, rows = pixels.long().clamp(0, SIDE - 1).unbind(-1)
        shown = sample.depths[view, rows, columns].float()
        hidden = (shown > 0) & (depth > shown + _BEHIND)
        share = hidden.float().mean().clamp(0.01, 0.99)
        weights = torch.where(hidden, _HIDDEN / share, (1 - _HIDDEN) / (1 - share))
        chosen = torch.multinomial(weights, _POINTS, replacement=True, generator=generator)
        return chosen, ray_places(pixels[chosen] / SIDE, depth[chosen, None])

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """Likelihood of what is inside, the recipe's losses of hidden colours, and likelihood of the elevation."""
        field, elevation = module(batch.pictures, batch.elevations)
        mask = batch.pictures[:, 3:4]
        shape = F.binary_cross_entropy_with_logits(field.solid, batch.inside, reduction="none") * mask
        places = batch.places[:, :, None, None]
        colours = F.grid_sample(field.colours.sigmoid(), places, padding_mode="border", align_corners=False)[..., 0]
        apart = (batch.elevations - elevation.mean).abs() * (-elevation.log_scale).exp() + elevation.log_scale
        return (
            shape.sum() / (mask.sum() * self._depths)
            + _COLOUR * compare(colours, batch.colours)
            + _ELEVATION * apart.mean()
        )

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Predictions of all sides from the first, one below the other, before white."""
        assert isinstance(module, VolumeNet)
        net = copy.deepcopy(module).eval()
        generator = PhotoVolumeOrbitGenerator(net, next(net.parameters()).device)

        def make(sample: Sample) -> Tensor:
            drawn = ObjectSides.drawn(int(sample.provenance["object"]), SIDE)
            cameras = [camera.to("cpu", torch.float32) for camera in drawn.cameras]
            assert sample.true_depth is not None
            mask = (sample.true_depth[:SIDE] > 0).float()
            photo = torch.cat([sample.truth[:SIDE], mask], -1)
            with torch.no_grad():
                state = {"photo": photo, **generator.shape(photo, drawn.elevations[0], cameras[0])}
                frames = [generator.seen(state, cameras[0], camera) for camera in cameras]
            return torch.cat([frame.image * frame.alpha + 1 - frame.alpha for frame in frames]).to(sample.truth)

        return {"generated": make}

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float16) and its JSON."""
        save_half(module, folder, {**self._recipe.network, **self._recipe.extra})


def create(recipe: Recipe) -> PhotoVolume:
    """The system ``photo-volume``."""
    return PhotoVolume(recipe)
