"""Requests of the epipolar network: cameras, photographs and sparse depth as it takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from difix3d_ns.geometry.orbits import look_at_point
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.point_depth import point_depth
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import pad_to_multiple
from difix3d_ns.geometry.warp import in_view
from difix3d_ns.priors.multiview import hint_maps, hinted_points, views_of
from difix3d_ns.priors.networks.depth_net import Views
from difix3d_ns.priors.networks.eft_net import SIDE, EpipolarNet, Prediction, Rays

_MIN_POINTS = 10  # in view, from which on they say how far surfaces are
_NEAR, _FAR = 0.7, 1.5  # of the nearest and the farthest of them
MAX_POINTS = 200_000
"""hints of depth, of all photographs together"""
LONG_SIDE = 480
"""pixels at which larger photographs are shown to the network"""
_TRUSTED, _SHARPNESS = 0.04, 3  # stated error of colour at which certainty is halved, and how fast it falls there
_MIN_CERTAINTY, _FULL_CERTAINTY = 0.3, 0.7
"""certainty up to which confidence is 0, and from which on it is 1: what is taught with a small weight is learned all
the same, where nothing speaks against it, since Adam does not know how small a gradient is"""
_AROUND = (0.4, 3.0)  # of the distance to where the cameras look, without points


@dataclass(frozen=True)
class Geometry:
    """A requested camera beside the photographs."""

    views: Views
    rays: Rays
    hints: Tensor  # [1, 2, H/4, W/4]
    height: int  # of the picture, without what its sides are enlarged by
    width: int

    def to(self, device: torch.device | str) -> Geometry:
        """Return the same on a device."""
        return Geometry(self.views.to(device), self.rays.to(device), self.hints.to(device), self.height, self.width)


def geometry_of(camera: Pinhole, cameras: Sequence[Pinhole], points: Tensor | None) -> Geometry:
    """Place a requested camera beside those of photographs.

    Args:
        camera: that is asked for.
        cameras: of the photographs, at the sizes of their pictures.
        points: [P, 3] on surfaces, world; None: nothing is known of them.
    """
    near, far = depth_range(camera, cameras, points)
    sizes = [(one.height + -one.height % SIDE, one.width + -one.width % SIDE) for one in (camera, *cameras)]
    views = views_of([camera, *cameras], sizes, near, far)
    hints = torch.zeros(camera.height, camera.width, 1) if points is None else point_depth(points, camera)
    height, width = sizes[0]
    quarter = (height // 4, width // 4)
    rays = _rays(camera, cameras, quarter, near, far)
    return Geometry(views, rays, hint_maps(hints, near, far, quarter), camera.height, camera.width)


def depth_range(camera: Pinhole, cameras: Sequence[Pinhole], points: Tensor | None) -> tuple[float, float]:
    """Nearest and farthest depth at which surfaces are searched; arguments as of ``geometry_of``."""
    if points is not None and len(points):
        inside, _, z = in_view(points, camera)
        if int(inside.sum()) >= _MIN_POINTS:
            z = z[inside].double()
            return _NEAR * float(z.quantile(0.01)), _FAR * float(z.quantile(0.99))
    every = [camera, *cameras]
    positions = torch.stack([one.position.cpu().double() for one in every])
    spacing = float((positions - positions[0]).norm(dim=1).max()) or 1.0
    ahead = float((look_at_point(every) - positions[0]) @ camera.forward.cpu().double())
    distance = max(ahead, spacing)  # cameras that look apart look at nothing in common
    return _AROUND[0] * distance, _AROUND[1] * distance


def _rays(camera: Pinhole, cameras: Sequence[Pinhole], quarter: tuple[int, int], near: float, far: float) -> Rays:
    height, width = quarter
    intrinsics = camera.intrinsics.cpu().double()
    columns = (4 * (torch.arange(width).double() + 0.5) - intrinsics[0, 2]) / intrinsics[0, 0]
    rows = (4 * (torch.arange(height).double() + 0.5) - intrinsics[1, 2]) / intrinsics[1, 1]
    slopes = torch.stack(
        [columns.expand(height, -1), rows[:, None].expand(-1, width), torch.ones(height, width).double()]
    )
    middle = 0.5 * (1 / near + 1 / far)
    inverse = camera.world_to_camera.cpu().double()
    centres = [middle * (inverse[:3, :3] @ one.position.cpu().double() + inverse[:3, 3]) for one in cameras]
    return Rays(slopes.float(), torch.stack(centres).float(), torch.tensor(middle).float())


def padded(image: Tensor) -> Tensor:
    """Picture or mask [1, C, h, w] of [H, W, C], its sides enlarged to multiples of what the network needs."""
    return pad_to_multiple(image.permute(2, 0, 1)[None].float(), SIDE)


def facts(found: Prediction) -> Tensor:
    """Stack what a prediction knows of itself, [1, 3, H, W]; see ``Seen.known``."""
    return torch.cat([torch.sigmoid(found.seen), found.log_scale, found.log_error], 1)


@dataclass(frozen=True)
class Seen:
    """Prediction of what a camera sees."""

    image: Tensor  # [H, W, 3] in [0, 1], float32
    confidence: Tensor  # [H, W, 1] in [0, 1]: that some photograph shows it, and that its colour is right
    visible: Tensor  # [H, W, 1] in [0, 1]: that some photograph shows it
    depth: Tensor  # [H, W, 1] along z
    known: Tensor  # [H, W, 3] chance that some photograph shows it, logarithms of the errors of depth and of colour
    hidden: Tensor  # [1, C, h, w] features at a quarter of the enlarged size


class Predictor:
    """The network with photographs of any sizes.

    Args:
        net: the network.
        device: where it lives.
    """

    def __init__(self, net: EpipolarNet, device: torch.device) -> None:
        self.net, self._device = net.eval().requires_grad_(False), device

    @torch.no_grad()
    def predict(self, photographs: Sequence[PosedImage], camera: Pinhole, points: Tensor | None = None) -> Seen:
        """Predict what a camera sees.

        Args:
            photographs: with cameras; their depth, if they bring any, says where surfaces are.
            camera: of the picture.
            points: [P, 3] on surfaces, world, besides.
        """
        known = [one.cpu() for one in (hinted_points(photographs, MAX_POINTS), points) if one is not None]
        small = [photograph.within(LONG_SIDE) for photograph in photographs]
        pictures = [padded(one.image).to(self._device) for one in small]
        masks = [None if one.mask is None else padded(one.mask > 0.5).to(self._device) for one in small]
        geometry = geometry_of(camera, [one.pose for one in small], torch.cat(known) if known else None)
        geometry = geometry.to(self._device)
        described = [self.net.describe(picture) for picture in pictures]
        found = self.net(pictures, described, geometry.views, geometry.rays, geometry.hints, masks)
        rows, columns = slice(geometry.height), slice(geometry.width)
        image, place, facts_known = (
            values[0, :, rows, columns].permute(1, 2, 0).float() for values in (found.image, found.place, facts(found))
        )
        visible, _, log_error = facts_known.split(1, -1)
        depth = geometry.views.depth(place[None]).squeeze(0)
        certainty = visible / (1 + (log_error.exp() / _TRUSTED) ** _SHARPNESS)
        confidence = ((certainty - _MIN_CERTAINTY) / (_FULL_CERTAINTY - _MIN_CERTAINTY)).clamp(0, 1)
        return Seen(image.clamp(0, 1), confidence, visible, depth, facts_known, found.hidden.float())
