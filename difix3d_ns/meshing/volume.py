"""Depth of many views fused into a truncated signed distance (Curless and Levoy, SIGGRAPH 1996), and its surface."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import trimesh
from scipy.ndimage import binary_erosion

from difix3d_ns.meshing.depth_view import DepthView
from difix3d_ns.rasterization.jit import KERNELS, as_array, jit

TRUNCATION = 5.0
"""voxels on either side of a surface in which its distance counts"""
BYTES_PER_VOXEL = 22
"""of fusing and of finding the surface, at most"""
_NEAR = 1e-6
_AGREE = 0.02  # of the depth: neighbouring pixels nearer to each other are interpolated


@dataclass(frozen=True)
class Box:
    """A box along the axes of the world."""

    low: np.ndarray  # [3]
    high: np.ndarray  # [3]

    @property
    def size(self) -> np.ndarray:
        """Its sides [3]."""
        return self.high - self.low

    def shape(self, voxels: int) -> tuple[int, int, int]:
        """Count the voxels along each side, with so many along the longest."""
        counts = np.maximum(2, np.ceil(self.size / self.voxel(voxels)).astype(int) + 1)
        return int(counts[0]), int(counts[1]), int(counts[2])

    def voxel(self, voxels: int) -> float:
        """Return the side of a voxel, in scene units."""
        return float(self.size.max()) / voxels


class Volume:
    """Signed distance on a grid over a box; views are added one by one, and none is kept.

    Args:
        box: what is covered.
        voxels: along its longest side.
        truncation: see ``TRUNCATION``.
    """

    def __init__(self, box: Box, voxels: int, truncation: float = TRUNCATION) -> None:
        self._box, self.voxel = box, box.voxel(voxels)
        self._truncation = truncation * self.voxel
        shape = box.shape(voxels)
        self._distance = np.zeros(shape, np.float32)  # in truncations
        self._weight = np.zeros(shape, np.float32)

    def add(self, view: DepthView) -> None:
        """Average a view's distances in, by its weights."""
        camera = view.camera
        matrix = as_array(camera.intrinsics @ camera.world_to_camera[:3])
        maps = as_array(view.depth), as_array(view.slope), as_array(view.weight)
        with KERNELS:
            _fuse(
                self._distance,
                self._weight,
                self._box.low.astype(np.float32),
                np.float32(self.voxel),
                np.float32(self._truncation),
                matrix,
                *maps,
            )

    def surface(self) -> trimesh.Trimesh:
        """Return the surface between what views see in front of and behind it; empty if there is none.

        It has holes where nothing was seen. Faces turn counterclockwise towards the outside.
        """
        from skimage.measure import marching_cubes

        known = self._weight > 0
        if not known.any() or self._distance[known].min() >= 0 or self._distance[known].max() <= 0:
            return trimesh.Trimesh()
        whole = np.zeros_like(known)  # cubes of which all corners are known; scikit-image asks their last corner alone
        whole[1:, 1:, 1:] = binary_erosion(known, np.ones((2, 2, 2), bool), origin=0)[1:, 1:, 1:]
        try:
            vertices, faces, _, _ = marching_cubes(self._distance, 0.0, mask=whole, gradient_direction="ascent")
        except (ValueError, RuntimeError):  # no cube of known corners has a surface
            return trimesh.Trimesh()
        place = self._box.low + vertices.astype(np.float64) * self.voxel
        return trimesh.Trimesh(place, faces[:, ::-1], process=True)


def needed_bytes(box: Box, voxels: int) -> int:
    """Return the memory that fusing takes at most."""
    return math.prod(box.shape(voxels)) * BYTES_PER_VOXEL


@jit(parallel=True, fastmath={"contract", "arcp"})
def _fuse(
    distance: Any,  # [X, Y, Z] float32
    weight: Any,  # [X, Y, Z] float32
    low: Any,  # [3]
    voxel: Any,
    truncation: Any,
    matrix: Any,  # [3, 4] world to pixels times z
    depth: Any,  # [H, W]
    slope: Any,  # [H, W]
    certainty: Any,  # [H, W]
) -> None:
    height, width = depth.shape
    for i in nb.prange(distance.shape[0]):
        x = low[0] + i * voxel
        for j in range(distance.shape[1]):
            y = low[1] + j * voxel
            # pixels and depth are affine along a row of voxels
            a = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 3]
            b = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 3]
            c = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 3]
            for k in range(distance.shape[2]):
                z = low[2] + k * voxel
                away = c + matrix[2, 2] * z
                if away <= _NEAR:
                    continue
                u = (a + matrix[0, 2] * z) / away - 0.5
                v = (b + matrix[1, 2] * z) / away - 0.5
                column, row = math.floor(u + 0.5), math.floor(v + 0.5)
                if column < 0 or row < 0 or column >= width or row >= height:
                    continue
                part = certainty[row, column]
                near = depth[row, column]
                if part <= 0 or near <= 0:
                    continue
                left, top = math.floor(u), math.floor(v)
                if 0 <= left < width - 1 and 0 <= top < height - 1:
                    one, two = depth[top, left], depth[top, left + 1]
                    three, four = depth[top + 1, left], depth[top + 1, left + 1]
                    lowest, highest = min(one, two, three, four), max(one, two, three, four)
                    if lowest > 0 and highest - lowest < _AGREE * lowest:
                        right, below = u - left, v - top
                        upper = one + right * (two - one)
                        near = upper + below * (three + right * (four - three) - upper)
                along = near - away
                apart = along * slope[row, column]
                if apart < -truncation or along < -2 * truncation:
                    continue
                value = min(apart / truncation, np.float32(1))
                total = weight[i, j, k] + part
                distance[i, j, k] += (value - distance[i, j, k]) * part / total
                weight[i, j, k] = total
