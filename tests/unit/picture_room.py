"""Photos of rooms of pictures with exact cameras, drawn in milliseconds: floor, wall and boards by homographies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from difix3d_ns.data.procedural.sample_pictures import PICTURES, load_picture
from difix3d_ns.data.procedural.trajectories import look_at, pinhole
from difix3d_ns.geometry.pinhole import Pinhole

MIDDLE = np.array([0.0, 3.2, 1.0])
"""in metres, z up: what the cameras see in their middle"""
_ROOMS = (
    ("china", "flower", "gravel", "grass", "camera"),
    ("coffee", "chelsea", "brick", "rocket", "retina"),
)
_BOARDS = [  # lower left corner, width along x and y, height
    ((-2.6, 4.2, 0.0), (5.2, 0.0), 2.8),
    ((-1.7, 3.4, 0.2), (1.1, 0.3), 1.0),
    ((0.7, 3.0, 0.1), (0.9, -0.3), 1.3),
    ((-0.5, 2.5, 0.0), (0.7, 0.1), 0.6),
]


def cameras_around(count: int, size: tuple[int, int], turn: float = 0.55) -> list[Pinhole]:
    """Cameras in an arc before the room that rises and falls: their positions show where up is.

    Args:
        count: how many.
        size: width and height in pixels.
        turn: angle of the outermost ones, radians.
    """
    angles = np.linspace(-turn, turn, count)
    ways = [np.array([3.0 * math.sin(a), -3.0 * math.cos(a), 0.6 + 0.4 * math.sin(9 * a)]) for a in angles]
    return [pinhole(look_at(MIDDLE + way, MIDDLE), *size, 1.1) for way in ways]


def photos_of(cameras: Sequence[Pinhole], room: int = 0) -> list[np.ndarray]:
    """Draw a room from cameras: [H, W, 3] uint8 each.

    Args:
        cameras: in front of everything.
        room: which; rooms have no picture in common.
    """
    chosen = [load_picture(name, PICTURES[name][2]) for name in _ROOMS[room]]
    floor = (np.array([-2.6, 1.4, 0.0]), np.array([5.2, 0.0, 0.0]), np.array([0.0, 2.8, 0.0]))
    planes = [floor]
    for corner, (along, across), height in _BOARDS:
        planes.append((np.array(corner), np.array([along, across, 0.0]), np.array([0.0, 0.0, height])))
    return [_drawn(camera, planes, chosen) for camera in cameras]


def _drawn(
    camera: Pinhole, planes: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], pictures: Sequence[np.ndarray]
) -> np.ndarray:
    twice = camera.resized(2 * camera.width, 2 * camera.height)
    project = twice.intrinsics.double().numpy() @ twice.world_to_camera.double().numpy()[:3]
    canvas = np.full((twice.height, twice.width, 3), 128, np.uint8)
    for (corner, right, up), picture in zip(planes, pictures, strict=True):  # from back to front
        height, width = picture.shape[:2]
        of_plane = np.stack([right / width, -up / height, corner + up], 1)
        homography = project @ np.vstack([of_plane, [0, 0, 1]])
        shown = (twice.width, twice.height)
        shift = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])  # OpenCV's pixel centres are whole numbers
        homography = shift @ homography @ np.linalg.inv(shift)
        drawn = cv2.warpPerspective(np.ascontiguousarray(picture), homography, shown, flags=cv2.INTER_AREA)
        inside = cv2.warpPerspective(np.full((height, width), 255, np.uint8), homography, shown)
        canvas[inside > 127] = drawn[inside > 127]
    return cv2.resize(canvas, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
