"""The frame in which orbits are made of one photograph: Hi3D's, after SyncDreamer.

The object's box is centred in the origin and its longest side is 1; z points up. Cameras of 49.13 degrees stand at 1.5
and look at the origin, all of them at one elevation; the first one is at azimuth 0, and each further one stands farther
to the right of the one before.
"""

from __future__ import annotations

import math

import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import assemble

FRAMES = 16
"""of an orbit"""
RADIUS = 1.5
FOCAL = 1.09375
"""over the side of a square picture: a lens of 35 mm before 32 mm"""
MIN_ELEVATION, MAX_ELEVATION = -30.0, 70.0
"""degrees; Hi3D knows -10 to 40"""


def object_cameras(
    elevation: float, side: int, count: int = FRAMES, azimuth: float = 0.0, dtype: torch.dtype = torch.float64
) -> list[Pinhole]:
    """Place cameras once around an object.

    Args:
        elevation: degrees above the object's middle.
        side: of the square pictures, pixels.
        count: how many.
        azimuth: degrees, of the first one.
        dtype: of poses and intrinsics.
    """
    above = math.radians(elevation)
    turns = torch.tensor([math.radians(azimuth) + 2 * math.pi * number / count for number in range(count)]).double()
    level = torch.stack([turns.cos(), turns.sin(), torch.zeros_like(turns)], 1)
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    ways = math.cos(above) * level + math.sin(above) * up  # [count, 3] from the origin
    right = torch.stack([-turns.sin(), turns.cos(), torch.zeros_like(turns)], 1)
    rotations = torch.stack([right, torch.linalg.cross(-ways, right), -ways], -1)  # OpenCV: right, down, forward
    poses = assemble(rotations, RADIUS * ways).to(dtype)
    lens = torch.tensor([[FOCAL * side, 0, side / 2], [0, FOCAL * side, side / 2], [0, 0, 1]], dtype=dtype)
    return [Pinhole(pose, lens, side, side) for pose in poses]
