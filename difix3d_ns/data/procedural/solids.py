"""Closed solids, whose inside, distance and silhouette are known exactly: boxes, spheres, cylinders, capsules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from difix3d_ns.data.procedural.ray_scene import SceneBuilder


class Solid(ABC):
    """A closed solid; lengths in metres, z up."""

    @abstractmethod
    def distance(self, points: np.ndarray) -> np.ndarray:
        """Compute the signed distance [N] of points [N, 3] to the surface, negative inside."""

    @abstractmethod
    def build(self, b: SceneBuilder, texture: int, *, metres: float, gloss: float) -> None:
        """Add the surface to a scene."""

    @abstractmethod
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner [2, 3] of the box around it, exactly."""

    @abstractmethod
    def surface_point(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a point [3] on the surface, not evenly."""


@dataclass(frozen=True)
class Box(Solid):
    """An upright box, turned by ``yaw`` about z."""

    centre: ArrayLike  # [3]
    size: ArrayLike  # [3]
    yaw: float = 0.0

    def distance(self, points: np.ndarray) -> np.ndarray:
        apart = np.abs((points - np.asarray(self.centre)) @ self._turn()) - np.asarray(self.size) / 2
        return np.linalg.norm(np.maximum(apart, 0), axis=1) + np.minimum(apart.max(1), 0)

    def build(self, b: SceneBuilder, texture: int, *, metres: float, gloss: float) -> None:
        b.box(self.centre, self.size, texture, yaw=self.yaw, metres=metres, gloss=gloss)

    def bounds(self) -> np.ndarray:
        half = np.abs(self._turn()) @ np.asarray(self.size) / 2
        return np.asarray(self.centre) + np.stack([-half, half])

    def surface_point(self, rng: np.random.Generator) -> np.ndarray:
        place = rng.uniform(-0.5, 0.5, 3)
        place[rng.integers(3)] = rng.choice([-0.5, 0.5])
        moved: np.ndarray = np.asarray(self.centre) + self._turn() @ (place * np.asarray(self.size))
        return moved

    def _turn(self) -> np.ndarray:  # [3, 3] from the box's axes to the world's
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


@dataclass(frozen=True)
class Sphere(Solid):
    """A ball."""

    centre: ArrayLike  # [3]
    radius: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points - np.asarray(self.centre), axis=1) - self.radius

    def build(self, b: SceneBuilder, texture: int, *, metres: float, gloss: float) -> None:
        b.sphere(self.centre, self.radius, texture, metres=metres, gloss=gloss)

    def bounds(self) -> np.ndarray:
        return np.asarray(self.centre) + self.radius * np.array([[-1.0], [1.0]])

    def surface_point(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(self.centre) + self.radius * _direction(rng)


@dataclass(frozen=True)
class _Rod(Solid):
    """Solid around the axis between two points."""

    base: ArrayLike  # [3]
    top: ArrayLike  # [3]
    radius: float

    def surface_point(self, rng: np.random.Generator) -> np.ndarray:
        base, top = np.asarray(self.base, float), np.asarray(self.top, float)
        return base + rng.random() * (top - base) + self.radius * _aside(rng, top - base)


@dataclass(frozen=True)
class Cylinder(_Rod):
    """A round rod between two points, cut off straight."""

    def bounds(self) -> np.ndarray:
        ends = np.stack([self.base, self.top]).astype(float)
        way = ends[1] - ends[0]
        reach = self.radius * np.sqrt(np.maximum(1 - (way / np.linalg.norm(way)) ** 2, 0))
        return np.stack([ends.min(0) - reach, ends.max(0) + reach])

    def distance(self, points: np.ndarray) -> np.ndarray:
        along, aside, length = _along(points, self.base, self.top)
        apart = np.stack([aside - self.radius, np.abs(along - length / 2) - length / 2], 1)
        return np.linalg.norm(np.maximum(apart, 0), axis=1) + np.minimum(apart.max(1), 0)

    def build(self, b: SceneBuilder, texture: int, *, metres: float, gloss: float) -> None:
        b.cylinder(self.base, self.top, self.radius, texture, metres=metres, gloss=gloss)


@dataclass(frozen=True)
class Capsule(_Rod):
    """All that is within a radius of a line segment."""

    def bounds(self) -> np.ndarray:
        ends = np.stack([self.base, self.top]).astype(float)
        return np.stack([ends.min(0) - self.radius, ends.max(0) + self.radius])

    def distance(self, points: np.ndarray) -> np.ndarray:
        along, aside, length = _along(points, self.base, self.top)
        return np.hypot(along - np.clip(along, 0, length), aside) - self.radius

    def build(self, b: SceneBuilder, texture: int, *, metres: float, gloss: float) -> None:
        b.cylinder(self.base, self.top, self.radius, texture, metres=metres, gloss=gloss, capped=False)
        for end in (self.base, self.top):
            b.sphere(end, self.radius, texture, metres=metres, gloss=gloss)


@dataclass(frozen=True)
class Union(Solid):
    """Solids that may overlap; what is inside one of them is inside.

    The distance is exact outside, and inside unless the nearest point of a part's surface lies inside another part:
    then the surface is further away than it says.
    """

    parts: Sequence[Solid]

    def distance(self, points: np.ndarray) -> np.ndarray:
        distances: np.ndarray = np.min([part.distance(points) for part in self.parts], axis=0)
        return distances

    def build(self, b: SceneBuilder, texture: int, *, metres: float, gloss: float) -> None:
        for part in self.parts:
            part.build(b, texture, metres=metres, gloss=gloss)

    def bounds(self) -> np.ndarray:
        lows, highs = np.stack([part.bounds() for part in self.parts], 1)
        return np.stack([lows.min(0), highs.max(0)])

    def surface_point(self, rng: np.random.Generator) -> np.ndarray:
        while True:  # the union has a surface, so that one is found
            point = self.parts[int(rng.integers(len(self.parts)))].surface_point(rng)
            if self.distance(point[None])[0] > -1e-6:
                return point


def _along(points: np.ndarray, base: ArrayLike, top: ArrayLike) -> tuple[np.ndarray, np.ndarray, float]:
    """Place [N] of points along an axis from its base, their distance [N] from it, and its length."""
    start, way = np.asarray(base, float), np.asarray(top, float) - np.asarray(base, float)
    length = float(np.linalg.norm(way))
    along = (points - start) @ (way / length)
    return along, np.linalg.norm(points - start - along[:, None] * (way / length), axis=1), length


def _direction(rng: np.random.Generator) -> np.ndarray:
    way = rng.normal(size=3)
    unit: np.ndarray = way / np.linalg.norm(way)
    return unit


def _aside(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    """A unit vector at right angles to an axis."""
    way = np.cross(axis, _direction(rng))
    unit: np.ndarray = way / np.linalg.norm(way)
    return unit
