"""A bounding volume hierarchy over a scene's primitives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from difix3d_ns.data.procedural.ray_scene import CYLINDER, SPHERE, Scene

_LEAF_SIZE = 4


@dataclass(frozen=True)
class BoundingVolumes:
    """A binary tree of boxes, nodes in depth-first order, the root first."""

    bounds: np.ndarray  # [M, 6] float32: lower and upper corner
    children: np.ndarray  # [M, 4] int32: leaf = (first in ``order``, count, 0, 0), inner = (left, 0, right, axis)
    order: np.ndarray  # [N] int32, primitives leaf by leaf

    @classmethod
    def build(cls, scene: Scene) -> BoundingVolumes:
        """Split at the median of the longest side, down to four primitives per leaf."""
        lower, upper = _boxes(scene)
        centres = (lower + upper) / 2
        bounds: list[np.ndarray] = []
        children: list[list[int]] = []
        order: list[int] = []

        def split(items: np.ndarray) -> int:
            node = len(bounds)
            bounds.append(np.concatenate([lower[items].min(0) - 1e-4, upper[items].max(0) + 1e-4]))
            children.append([len(order), len(items), 0, 0])
            if len(items) <= _LEAF_SIZE:
                order.extend(items.tolist())
                return node
            axis = int(np.argmax(np.ptp(centres[items], axis=0)))
            items = items[np.argsort(centres[items, axis], kind="stable")]
            left = split(items[: len(items) // 2])
            right = split(items[len(items) // 2 :])
            children[node] = [left, 0, right, axis]
            return node

        split(np.arange(len(scene.kinds)))
        return cls(np.array(bounds, np.float32), np.array(children, np.int32), np.array(order, np.int32))


def _boxes(scene: Scene) -> tuple[np.ndarray, np.ndarray]:  # 2 x [N, 3]
    s = scene.shapes.astype(np.float64)
    u = s[:, 3:6] * s[:, 12:13] ** 2
    v = s[:, 6:9] * s[:, 13:14] ** 2
    corners = s[:, None, :3] + np.stack([0 * u, u, v, u + v], 1)
    lower, upper = corners.min(1), corners.max(1)
    ball = scene.kinds == SPHERE
    lower[ball], upper[ball] = s[ball, :3] - s[ball, 3:4], s[ball, :3] + s[ball, 3:4]
    tube = scene.kinds == CYLINDER
    ends = np.stack([s[tube, :3], s[tube, :3] + s[tube, 3:6] * s[tube, 9:10]], 1)
    reach = s[tube, 10:11] * np.sqrt(np.clip(1 - s[tube, 3:6] ** 2, 0, 1))
    lower[tube], upper[tube] = ends.min(1) - reach, ends.max(1) + reach
    return lower, upper
