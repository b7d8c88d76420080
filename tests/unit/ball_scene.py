"""A ball whose surface, colours and visibility are known exactly, as a splat that is perfect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.views.protocols import Render

RADIUS = 1.0
DISTANCE = 4.0


def camera_at(azimuth: float, elevation: float = 0.3, side: int = 96) -> Pinhole:
    """A camera that looks at the ball from angles in radians."""
    a, e = torch.tensor(azimuth).double(), torch.tensor(elevation).double()
    position = DISTANCE * torch.stack([a.cos() * e.cos(), a.sin() * e.cos(), e.sin()])
    forward = F.normalize(-position, dim=0)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0, 0, 1.0]).double()), dim=0)
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    pose[:3, 3] = position
    lens = torch.tensor([[1.6 * side, 0, side / 2], [0, 1.6 * side, side / 2], [0, 0, 1]])
    return Pinhole(pose, lens, side, side)


def colour_of(points: Tensor) -> Tensor:
    """Colours [..., 3] of points on the ball, smooth."""
    return 0.5 + 0.4 * points / RADIUS


class Ball:
    """The renderer of a splat that is the ball."""

    def render(self, camera: Pinhole) -> Render:
        depth, alpha = self.surface_depth(camera)
        return Render(colour_of(unproject(depth, camera)) * alpha, alpha)

    def surface_depth(self, camera: Pinhole) -> tuple[Tensor, Tensor]:
        ends = unproject(torch.ones(camera.height, camera.width, 1), camera)
        eye, ways = camera.position, ends - camera.position
        a, b = (ways**2).sum(-1), (ways * eye).sum(-1)
        inside = b**2 - a * ((eye**2).sum() - RADIUS**2)
        depth = ((-b - inside.clamp_min(0).sqrt()) / a).where(inside > 0, 0.0)[..., None]
        return depth, (depth > 0).float()


class BallScene:
    """Photographs of the ball; ``seen``: what of them is used, if not all."""

    def __init__(self, cameras: Sequence[Pinhole], masks: Sequence[Tensor | None] | None = None) -> None:
        self._cameras, self._masks = list(cameras), masks or [None] * len(cameras)
        self.made: set[int] = set()
        """numbers of photographs that are none"""

    def __len__(self) -> int:
        return len(self._cameras)

    def generated(self, index: int) -> bool:
        return index in self.made

    def camera(self, index: int) -> Pinhole:
        return self._cameras[index]

    def mask(self, index: int) -> Tensor | None:
        return self._masks[index]

    def points(self) -> None:
        return None

    def photo(self, index: int) -> PosedImage:
        return PosedImage(Ball().render(self._cameras[index]).image, self._cameras[index], mask=self._masks[index])
