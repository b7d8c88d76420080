"""Panoramas put together from perspective pictures of the same place, blended where those overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole

HALF_FACE = math.radians(50.0)
"""Half the field of view of a face: those of a cube need 45 degrees, and 5 on each side are blended."""
_REACH = math.radians(75.0)
"""angle to a face's axis at which nothing reaches into it any more; its corners are at 59 degrees"""
_MARGIN = 2  # pixels around what is read of a face: bicubic interpolation reads two on each side
_BLOCK = 2**18  # pixels that are put together at once

_RIGHT, _DOWN, _AHEAD = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_LEFT, _UP, _BACK = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)
CUBE = torch.tensor(
    [
        [_RIGHT, _DOWN, _AHEAD],
        [_BACK, _DOWN, _RIGHT],
        [_LEFT, _DOWN, _BACK],
        [_AHEAD, _DOWN, _LEFT],
        [_RIGHT, _BACK, _DOWN],
        [_RIGHT, _AHEAD, _UP],
    ]
)
"""[6, 3, 3]: axes (right, down, forward) of each face in the axes of the panorama's camera"""


class Face(NamedTuple):
    """Camera of a perspective picture of a part of what a panorama shows."""

    face: int  # in CUBE
    camera: Pinhole


class _Part(NamedTuple):
    """Pixels of a panorama that a face shows."""

    face: int  # in CUBE
    pixels: Tensor  # [N] in the panorama, row by row
    places: Tensor  # [N, 2] where their rays meet the plane z = 1 of the face
    weights: Tensor  # [N] those of all faces sum to 1


@dataclass(frozen=True)
class Panorama:
    """Camera of a picture that no perspective camera takes.

    Axes are OpenCV's, as in ``Pinhole``. With ``x = (u - cx) / fx`` and ``y = (v - cy) / fy`` of a pixel's centre:
    equirectangular pictures have longitude ``pi x`` to the right and latitude ``pi y`` downwards; in fisheye ones the
    angle to the optical axis is ``|(x, y)|``, at most pi (equidistant, without distortion). So nerfstudio has them.
    """

    kind: Literal["equirectangular", "fisheye"]
    camera_to_world: Tensor  # [4, 4]
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def directions(self, rows: slice = slice(None)) -> Tensor:
        """Compute the rays of pixels.

        Args:
            rows: of the picture.

        Returns:
            [rows, W, 3] in the camera's axes, unit length.
        """
        like = {"dtype": torch.float64, "device": self.camera_to_world.device}
        x = (torch.arange(self.width, **like) + 0.5 - self.cx) / self.fx  # type: ignore[call-overload]
        y = (torch.arange(self.height, **like)[rows] + 0.5 - self.cy) / self.fy  # type: ignore[call-overload]
        y, x = torch.meshgrid(y, x, indexing="ij")
        if self.kind == "equirectangular":
            ray = [torch.sin(math.pi * x) * torch.cos(math.pi * y), torch.sin(math.pi * y)]
            ray.append(torch.cos(math.pi * x) * torch.cos(math.pi * y))
        else:
            angle = torch.hypot(x, y).clamp(max=math.pi)
            across = torch.sinc(angle / math.pi)
            ray = [x * across, y * across, torch.cos(angle)]
        return torch.stack(ray, -1).float()

    def faces(self) -> list[Face]:
        """Choose perspective cameras that together see all of it, as finely as it does, and no more than is needed."""
        focal = self._pixels_per_radian
        side = 2 * math.ceil(focal * math.tan(HALF_FACE))
        device = self.camera_to_world.device
        faces = []
        for part in self._parts():
            low, high = part.places.amin(0) * focal + side / 2, part.places.amax(0) * focal + side / 2
            left, top = (int(v) for v in low.floor().sub(_MARGIN).clamp(min=0))
            right, bottom = (int(v) for v in high.ceil().add(_MARGIN).clamp(max=side))
            centre = (side / 2 - left, side / 2 - top)
            intrinsics = torch.tensor([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]], device=device)
            pose = self.camera_to_world.clone()
            pose[:3, :3] = pose[:3, :3] @ CUBE[part.face].T.to(pose)
            faces.append(Face(part.face, Pinhole(pose, intrinsics, right - left, bottom - top)))
        return faces

    def blend(
        self, faces: Sequence[Face], pictures: Sequence[Tensor], mode: Literal["bicubic", "bilinear"] = "bicubic"
    ) -> Tensor:
        """Put the pictures of its faces together.

        Args:
            faces: those of ``faces()``.
            pictures: [H, W, C] of each, of its camera's size.
            mode: how they are interpolated.

        Returns:
            [H, W, C] of the panorama's size.
        """
        channels = pictures[0].shape[-1]
        result = pictures[0].new_zeros(self.height * self.width, channels)
        for part, face, picture in zip(self._parts(), faces, pictures, strict=True):
            for start in range(0, len(part.pixels), _BLOCK):
                block = slice(start, start + _BLOCK)
                values = _sampled(picture, face.camera, part.places[block], mode)
                result.index_add_(0, part.pixels[block], values * part.weights[block, None].to(values))
        return result.reshape(self.height, self.width, channels)

    @property
    def _pixels_per_radian(self) -> float:
        """Focal length of faces that show as much as it does."""
        return max(self.fx, self.fy) / (math.pi if self.kind == "equirectangular" else 1.0)

    def _parts(self) -> list[_Part]:
        """Divide its pixels among the faces; the same for all pictures of a path, so the last ones are kept."""
        numbers = (self.fx, self.fy, self.cx, self.cy, self.width, self.height)
        return _divided(self.kind, numbers, self.camera_to_world.device)


