"""Cameras around what other cameras look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.stats import qmc
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import assemble, with_poses

_REACH = 3.0  # spacings ahead of cameras with parallel axes
_MIN_AHEAD = 0.1  # spacings between a camera and the point it looks at
_ELEVATION = math.radians(10)  # beyond those of the cameras, below and above
_AZIMUTH = math.radians(15)  # beyond the outermost cameras
_MAX_GAP = math.radians(150)  # between neighbouring azimuths: wider, they are no full circle
_MIN_TURNED = 0.1  # of horizons, as a singular value: below, they tell nothing
_MIN_TURN = math.radians(4)  # from a camera: nearer, a view repeats it
_CONVERGING = 0.25  # of the distance: how far from the point the axes may pass
_MIN_SPREAD = math.radians(15)  # between the outermost cameras, seen from the point
_UPRIGHT = math.radians(75)  # steepest camera on the hemisphere
_WAVES = 8  # of a ring, around the point
_STIFFNESS = 1e-3
"""of a ring: what its bends cost, times the fourth power of their number around the point, against its squared distance
from the cameras; a ring of four bends keeps four fifths of them"""
_CIRCLE_ELEVATION = math.radians(20)  # of cameras around a box
_CIRCLE_VIEW = math.radians(40)  # their field of view
_MARGIN = 1.05  # of their picture, around the box


def look_at_point(cameras: Sequence[Pinhole]) -> Tensor:
    """Return the point [3] nearest to all optical axes (float64, world); before the cameras if they are parallel."""
    positions, ways = _axes(cameras)
    spacing = float((positions - positions.mean(0)).norm(dim=1).max())
    before = (positions + (_REACH * spacing or 1.0) * ways).mean(0)
    if spacing == 0:
        return before
    away = torch.eye(3, dtype=torch.float64) - ways[:, :, None] * ways[:, None]  # [N, 3, 3]
    small = 1e-6 * len(cameras)  # leaves a solution where the axes are parallel
    total = away.sum(0) + small * torch.eye(3, dtype=torch.float64)
    point: Tensor = torch.linalg.solve(total, torch.einsum("nij,nj->i", away, positions) + small * before)
    ahead = ((point - positions) * ways).sum(1)
    return point if bool((ahead > _MIN_AHEAD * spacing).all()) else before


def converging(cameras: Sequence[Pinhole]) -> bool:
    """Return whether cameras stand around something: their axes pass near one point, from clearly different sides."""
    if len(cameras) < 2:
        return False
    positions, ways = _axes(cameras)
    point = look_at_point(cameras)
    toward = point - positions
    distance = toward.norm(dim=1)
    ahead = (toward * ways).sum(1)
    aside = (toward - ahead[:, None] * ways).norm(dim=1)
    seen = F.normalize(toward, dim=1)
    spread = float((seen @ seen.T).clamp(-1, 1).arccos().max())
    return bool((ahead > 0).all()) and bool((aside < _CONVERGING * distance).all()) and spread > _MIN_SPREAD


def hemisphere(cameras: Sequence[Pinhole], count: int) -> list[Pinhole]:
    """Place cameras on the part of a hemisphere that others stand on, looking where they look.

    Args:
        cameras: that stand around something; see ``converging``.
        count: how many, spread evenly (Halton).

    Returns:
        Cameras with azimuths and elevations somewhat beyond those of ``cameras``, and with radius, intrinsics and size
        between and of the nearest ones; none repeats one of them, so that there may be fewer.

    Raises:
        ValueError: there is no such place.
    """
    around = _Around.of(cameras)
    start, span = _covered(around.azimuths)
    if span < 2 * math.pi:
        start, span = start - _AZIMUTH, span + 2 * _AZIMUTH
    offsets, radii = around.offsets, around.radii
    low = float(around.elevations.min()) - _ELEVATION
    high = min(float(around.elevations.max()) + _ELEVATION, _UPRIGHT)
    places = torch.from_numpy(qmc.Halton(2, rng=0).random(4 * count + 16))  # some repeat a camera
    found: list[Pinhole] = []
    for along, above in places.double().tolist():
        way = around.way(start + span * along, low + (high - low) * above)
        turned = (F.normalize(offsets, dim=1) @ way).clamp(-1, 1).arccos()
        nearest = int(turned.argmin())
        if float(turned[nearest]) < _MIN_TURN:
            continue
        share = torch.softmax(-turned / _AZIMUTH, 0)
        found.append(around.camera(cameras[nearest], float((share * radii).sum()) * way))
        if len(found) == count:
            break
    if not found:
        raise ValueError("every place around what the cameras look at is photographed already")
    return found


def surrounding(cameras: Sequence[Pinhole]) -> bool:
    """Return whether cameras that stand around something do so on all sides of it."""
    return _covered(_Around.of(cameras).azimuths)[1] == 2 * math.pi


def orbit(cameras: Sequence[Pinhole], count: int) -> list[Pinhole]:
    """Place cameras once around what others look at, on the smoothest ring through or near these.

    Elevation and distance change smoothly with the azimuth and stay between those of ``cameras``; the side where none
    of them stands is passed as well.

    Args:
        cameras: that stand around something; see ``converging``.
        count: how many; as many steps of one size lead once around, so that the last one is not the first again.

    Returns:
        Level cameras that look at the point, from the first camera on, each with the intrinsics and size of the nearest
        one of ``cameras``.
    """
    ring = _Ring.through(cameras)
    first = float(ring.around.azimuths[0])
    return [ring.camera(first + 2 * math.pi * number / count) for number in range(count)]


def swing(cameras: Sequence[Pinhole], count: int) -> list[Pinhole]:
    """Place cameras there and back along the arc that others stand on, on the ring of ``orbit``; slow at both ends.

    Args:
        cameras: that stand around something, though not on all sides; see ``converging``.
        count: how many; the last one is a step before the first.
    """
    ring = _Ring.through(cameras)
    start, span = _covered(ring.around.azimuths)
    shares = [(1 - math.cos(2 * math.pi * number / count)) / 2 for number in range(count)]
    return [ring.camera(start + span * share) for share in shares]


def circle(low: Tensor, high: Tensor, count: int, width: int, height: int) -> list[Pinhole]:
    """Place cameras once around a box, from somewhat above, with all of it in the picture.

    Args:
        low, high: [3] corners of the box; z points up.
        count: how many.
        width, height: of their pictures.
    """
    corners = torch.stack(torch.meshgrid(*torch.stack([low, high], 1).double(), indexing="ij"), -1).reshape(-1, 3)
    middle = corners.mean(0)
    focal = min(width, height) / 2 / math.tan(_CIRCLE_VIEW / 2)
    lens = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    level, above = math.cos(_CIRCLE_ELEVATION), math.sin(_CIRCLE_ELEVATION)
    turns = [2 * math.pi * number / count for number in range(count)]
    ways = [torch.tensor([level * math.cos(turn), level * math.sin(turn), above]).double() for turn in turns]
    rotations = torch.stack([_looking(way, torch.zeros(3).double(), up)[:3, :3] for way in ways])
    seen = (corners - middle) @ rotations  # [count, 8, 3]
    aside = seen[..., :2].abs() * focal / torch.tensor([width / 2, height / 2])
    distance = _MARGIN * float((aside.amax(-1) - seen[..., 2]).max()) or 1.0
    positions = middle + distance * torch.stack(ways)
    return [Pinhole(pose, lens, width, height) for pose in assemble(rotations, positions).float()]


def elevation_of(cameras: Sequence[Pinhole]) -> float:
    """Return the mean elevation, in degrees, of cameras above the horizon of the point they look at."""
    return math.degrees(float(_Around.of(cameras).elevations.mean()))


@dataclass(frozen=True)
class _Around:
    """Cameras as seen from the point they look at."""

    point: Tensor  # [3]
    up: Tensor  # [3], unit length, as the other two axes
    east: Tensor
    north: Tensor
    offsets: Tensor  # [N, 3] from the point
    radii: Tensor  # [N]
    azimuths: Tensor  # [N] radians, from -pi to pi
    elevations: Tensor  # [N] radians

    @classmethod
    def of(cls, cameras: Sequence[Pinhole]) -> _Around:
        """Measure cameras."""
        point = look_at_point(cameras)
        positions, _ = _axes(cameras)
        up = _upward(torch.stack([camera.camera_to_world.cpu().double() for camera in cameras]))
        offsets = positions - point
        radii = offsets.norm(dim=1)
        elevations = (offsets @ up / radii).clamp(-1, 1).arcsin()
        flat = offsets - (offsets @ up)[:, None] * up
        east = F.normalize(flat[int(flat.norm(dim=1).argmax())], dim=0)
        north = torch.linalg.cross(up, east)
        azimuths = torch.atan2(flat @ north, flat @ east)
        return cls(point, up, east, north, offsets, radii, azimuths, elevations)

    def way(self, azimuth: float, elevation: float) -> Tensor:
        """Direction [3] from the point, unit length."""
        level = math.cos(azimuth) * self.east + math.sin(azimuth) * self.north
        return math.cos(elevation) * level + math.sin(elevation) * self.up

    def camera(self, lens: Pinhole, offset: Tensor) -> Pinhole:
        """Level camera at an offset [3] from the point, looking at it, with the intrinsics and size of another one."""
        return with_poses([lens], _looking(self.point + offset, self.point, self.up)[None])[0]


@dataclass(frozen=True)
class _Ring:
    """The smoothest closed way near cameras: each azimuth has one elevation and one distance."""

    around: _Around
    cameras: Sequence[Pinhole]
    waves: Tensor  # [2 K + 1, 2] of elevation and distance

    @classmethod
    def through(cls, cameras: Sequence[Pinhole]) -> _Ring:
        """Fit a ring to cameras: least squares of a short Fourier series whose bends cost something."""
        around = _Around.of(cameras)
        basis = _waves(around.azimuths)
        values = torch.stack([around.elevations, around.radii], 1)
        order = torch.arange(basis.shape[1], dtype=torch.float64).add(1).div(2, rounding_mode="floor")  # 0 1 1 2 2
        cost = _STIFFNESS * len(cameras) * torch.diag(order**4)
        middle = values.mean(0)
        waves = torch.linalg.solve(basis.T @ basis + cost, basis.T @ (values - middle))
        waves[0] += middle
        return cls(around, cameras, waves)

    def camera(self, azimuth: float) -> Pinhole:
        """Camera at an azimuth, as the nearest camera takes pictures."""
        around = self.around
        elevation, radius = (_waves(torch.tensor([azimuth], dtype=torch.float64)) @ self.waves)[0].tolist()
        steepest = min(float(around.elevations.max()), _UPRIGHT)
        elevation = min(max(elevation, float(around.elevations.min()), -_UPRIGHT), steepest)
        radius = min(max(radius, float(around.radii.min())), float(around.radii.max()))
        offset = radius * around.way(azimuth, elevation)
        nearest = int((around.offsets - offset).norm(dim=1).argmin())
        return around.camera(self.cameras[nearest], offset)


def _waves(azimuths: Tensor) -> Tensor:
    """Values [N, 2 K + 1] of the waves of a ring: constant, cosine and sine of one turn, of two, ..."""
    turns = azimuths[:, None] * torch.arange(1, _WAVES + 1, dtype=torch.float64)
    pairs = torch.stack([turns.cos(), turns.sin()], -1).flatten(1)
    return torch.cat([torch.ones(len(azimuths), 1, dtype=torch.float64), pairs], 1)


def _axes(cameras: Sequence[Pinhole]) -> tuple[Tensor, Tensor]:
    """Positions and viewing directions, [N, 3] float64 on the CPU."""
    positions = torch.stack([camera.position.cpu().double() for camera in cameras])
    return positions, F.normalize(torch.stack([camera.forward.cpu().double() for camera in cameras]), dim=1)


def _upward(poses: Tensor) -> Tensor:
    """Return the direction [3] at right angles to the horizons of cameras [N, 4, 4], on the side of their tops."""
    mean = F.normalize(-poses[:, :3, 1].mean(0), dim=0)
    _, sizes, axes = torch.linalg.svd(poses[:, :3, 0])
    if len(poses) < 2 or float(sizes[1]) < _MIN_TURNED:
        return mean
    return -axes[-1] if float(axes[-1] @ mean) < 0 else axes[-1]


def _covered(azimuths: Tensor) -> tuple[float, float]:
    """Start and length of the arc that holds all azimuths; a full circle if no gap is wide."""
    order = azimuths.sort().values
    gaps = torch.cat([order[1:], order[:1] + 2 * math.pi]) - order
    widest = int(gaps.argmax())
    span = 2 * math.pi - float(gaps[widest])
    first = float(order[(widest + 1) % len(order)])
    if float(gaps[widest]) <= _MAX_GAP:
        return first, 2 * math.pi
    return first, span


def _looking(position: Tensor, point: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world [4, 4], OpenCV axes, of a level camera that looks at a point."""
    forward = F.normalize(point - position, dim=0)
    right = F.normalize(torch.linalg.cross(forward, up), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    return assemble(rotation[None], position[None])[0]
