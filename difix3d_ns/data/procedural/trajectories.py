"""Camera paths as people walk them, and the sparse training and held-out views on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from difix3d_ns.geometry.pinhole import Pinhole


@dataclass(frozen=True)
class CameraPath:
    """Positions and targets of a camera by a path parameter in [0, 1] (training views span it)."""

    position: Callable[[float], np.ndarray]  # [3], metres
    target: Callable[[float], np.ndarray]  # [3], metres
    closed: bool = False  # 360 degrees: 0 and 1 are the same place

    def pose(self, s: float, shift=(0.0, 0.0), aim=(0.0, 0.0)) -> np.ndarray:
        """Camera-to-world [4, 4], OpenCV axes, moved ``shift`` metres right and up and aimed ``aim`` metres aside."""
        pose = look_at(self.position(s), self.target(s))
        right, up = pose[:3, 0], -pose[:3, 1]
        moved = pose[:3, 3] + right * shift[0] + up * shift[1]
        return look_at(moved, self.target(s) + right * aim[0] + up * aim[1])


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Camera-to-world [4, 4] with OpenCV axes and a level horizon (z up)."""
    forward = np.asarray(target, float) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = position
    return pose


def arc(target, radius: float, start: float, end: float, height: float) -> CameraPath:
    """Around a target from one azimuth to another (radians); ``height`` above the floor."""
    target = np.asarray(target, float)

    def position(s: float) -> np.ndarray:
        a = start + (end - start) * s
        return np.array([target[0] + radius * np.cos(a), target[1] + radius * np.sin(a), height])

    return CameraPath(position, lambda s: target, closed=abs(end - start) > 6.2)


def walk(start, end, look_from, look_to) -> CameraPath:
    """Along a line while the eyes move along another."""
    start, end, a, b = (np.asarray(v, float) for v in (start, end, look_from, look_to))
    return CameraPath(lambda s: start + (end - start) * s, lambda s: a + (b - a) * s)


def forward_facing(centre, target, width: float, height: float) -> CameraPath:
    """A flat zigzag in front of the target, as hand-held forward-facing captures are."""
    pose = look_at(np.asarray(centre, float), np.asarray(target, float))
    right, up = pose[:3, 0], -pose[:3, 1]

    def position(s: float) -> np.ndarray:
        return pose[:3, 3] + right * width * (s - 0.5) + up * height * 0.5 * np.sin(2 * np.pi * 1.5 * s)

    return CameraPath(position, lambda s: np.asarray(target, float))


def views_along(
    path: CameraPath, train: int, test: int, rng: np.random.Generator, spread: float, beyond: float = 0.2
) -> list[tuple[np.ndarray, bool]]:
    """Poses in the order of the path, each with whether it is a training view.

    Training views are evenly spaced with the jitter of a hand; held-out views lie between them and, a share of
    ``beyond``, a bit beyond the ends, above or below. ``spread``: metres of that jitter.
    """
    gap = 1 / train if path.closed else 1 / (train - 1)
    places = [(i * gap + rng.normal(0, 0.06) * gap, True, 1.0) for i in range(train)]
    outside = math.ceil(test * beyond)
    between = test - outside
    gaps = train if path.closed else train - 1
    for i in range(between):
        number = (i * gaps) // between if between < gaps else i % gaps
        places.append(((number + rng.uniform(0.3, 0.7)) * gap, False, 1.0))
    for i in range(outside):
        off_path = path.closed or i % 3 == 2
        s = rng.random() if off_path else (-0.45 * gap if i % 3 == 0 else 1 + 0.45 * gap)
        places.append((s, False, 2.0 if off_path else 1.0))
    views = []
    for s, training, reach in sorted(places, key=lambda p: p[0]):
        shift, aim = rng.normal(0, spread * reach, 2), rng.normal(0, spread, 2)
        views.append((path.pose(s, shift, aim), training))
    return views


def pinhole(pose: np.ndarray, width: int, height: int, field_of_view: float) -> Pinhole:
    """A camera with its principal point in the middle; ``field_of_view`` in radians across the longer side."""
    focal = 0.5 * max(width, height) / np.tan(field_of_view / 2)
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    return Pinhole(torch.from_numpy(pose).float(), intrinsics, width, height)