@lru_cache(maxsize=1)
def _divided(
    kind: Literal["equirectangular", "fisheye"], numbers: tuple[float, float, float, float, int, int], device: Any
) -> list[_Part]:
    panorama = Panorama(kind, torch.eye(4, device=device), *numbers)
    found: list[list[_Part]] = [[] for _ in CUBE]
    rows_at_once = max(1, _BLOCK // panorama.width)
    for start in range(0, panorama.height, rows_at_once):
        rays = panorama.directions(slice(start, start + rows_at_once)).reshape(-1, 3)
        parts = [_part(face, rays) for face in range(len(CUBE))]
        total = rays.new_zeros(len(rays))
        for part in parts:
            total.index_add_(0, part.pixels, part.weights)
        for part in parts:
            pixels = part.pixels + start * panorama.width
            found[part.face].append(_Part(part.face, pixels, part.places, part.weights / total[part.pixels]))
    whole = [
        _Part(face, *(torch.cat(each) for each in zip(*(part[1:] for part in blocks), strict=True)))
        for face, blocks in enumerate(found)
    ]
    return [part for part in whole if len(part.pixels)]


def _part(face: int, rays: Tensor) -> _Part:
    """Return which of the rays [N, 3] a face shows.

    Weights fall smoothly to 0 at its border, in step with the neighbour's growing ones.
    """
    axes = rays @ CUBE[face].T.to(rays)
    inside = axes[:, :2].abs().amax(-1) < math.tan(HALF_FACE) * axes[:, 2]
    pixels = inside.nonzero()[:, 0].int()
    places = axes[pixels, :2] / axes[pixels, 2:]
    ramps = ((HALF_FACE - places.abs().atan()) / (2 * HALF_FACE - math.pi / 2)).clamp(0, 1)
    return _Part(face, pixels, places, (ramps * ramps * (3 - 2 * ramps)).prod(-1))


def ray_lengths(camera: Pinhole) -> Tensor:
    """Distances [H, W, 1] of points one unit in front of a camera, along the rays of its pixels."""
    focal, centre = camera.intrinsics.diagonal()[:2], camera.intrinsics[:2, 2]
    like: dict[str, torch.device] = {"device": camera.intrinsics.device}
    x = (torch.arange(camera.width, **like) + 0.5 - centre[0]) / focal[0]  # type: ignore[call-overload]
    y = (torch.arange(camera.height, **like) + 0.5 - centre[1]) / focal[1]  # type: ignore[call-overload]
    return (1 + x[None] ** 2 + y[:, None] ** 2).sqrt()[..., None]


def nearest_in_faces(distance: float) -> float:
    """Return the least depth in a face of points at least ``distance`` away, as far as they may reach into it."""
    return distance * math.cos(_REACH)


def _sampled(picture: Tensor, camera: Pinhole, places: Tensor, mode: str) -> Tensor:  # [N, C]
    focal, centre = camera.intrinsics.diagonal()[:2], camera.intrinsics[:2, 2]
    size = torch.tensor([camera.width, camera.height], device=places.device)
    grid = 2 * (places * focal + centre) / size - 1
    values = torch.nn.functional.grid_sample(
        picture.permute(2, 0, 1)[None], grid[None, None].to(picture), mode, padding_mode="border", align_corners=False
    )
    return values[0, :, 0].T
