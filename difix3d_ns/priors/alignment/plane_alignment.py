"""Alignment of references with a picture whose camera nobody knows: by matched features, then by optical flow.

What was aligned is handed to a fixer as photographs of one plane, all from one camera: a fixer that needs cameras and
depth then finds every reference where it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import FixRequest

MIN_MATCHES = 12
"""matches that one homography explains, below which two pictures do not show the same thing"""
_FEATURES = 4000
_RATIO = 0.8  # of the distances to the best and the second best feature (Lowe 2004)
_THRESHOLD = 4.0  # pixels a match may be off the homography: scenes are no planes, and flow does the rest
_CYCLE = 1.5  # pixels that there and back may be apart
_DIFFERENT = 0.15  # mean colour difference of windows that show different things
_WINDOW = 7
_COARSER = 1.25  # pixels of a reference to one of the picture, beyond which it is reduced first


@dataclass(frozen=True)
class Features:
    """A picture with its SIFT features."""

    image: np.ndarray  # [H, W, 3] uint8
    grey: np.ndarray  # [H, W] uint8
    points: np.ndarray  # [N, 2] float32 pixels
    descriptors: np.ndarray | None  # [N, 128]


def features_of(image: Tensor, long_side: int | None = None) -> Features:
    """Find the features of a picture.

    Args:
        image: [H, W, 3] in [0, 1].
        long_side: pixels that it is reduced to, if it has more.
    """
    picture = (image.detach().cpu().nan_to_num().clamp(0, 1) * 255).round().byte().numpy()
    if long_side is not None and max(picture.shape) > long_side:
        picture = _reduced(picture, long_side / max(picture.shape))
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    found, descriptors = cv2.SIFT_create(nfeatures=_FEATURES).detectAndCompute(grey, None)  # type: ignore[attr-defined]
    points = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    return Features(picture, grey, points, descriptors)


def homography(picture: Features, reference: Features) -> tuple[np.ndarray | None, int]:
    """Find the homography [3, 3] that takes pixels of a picture to those of a reference, and the matches it explains.

    None where fewer than ``MIN_MATCHES`` do.
    """
    here, there = matched_points(picture, reference)
    if len(here) < MIN_MATCHES:
        return None, len(here)
    found, inliers = cv2.findHomography(here, there, cv2.USAC_MAGSAC, _THRESHOLD)
    count = 0 if inliers is None else int(inliers.sum())
    usable = found is not None and count >= MIN_MATCHES and np.isfinite(found).all()
    return (found if usable else None), count


def matched_points(picture: Features, reference: Features) -> tuple[np.ndarray, np.ndarray]:
    """Match features; returns pixels [N, 2] in either picture."""
    if picture.descriptors is None or reference.descriptors is None or len(reference.points) < 2:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    pairs = cv2.BFMatcher().knnMatch(picture.descriptors, reference.descriptors, k=2)
    best = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < _RATIO * pair[1].distance]
    here = picture.points[[match.queryIdx for match in best]]
    return here, reference.points[[match.trainIdx for match in best]]


def flow_between(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optical flow from one grey picture to another, and where it can be trusted.

    Args:
        first, second: [H, W] uint8.

    Returns:
        Flow [H, W, 2] in pixels: ``first[p]`` is ``second[p + flow[p]]``; and bool [H, W], true where the way back
        leads to where it began.
    """
    dense = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    there, back = dense.calc(first, second, None), dense.calc(second, first, None)
    grid = pixel_grid(*first.shape)
    returned = sampled(back, grid + there)
    apart = np.linalg.norm(there + returned, axis=-1)
    return there, apart < _CYCLE


def fetch(picture: Features, reference: Features, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fetch a reference as the picture's camera would see it.

    Args:
        picture, reference: of ``features_of``.
        matrix: of ``homography``.

    Returns:
        The reference [H, W, 3] uint8, and where it shows what the picture shows, [H, W] bool.
    """
    height, width = picture.grey.shape
    image, matrix = _at_scale(reference.image, matrix, (height, width))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    near = cv2.warpPerspective(grey, np.linalg.inv(matrix), (width, height), flags=cv2.INTER_LINEAR)
    flow, trusted = flow_between(picture.grey, near)
    places = cv2.perspectiveTransform((pixel_grid(height, width) + flow).reshape(-1, 1, 2).astype(np.float64), matrix)
    places = places.reshape(height, width, 2).astype(np.float32)
    warped = sampled(image, places, cv2.INTER_CUBIC)
    rows, columns = grey.shape
    inside = (places >= 0).all(-1) & (places[..., 0] <= columns - 1) & (places[..., 1] <= rows - 1)
    difference = cv2.blur(warped.astype(np.float32) - picture.image.astype(np.float32), (_WINDOW, _WINDOW))
    alike = np.abs(difference).mean(-1) < _DIFFERENT * 255
    return warped, inside & trusted & alike


def _at_scale(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a reference to about the picture's scale, so that fetching skips none of its pixels.

    Args:
        image: [h, w, 3] uint8.
        matrix: [3, 3], from the picture's pixels to the reference's.
        size: height and width of the picture.

    Returns:
        The reference, and the matrix to its pixels.
    """
    middle = np.array([[size[1] / 2, size[0] / 2], [size[1] / 2 + 1, size[0] / 2], [size[1] / 2, size[0] / 2 + 1]])
    there = cv2.perspectiveTransform(middle[:, None], matrix)[:, 0]
    area = abs(np.linalg.det(there[1:] - there[0]))
    if not area > _COARSER**2:
        return image, matrix
    image = _reduced(image, 1 / math.sqrt(area))
    scale = math.sqrt(area)
    to_reduced = np.array([[1 / scale, 0, 0.5 / scale - 0.5], [0, 1 / scale, 0.5 / scale - 0.5], [0, 0, 1]])
    return image, to_reduced @ matrix


def _reduced(picture: np.ndarray, factor: float) -> np.ndarray:
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def request_on_a_plane(image: Tensor, features: Features, references: Sequence[Features], count: int) -> FixRequest:
    """Align references with a picture and put all of them on one plane before one camera.

    Args:
        image: [H, W, 3] in [0, 1], to repair.
        features: of it.
        references: that may show the same things.
        count: references used at most: those with most matches.

    Returns:
        The request; without references where none shows what the picture shows.
    """
    found = [(reference, *homography(features, reference)) for reference in references]
    found = sorted((entry for entry in found if entry[1] is not None), key=lambda entry: -entry[2])[:count]
    height, width = image.shape[:2]
    focal = float(max(height, width))
    intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    camera = Pinhole(torch.eye(4), intrinsics, width, height)
    plane = torch.ones_like(image[..., :1])
    posed = []
    for reference, matrix, _ in found:
        assert matrix is not None
        warped, shows = fetch(features, reference, matrix)
        visible = torch.from_numpy(shows)[..., None].to(image)
        posed.append(PosedImage(torch.from_numpy(warped).to(image) / 255, camera, plane, visible, visible))
    return FixRequest(image, posed, camera, plane, plane)


def sampled(picture: np.ndarray, places: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Fetch the pixels of a picture [h, w, C] at places [H, W, 2]; beyond its border the border is repeated."""
    columns, rows = (np.ascontiguousarray(places[..., axis], np.float32) for axis in (0, 1))
    return cv2.remap(picture, columns, rows, interpolation, borderMode=cv2.BORDER_REPLICATE)


def pixel_grid(height: int, width: int) -> np.ndarray:
    """Pixels [H, W, 2] float32: column and row."""
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([columns, rows], -1)
