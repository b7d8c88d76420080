"""Procedural objects in the frame of orbits that are made of one photograph, seen from all of their cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from difix3d_ns.data.procedural import photograph_world, training_world
from difix3d_ns.data.procedural.dataset import View
from difix3d_ns.data.procedural.solids import Solid
from difix3d_ns.data.procedural.worlds import World
from difix3d_ns.geometry.object_frame import FOCAL, FRAMES, RADIUS, object_cameras
from difix3d_ns.geometry.pinhole import Pinhole

_STREAM = 47
_SMALL = 64  # pixels of the picture by which an object is centred
_SURFACE_POINTS = 1500
"""by which the box of an object is found"""


@dataclass(frozen=True)
class ObjectOrbit:
    """An object cut out before white, from all cameras of an orbit."""

    name: str
    cameras: list[Pinhole]
    images: list[Tensor]  # [S, S, 3] in [0, 1]
    masks: list[Tensor]  # [S, S, 1], 1 where the object is
    depths: list[Tensor]  # [S, S, 1] along z, 0 where it is not
    solid: Solid  # what it is, in metres
    to_solid: np.ndarray  # [4, 4] from the frame of the cameras to the solid's

    def distance(self, places: np.ndarray) -> np.ndarray:
        """Signed distance [N] of places [N, 3] in the frame to the surface, in its unit, negative inside."""
        scale = float(np.linalg.norm(self.to_solid[:3, 0]))
        return self.solid.distance(places @ self.to_solid[:3, :3].T + self.to_solid[:3, 3]) / scale


def object_orbit(
    seed: int, side: int, elevation: float = 30.0, frames: int = FRAMES, filled: float | None = None
) -> ObjectOrbit:
    """Photograph the object of a seed in the frame of ``geometry.object_frame``, from an azimuth drawn for it.

    Args:
        seed: of the object.
        side: of the square pictures, pixels.
        elevation: degrees.
        frames: of the orbit.
        filled: moves and scales the object so that in the first picture it is in the middle and its longer side takes
            this share of the picture, as ``io.cut_objects.centred`` cuts one; None: its box is in the middle, and 1.
    """
    world = training_world(seed, "object")
    rng = np.random.default_rng([_STREAM, seed])
    middle, size, azimuth = *_box(world, rng), float(rng.uniform(0, 360))
    cameras, turned = (object_cameras(elevation, side, frames, start) for start in (0.0, azimuth))
    seen = replace(world, field_of_view=2 * np.arctan(0.5 / FOCAL))
    if filled is not None:
        (first,) = _photographed(seen, rng, _SMALL, turned[:1], middle, size)
        rows, columns = (first.depth[..., 0] > 0).numpy().nonzero()
        ends = np.array([[columns.min(), columns.max() + 1], [rows.min(), rows.max() + 1]]) / _SMALL
        aside = (ends.mean(1) - 0.5) / FOCAL * RADIUS * size  # metres to the right and down
        middle = middle + turned[0].camera_to_world[:3, :2].numpy() @ aside
        size = size * float(np.ptp(ends, axis=1).max()) / filled
    views = _photographed(seen, rng, side, turned, middle, size)
    masks = [(view.depth > 0).float() for view in views]
    images = [view.image * mask + 1 - mask for view, mask in zip(views, masks, strict=True)]
    depths = [view.depth / size for view in views]
    assert world.solid is not None
    turn = np.radians(azimuth)
    to_solid = np.eye(4)
    to_solid[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    to_solid[:3, :3] *= size
    to_solid[:3, 3] = middle
    return ObjectOrbit(f"object_{seed:05d}", cameras, images, masks, depths, world.solid, to_solid)


def _photographed(
    world: World, rng: np.random.Generator, side: int, cameras: Sequence[Pinhole], middle: np.ndarray, size: float
) -> list[View]:
    """Photograph a world from cameras around a place in it, whose unit is so many metres."""
    poses = []
    for camera in cameras:
        pose = camera.camera_to_world.numpy().copy()
        pose[:3, 3] = middle + size * pose[:3, 3]
        poses.append((pose, True))
    return photograph_world(world, rng, width=side, height=side, poses=poses, label=None)


def _box(world: World, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Centre [3] and longest side of an object's box, in metres."""
    assert world.solid is not None
    surface = np.stack([world.solid.surface_point(rng) for _ in range(_SURFACE_POINTS)])
    low, high = surface.min(0), surface.max(0)
    return (low + high) / 2, float((high - low).max())


def photograph(orbit: ObjectOrbit, frame: int = 0) -> Tensor:
    """One of an orbit's pictures with its silhouette, [S, S, 4] in [0, 1]."""
    return torch.cat([orbit.images[frame], orbit.masks[frame]], -1)
