"""Any lens nerfstudio reads as a pinhole: splats are rasterized by pinholes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras, CameraType

MAX_HALF_ANGLE = math.radians(65)
"""of what a pinhole shows of a fisheye: beyond, pixels grow so fast that little is left for the middle"""
_UNDOABLE = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.FISHEYE624)

Maps = tuple[np.ndarray, np.ndarray]  # columns and rows [H, W] float32 in the picture, its first pixel's centre at 0


@dataclass(frozen=True)
class Undistortion:
    """A pinhole that shows what a lens shows, and where each of its pixels is in the picture.

    Angles are kept small enough that all of the pinhole's pixels are in the picture, as nerfstudio does.
    """

    intrinsics: np.ndarray  # [3, 3] float64 of the pinhole, the first pixel's centre at 0.5
    width: int
    height: int
    make_maps: Callable[[], Maps]
    bilinear: Callable[[np.ndarray], np.ndarray]  # [H, W] or [H, W, C] of the picture's size, to the pinhole's
    circle: tuple[float, float, float] | None = None  # centre and radius in the picture outside of which nothing is

    @property
    def maps(self) -> Maps:
        """Columns and rows [height, width] in the picture; not kept, they are larger than it."""
        return self.make_maps()

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """Undistort a picture [H, W, C], interpolated."""
        return self.bilinear(pixels)

    def larger_picture(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Undistort a larger picture than the lens is for, interpolated, over the same field of view.

        Args:
            pixels: [H, W, C] uint8, as its own file has them.
            size: (width, height) of the picture that the lens is for.

        Returns:
            [h, w, C], larger than the pinhole by as much as the picture is.
        """
        import cv2

        factors = [large / small for large, small in zip(pixels.shape[1::-1], size, strict=True)]
        width, height = round(self.width * factors[0]), round(self.height * factors[1])
        # linear beyond the rim, for pixels of the larger picture that lie outside of all centres of the smaller one
        planes = np.pad(np.stack(self.maps), ((0, 0), (2, 2), (2, 2)), "reflect", reflect_type="odd")
        x, y = (
            (torch.arange(count, dtype=torch.float32) * 2 + 1 - count) / count * (side / (side + 4))
            for count, side in ((width, self.width), (height, self.height))
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        maps = F.grid_sample(torch.from_numpy(planes)[None], grid, "bicubic", "border", align_corners=False)[0].numpy()
        columns, rows = (
            ((plane + 0.5) * factor - 0.5).astype(np.float32) for plane, factor in zip(maps, factors, strict=True)
        )
        return cv2.remap(pixels, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def mask(self, used: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
        """Undistort which pixels [H, W, 1] are used of a picture of ``size`` (width, height).

        Returns:
            [height, width, 1] bool; None if all are.
        """
        if self.circle is not None:
            x, y, radius = self.circle
            columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
            inside = np.hypot(columns - x, rows - y)[..., None] < radius
            used = inside if used is None else used & inside
        columns, rows = self.maps
        # up to a pixel beyond the rim its colours still count
        outside = (columns < -1) | (columns > size[0]) | (rows < -1) | (rows > size[1])
        if used is None and not outside.any():
            return None
        used = np.ones((size[1], size[0], 1), dtype=bool) if used is None else used
        shown = self.bilinear(used.astype(np.uint8) * 255).astype(bool)
        return shown.reshape(self.height, self.width, 1) & ~outside[..., None]

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Undistort values [H, W, ...] that must not be mixed, such as depth; 0 outside of the picture."""
        columns, rows = (np.rint(plane).astype(np.int64) for plane in self.maps)
        height, width = values.shape[:2]
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        taken = values[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        return np.where(inside.reshape(inside.shape + (1,) * (values.ndim - 2)), taken, np.zeros_like(taken))


def undistortion_of(camera: Cameras) -> Undistortion | None:
    """Find the pinhole of a camera.

    Args:
        camera: one, of shape (), at the size its picture has.

    Returns:
        How to make its picture one of a pinhole; None if it is one.

    Raises:
        ValueError: no pinhole shows what it shows; the message says why.
    """
    kind = CameraType(int(camera.camera_type))
    size = (int(camera.width), int(camera.height))
    matrix = camera.get_intrinsics_matrices().double().numpy()
    lens = np.zeros(6) if camera.distortion_params is None else camera.distortion_params.double().numpy()
    if kind not in _UNDOABLE:
        raise ValueError(f"splats cannot be trained on pictures of a {kind.name.lower()} camera")
    if kind is CameraType.PERSPECTIVE:
        return _perspective(matrix, lens, size) if lens.any() else None
    radius = _crop_radius(camera)
    if kind is CameraType.FISHEYE:
        return _fisheye(matrix, lens[:4], size, radius)
    if len(lens) != 12:
        raise ValueError(f"FISHEYE624 has 12 distortion_params, there are {len(lens)}")
    return _fisheye624(matrix, lens, size, radius)


def _crop_radius(camera: Cameras) -> float | None:
    value: Any = (camera.metadata or {}).get("fisheye_crop_radius")
    if value is None:
        return None
    radius = float(torch.as_tensor(value).reshape(-1)[0])
    return radius if math.isfinite(radius) else None


def _perspective(matrix: np.ndarray, lens: np.ndarray, size: tuple[int, int]) -> Undistortion:
    import cv2

    if lens[3] != 0:
        raise ValueError(
            "the 4th Brown parameter (k4) of a perspective camera cannot be undone, only k1, k2, k3, p1 and p2"
        )
    k1, k2, k3, _, p1, p2 = lens
    coefficients = np.array([k1, k2, p1, p2, k3, 0, 0, 0])  # in OpenCV's order
    matrix = _shifted(matrix, -0.5)
    new, (x, y, width, height) = cv2.getOptimalNewCameraMatrix(matrix, coefficients, size, 0)
    if width < 1 or height < 1 or not np.isfinite(new).all():
        raise ValueError(f"its distortion (k1 {k1:g}, k2 {k2:g}, k3 {k3:g}) bends the picture over itself")
    part = (slice(y, y + height), slice(x, x + width))

    def maps() -> Maps:
        columns, rows = cv2.initUndistortRectifyMap(matrix, coefficients, np.eye(3), new, size, cv2.CV_32FC1)
        return columns[part], rows[part]

    def bilinear(pixels: np.ndarray) -> np.ndarray:
        return cv2.undistort(pixels, matrix, coefficients, None, new)[part]  # type: ignore[call-overload,no-any-return]

    cropped = np.array(new, dtype=np.float64)
    cropped[:2, 2] -= (x, y)
    return Undistortion(_shifted(cropped, 0.5), width, height, maps, bilinear)


def _fisheye(matrix: np.ndarray, lens: np.ndarray, size: tuple[int, int], radius: float | None) -> Undistortion:
    import cv2

    new, shown, limited = _limited(matrix, lens, size, radius)
    matrix = _shifted(matrix, -0.5)
    if not limited:
        new = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(matrix, lens, size, np.eye(3), balance=0)
        new = _shifted(np.array(new, dtype=np.float64), 0.5)

    def maps() -> Maps:
        return cv2.fisheye.initUndistortRectifyMap(  # type: ignore[return-value]
            matrix, lens, np.eye(3), _shifted(new, -0.5), shown, cv2.CV_32FC1
        )

    return _remapped(new, shown, maps, matrix, radius)


def _fisheye624(matrix: np.ndarray, lens: np.ndarray, size: tuple[int, int], radius: float | None) -> Undistortion:
    from nerfstudio.cameras.camera_utils import fisheye624_project

    parameters = torch.tensor([matrix[0, 0], matrix[1, 1], *matrix[:2, 2], *lens], dtype=torch.float32)[None]
    new, shown, _ = _limited(matrix, lens[:6], size, radius)  # its other terms are small, and the limits mere limits

    def maps() -> Maps:
        columns, rows = np.meshgrid(np.arange(shown[0]) + 0.5, np.arange(shown[1]) + 0.5)
        rays = np.stack([columns, rows, np.ones_like(rows)], -1).reshape(-1, 3) @ np.linalg.inv(new).T
        places = fisheye624_project(torch.from_numpy(rays).float()[None], parameters)[0].numpy() - 0.5
        planes = places.reshape(shown[1], shown[0], 2).astype(np.float32)
        return np.ascontiguousarray(planes[..., 0]), np.ascontiguousarray(planes[..., 1])

    return _remapped(new, shown, maps, _shifted(matrix, -0.5), radius)


def _limited(
    matrix: np.ndarray, radial: np.ndarray, size: tuple[int, int], radius: float | None
) -> tuple[np.ndarray, tuple[int, int], bool]:
    """Find a pinhole that shows a fisheye's picture up to its edges, its crop radius, or ``MAX_HALF_ANGLE``.

    Args:
        matrix: [3, 3] of the lens.
        radial: its coefficients k of distance = angle (1 + k0 angle^2 + k1 angle^4 + ...), in focal lengths.
        size: of the picture.
        radius: pixels within which it is used.

    Returns:
        ([3, 3] of the pinhole, its centre in the middle; its size; whether radius or angle limit it).
    """
    focal, centre = matrix.diagonal()[:2], matrix[:2, 2]
    edges = np.stack([centre, np.array(size) - centre])  # [2 sides, 2 axes] pixels
    shown = size
    if radius is not None:
        edges = np.minimum(edges, radius)
        shown = (min(size[0], math.ceil(2 * radius)), min(size[1], math.ceil(2 * radius)))
    angles = _angles(np.maximum(edges, 1.0) / focal, radial)
    limited = radius is not None or bool((angles > MAX_HALF_ANGLE).any())
    reach = np.tan(np.minimum(angles, MAX_HALF_ANGLE)).min(0)  # what both sides show: the axis is in the middle
    new = np.eye(3)
    scale = max(np.array(shown) / 2 / reach / focal)
    new[0, 0], new[1, 1] = focal * scale
    new[:2, 2] = np.array(shown) / 2
    return new, shown, limited


def _angles(distances: np.ndarray, radial: np.ndarray) -> np.ndarray:
    """Angles from the axis of distances from the centre, both in the shape of ``distances``; see ``_limited``."""
    angles = np.linspace(0, math.pi, 4097)
    reached = angles * (1 + sum(k * angles ** (2 * i + 2) for i, k in enumerate(radial)))
    falling = np.diff(reached) <= 0  # beyond, the polynomial means nothing
    last = int(falling.argmax()) + 1 if falling.any() else len(angles)
    return np.interp(distances, reached[:last], angles[:last])


def _remapped(
    new: np.ndarray, size: tuple[int, int], make_maps: Callable[[], Maps], matrix: np.ndarray, radius: float | None
) -> Undistortion:
    import cv2

    def bilinear(pixels: np.ndarray) -> np.ndarray:
        # half a pixel of its rim may lie outside: black there would be learnt
        return cv2.remap(pixels, *undistortion.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    circle = None if radius is None else (matrix[0, 2] + 0.5, matrix[1, 2] + 0.5, radius)
    undistortion = Undistortion(new, *size, make_maps, bilinear, circle)
    return undistortion


def _shifted(matrix: np.ndarray, pixels: float) -> np.ndarray:
    """Move the principal point: OpenCV counts from the first pixel's centre, nerfstudio from its corner."""
    moved = matrix.copy()
    moved[:2, 2] += pixels
    return moved
