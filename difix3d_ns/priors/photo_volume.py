"""An orbit from one photograph by a small network that says what is where along the photograph's rays.

What the photograph shows is carried over; the shape behind it, and the colours of what it does not show, are what the
network finds likely. It was trained on procedural objects alone: solids put together.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from difix3d_ns.geometry.object_frame import RADIUS
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.geometry.warp import project
from difix3d_ns.priors.base import State
from difix3d_ns.priors.inflation import film_over
from difix3d_ns.priors.networks.volume_net import SIDE, Elevation, Field, VolumeNet
from difix3d_ns.priors.networks.weight_files import find_weights, loaded, read_weights
from difix3d_ns.priors.silhouette_orbit import SilhouetteOrbit, nearest_inside, spread

WEIGHTS = Path(__file__).parent / "weights" / "photo_volume.safetensors"
REACH = 0.78
"""before and behind the object's middle, where something may be"""
_THRESHOLD = -1.0
"""logit from which a place is inside; chosen by the silhouettes of ten objects"""
_SOFT = 2.0
"""logits across a soft outline"""
_SHOWN, _FADED = 0.02, 0.06
"""behind what a photograph shows: up to where its colours are carried over, and where they are gone"""
_DIMMED = 0.8
"""share of a photograph's brightness that the network is shown: of those it was trained on, on average"""
_FILM, _DISTANCE = 0.3, 8.0  # of which inflated depth and distance to the outline, in pixels, are the shares


