"""Cameras around what other cameras look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def hemisphere(cameras: Sequence[Pinhole], count: int, seed: int = 0) -> list[Pinhole]:
    """Place cameras on the part of a hemisphere that others stand on, looking where they look.

    Args:
        cameras: that stand around something; see ``converging``.
        count: how many.
        seed: of the places, which are spread evenly (Halton).

    Returns:
        Cameras with azimuths and elevations somewhat beyond those of ``cameras``, and with radius, intrinsics and size
        between and of the nearest ones; none repeats one of them, so that there may be fewer.

    Raises:
        ValueError: there is no such place.
    """
    point = look_at_point(cameras)
    positions, _ = _axes(cameras)
    poses = torch.stack([camera.camera_to_world.cpu().double() for camera in cameras])
    up = _upward(poses)
    offsets = positions - point
    radii = offsets.norm(dim=1)
    elevations = (offsets @ up / radii).clamp(-1, 1).arcsin()
    flat = offsets - (offsets @ up)[:, None] * up
    east = F.normalize(flat[int(flat.norm(dim=1).argmax())], dim=0)
    north = torch.linalg.cross(up, east)
    azimuths = torch.atan2(flat @ north, flat @ east)
    start, span = _covered(azimuths)
    low = float(elevations.min()) - _ELEVATION
    high = min(float(elevations.max()) + _ELEVATION, _UPRIGHT)
    places = torch.from_numpy(qmc.Halton(2, rng=seed).random(4 * count + 16))  # some repeat a camera
    found: list[Pinhole] = []
    for along, above in places.double().tolist():
        azimuth, elevation = start + span * along, low + (high - low) * above
        level = math.cos(azimuth) * east + math.sin(azimuth) * north
        way = math.cos(elevation) * level + math.sin(elevation) * up
        turned = (F.normalize(offsets, dim=1) @ way).clamp(-1, 1).arccos()
        nearest = int(turned.argmin())
        if float(turned[nearest]) < _MIN_TURN:
            continue
        share = torch.softmax(-turned / _AZIMUTH, 0)
        position = point + float((share * radii).sum()) * way
        found += with_poses([cameras[nearest]], _looking(position, point, up)[None])
        if len(found) == count:
            break
    if not found:
        raise ValueError("every place around what the cameras look at is photographed already")
    return found


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
    """Start and length of the arc that holds all azimuths, and somewhat more."""
    order = azimuths.sort().values
    gaps = torch.cat([order[1:], order[:1] + 2 * math.pi]) - order
    widest = int(gaps.argmax())
    span = 2 * math.pi - float(gaps[widest])
    first = float(order[(widest + 1) % len(order)])
    if float(gaps[widest]) <= _MAX_GAP:
        return first, 2 * math.pi
    return first - _AZIMUTH, span + 2 * _AZIMUTH


def _looking(position: Tensor, point: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world [4, 4], OpenCV axes, of a level camera that looks at a point."""
    forward = F.normalize(point - position, dim=0)
    right = F.normalize(torch.linalg.cross(forward, up), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    return assemble(rotation[None], position[None])[0]
