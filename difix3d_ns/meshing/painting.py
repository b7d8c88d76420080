"""Colours of a mesh from pictures that show it, and how many pictures show each point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.geometry.warp import in_view

_MIN_COSINE = 0.15  # between a surface and a ray to it: flatter, nothing is seen of it
_BEHIND = 1e-3  # of the mesh's size: what lies that little behind another point is not hidden by it
_SHARPEST = 4.0  # power of a picture's quality: nearly the best alone, without seams where the best one changes
_MAX_SHARPNESS = 4.0  # of a picture in units of the median, either way
_BORDER = 2.0  # pixels of a picture's border that are not used


@dataclass(frozen=True)
class Points:
    """Points on a mesh."""

    positions: np.ndarray  # [N, 3]
    normals: np.ndarray  # [N, 3], unit length, towards the outside


def rays_against(vertices: np.ndarray, faces: np.ndarray) -> Any:
    """Return Open3D's scene that casts rays against triangles."""
    import open3d

    scene: Any = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(vertices.astype(np.float32), faces.astype(np.uint32))
    return scene


class Occlusion:
    """Visibility of points on a mesh, by rays.

    Args:
        mesh: that hides.
    """

    def __init__(self, mesh: trimesh.Trimesh) -> None:
        self._scene = rays_against(np.asarray(mesh.vertices), np.asarray(mesh.faces))
        self._behind = _BEHIND * float(np.linalg.norm(mesh.extents))

    def seen(self, points: Points, camera: Pinhole, mask: Tensor | None = None) -> np.ndarray:
        """Return the cosine [N] of the angle at which a camera sees points, 0 where it does not.

        Args:
            points: on the mesh, or a little off it.
            camera: of any picture.
            mask: [H, W, 1] over the camera's picture, 0 where it is not used; None: nowhere.
        """
        camera = camera.to("cpu", torch.float64)
        inside, pixels, _ = in_view(torch.from_numpy(points.positions), camera)
        size = torch.tensor([camera.width, camera.height], dtype=pixels.dtype)
        inside &= ((pixels > _BORDER) & (pixels < size - _BORDER)).all(-1)
        if mask is not None:
            used = resized(mask.float().cpu(), camera.height, camera.width)[..., 0] > 0.5
            column, row = pixels.nan_to_num(0).long().clamp_min(0).unbind(-1)
            inside &= used[row.clamp_max(camera.height - 1), column.clamp_max(camera.width - 1)]
        places = inside.numpy().nonzero()[0]
        eye = camera.position.numpy()
        rays = points.positions[places] - eye
        distance = np.linalg.norm(rays, axis=1)
        cosine = -(points.normals[places] * rays).sum(1) / np.maximum(distance, 1e-12)
        hits = self._scene.cast_rays(np.concatenate([np.broadcast_to(eye, rays.shape), rays], 1).astype(np.float32))
        free = hits["t_hit"].numpy() * distance > distance - self._behind
        found = np.zeros(len(points.positions), np.float32)
        found[places] = np.where(free & (cosine > _MIN_COSINE), cosine, 0)
        return found

    def count(self, points: Points, pictures: Sequence[PosedImage]) -> np.ndarray:
        """Return how many pictures show each point, [N] int32."""
        counts = np.zeros(len(points.positions), np.int32)
        for picture in pictures:
            counts += self.seen(points, picture.pose, picture.mask) > 0
        return counts


def colours(
    points: Points, pictures: Sequence[PosedImage], occlusion: Occlusion, expected: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fetch colours from the pictures that show points best: sharp, near and straight on.

    Args:
        points: on the mesh.
        pictures: with cameras; where a mask is 0 a picture is not used.
        occlusion: of the mesh.
        expected: [N, 3] colours in [0, 1] of the points in one exposure, to which each picture's is matched; None: as
            the pictures are.

    Returns:
        colours [N, 3] in [0, 1], and what each counts for, [N], 0 where no picture shows the point.
    """
    total, parts = np.zeros((len(points.positions), 3)), np.zeros(len(points.positions))
    sharpness = _sharpness(pictures)
    for picture, sharp in zip(pictures, sharpness, strict=True):
        cosine = occlusion.seen(points, picture.pose, picture.mask)
        places = cosine.nonzero()[0]
        if not len(places):
            continue
        fetched, away = _fetched(picture, points.positions[places])
        if expected is not None:
            fetched = fetched * _gain(fetched, expected[places])
        quality = sharp * cosine[places] * float(picture.pose.intrinsics[0, 0]) / away
        part = quality**_SHARPEST
        total[places] += part[:, None] * fetched
        parts[places] += part
    return np.clip(total / np.maximum(parts, 1e-30)[:, None], 0, 1), parts


def _fetched(picture: PosedImage, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [N, 3] of a picture at points it shows, bilinear, and their depth [N]."""
    image = picture.image.detach().double().cpu()
    height, width = image.shape[:2]
    camera = picture.pose.to("cpu", torch.float64).resized(width, height)
    _, pixels, depth = in_view(torch.from_numpy(positions), camera)
    grid = pixels * pixels.new_tensor([2 / width, 2 / height]) - 1
    planes = image.permute(2, 0, 1)[None]
    fetched = F.grid_sample(planes, grid[None, None], padding_mode="border", align_corners=False)
    return fetched[0, :, 0].T.numpy(), depth.numpy()


def _gain(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Factors [3] that bring a picture's colours to the expected ones: ratios of medians."""
    return np.clip(np.median(expected, 0) / np.maximum(np.median(found, 0), 1e-3), 0.5, 2.0)


def _sharpness(pictures: Sequence[PosedImage]) -> list[float]:
    """Sharpness of each picture, by its Laplacian, in units of the median."""
    found = []
    for picture in pictures:
        grey = picture.image.detach().float().cpu().mean(-1).numpy()
        found.append(float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean()))
    usual = max(float(np.median(found)), 1e-9) if found else 1.0
    return [min(max(value / usual, 1 / _MAX_SHARPNESS), _MAX_SHARPNESS) for value in found]