class PhotoVolumeOrbitGenerator(SilhouetteOrbit):
    """``VolumeNet`` behind the contract of ``OrbitGenerator``: a camera a step; seeds change nothing.

    Args:
        net: the network.
        device: where it lives, and frames are computed.
        threshold: see ``_THRESHOLD``.
    """

    voxels, half = 112, 0.76
    about = (
        "Of one photo, by a small network that knows procedural solids alone: what the photo shows is carried over, "
        "the shape and colours of the other sides are its guess, without detail. All but boxes, balls and rods "
        "needs published weights: --pipeline.datamanager.photo.generator.name orbit-video "
        "--pipeline.datamanager.photo.generator.weights FOLDER, written by difix3d convert --kind hi3d-stage1."
    )

    def __init__(self, net: VolumeNet, device: torch.device, threshold: float = _THRESHOLD) -> None:
        super().__init__(device)
        self._net, self._threshold = net, threshold

    def shape(self, photo: Tensor, elevation: float, camera: Pinhole) -> dict[str, Tensor]:
        """Volume of what is inside along the photograph's rays, and colours (contract of ``SilhouetteOrbit``)."""
        small = reduced(photo)
        field, _ = self._field(small, elevation)
        rows, columns = nearest_inside(small[..., 3].numpy() > 0.5)  # the outline is cut at the photograph's own size
        solid = ((field.solid[0].cpu() - self._threshold) / _SOFT)[:, rows, columns]
        outline = _signed(photo[..., 3:]) * (SIDE / photo.shape[0])
        pixels, depth = project(self.places(), camera)
        grid = ray_places(pixels / camera.width, depth[..., None])
        along = F.grid_sample(solid[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
        flat = grid[..., :2].flatten(0, 1)[None]
        within = F.grid_sample(outline.permute(2, 0, 1)[None], flat, padding_mode="border", align_corners=False)
        volume = torch.minimum(along, within.view_as(along)).clamp(-4, 4)
        depth, _ = self.surface(volume, camera)
        rows, columns = nearest_inside(photo[..., 3].numpy() > 0.5)
        reach = round(photo.shape[0] / SIDE)
        front = F.max_pool2d(depth.cpu()[rows, columns].permute(2, 0, 1), 2 * reach + 1, 1, reach)
        return {
            "volume": volume,
            "colours": (field.colours[0].sigmoid().cpu() / _DIMMED).clamp_max(1),
            "front": front.permute(1, 2, 0),  # the farthest around: surfaces seen edge-on are steep
        }

    def coloured(self, state: State, camera: Pinhole, places: Tensor) -> Tensor:
        """The photograph's colours where it shows a place, else the network's (contract of ``SilhouetteOrbit``)."""
        pixels, depth = project(places, camera)
        grid = ray_places(pixels / camera.width, depth[..., None])[None]
        colours = state["colours"].to(places)[None]
        made = F.grid_sample(colours, grid[None], padding_mode="border", align_corners=False)[0, :, 0]
        maps = torch.cat([spread(state["photo"]), state["front"]], -1).to(places).permute(2, 0, 1)[None]
        found = F.grid_sample(maps, grid[..., :2], padding_mode="border", align_corners=False)[0]
        shown = ((_FADED - (depth - found[3])) / (_FADED - _SHOWN)).clamp(0, 1)
        return torch.lerp(made, found[:3], shown).permute(1, 2, 0)

    def estimated_elevation(self, photo: Tensor) -> tuple[float, float]:
        """Elevation of a photograph's camera, and its mean error by the network, degrees.

        Args:
            photo: [P, P, 4] in [0, 1], the object cut out and centred.
        """
        _, found = self._field(reduced(photo), 0.0)
        return float(found.mean), float(found.log_scale.exp())

    def doubt(self, photo: Tensor, elevation: float) -> float:
        """Mean entropy of what is inside along the photograph's rays, bits; arguments as of ``start``."""
        small = reduced(photo)
        field, _ = self._field(small, elevation)
        chance = field.solid[0, :, small[..., 3].to(self._device) > 0.5].sigmoid().clamp(1e-6, 1 - 1e-6)
        return float(-(chance * chance.log2() + (1 - chance) * (1 - chance).log2()).mean())

    @torch.no_grad()
    def _field(self, small: Tensor, elevation: float) -> tuple[Field, Elevation]:
        """Mean of what the network finds in a photograph and in its mirror image."""
        planes = small.permute(2, 0, 1)[None]
        maps = torch.cat([planes, outlines(small[..., 3:])[None]], 1).to(self._device)
        maps = torch.cat([maps, maps.flip(-1)])
        known = network_input(_DIMMED * maps[:, :3], maps[:, 3:4], maps[:, 4:])
        field, found = self._net(known, torch.full((2,), float(elevation), device=self._device))
        both = ((one[:1] + one[1:].flip(-1)) / 2 for one in field)
        return Field(*both), Elevation(*(one.mean(0, keepdim=True) for one in found))


def _signed(alpha: Tensor) -> Tensor:
    """Distance [P, P, 1] in pixels to the outline of a silhouette, negative outside of it."""
    solid = alpha[..., 0].numpy() > 0.5
    apart = ndimage.distance_transform_edt(solid) - ndimage.distance_transform_edt(~solid)
    return torch.from_numpy(apart).float()[..., None]


def reduced(photo: Tensor) -> Tensor:
    """A cut-out photograph [P, P, 4] at the network's size, its silhouette 0 or 1; nothing is outside of it."""
    small = resampled(torch.cat([photo[..., :3] * photo[..., 3:], photo[..., 3:]], -1), SIDE, SIDE)
    mask = (small[..., 3:] > 0.5).float()
    return torch.cat([(small[..., :3] / small[..., 3:].clamp_min(1e-3)).clamp(0, 1) * mask, mask], -1)


def outlines(mask: Tensor) -> Tensor:
    """Inflated depth of a silhouette [64, 64, 1] and distance to its outline, [2, 64, 64]."""
    inside = ndimage.distance_transform_edt(mask[..., 0].numpy() > 0.5)
    return torch.stack([film_over(mask)[..., 0] / _FILM, torch.from_numpy(inside).float() / _DISTANCE])


def network_input(colours: Tensor, masks: Tensor, outline: Tensor) -> Tensor:
    """Input [B, 8, 64, 64] of the network.

    Args:
        colours: [B, 3, 64, 64] in [0, 1].
        masks: [B, 1, 64, 64].
        outline: [B, 2, 64, 64], see ``outlines``.
    """
    axis = ((torch.arange(SIDE, device=colours.device) + 0.5) * 2 / SIDE - 1).to(colours)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    place = torch.stack([columns, rows]).expand(len(colours), -1, -1, -1)
    return torch.cat([(colours - 0.5) * 2 * masks, masks, outline, place], 1)


def ray_depths(count: int) -> Tensor:
    """Depth [D] of the places along a ray."""
    return RADIUS + REACH * ((torch.arange(count) + 0.5) * 2 / count - 1)


def ray_places(pixels: Tensor, depth: Tensor) -> Tensor:
    """Places [..., 3] in the network's field, -1 to 1 along each axis.

    Args:
        pixels: [..., 2] of the photograph, 0 to 1 from its left and top.
        depth: [..., 1] along z.
    """
    return torch.cat([2 * pixels - 1, (depth - RADIUS) / REACH], -1)


def load(
    weights: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> PhotoVolumeOrbitGenerator:
    """Read it from a .safetensors file with its .json beside it.

    Args:
        weights: such a file, a folder with one ("weights.safetensors", as ``difix3d train-prior photo_volume`` writes),
            or None for the package's own.
        device: where the network lives.
        dtype: ignored: it computes in float32, which takes a tenth of a second.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: it cannot be read or does not fit.
    """
    return PhotoVolumeOrbitGenerator(read_net(weights).to(device).eval(), torch.device(device))


def read_net(weights: str | None) -> VolumeNet:
    """Read the network (float32, on the CPU); errors and argument as of ``load``."""
    path = find_weights(WEIGHTS if weights is None else weights, "photo_volume", "orbit generator", "photo_volume")
    remedy = "a folder written by `difix3d train-prior photo_volume`"
    return read_weights(
        path, lambda config, tensors: loaded(VolumeNet(**config["net"]), tensors), "orbit generator", remedy
    )
