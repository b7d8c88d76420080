"""A capture as its files describe it, in float64 and its own coordinates, whatever the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nerfstudio.cameras.cameras import CameraType


@dataclass(frozen=True)
class Lens:
    """Intrinsics of a photograph at the size its file states, in pixels; the centre of the first pixel is at 0.5."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    camera_type: CameraType = CameraType.PERSPECTIVE
    distortion: tuple[float, ...] = (0.0,) * 6
    """nerfstudio's (k1, k2, k3, k4, p1, p2), or the 12 of FISHEYE624"""
    crop_radius: float | None = None
    """pixels from the centre within which a fisheye picture is used; None: all of it"""


@dataclass(frozen=True)
class Frame:
    """A photograph of a capture."""

    name: str  # as the scene's file writes it, for messages and split lists
    image: Path  # at full size; reduced copies are found beside it
    pose: np.ndarray  # [4, 4] float64 camera-to-world, OpenGL axes, coordinates of the file
    lens: Lens
    mask: Path | None = None
    depth: Path | None = None  # measured along z
    depth_confidence: Path | None = None


@dataclass(frozen=True)
class PointsGiven:
    """Points that came with a capture."""

    positions: np.ndarray  # [P, 3] float64, coordinates of the file
    colours: np.ndarray  # [P, 3] uint8


@dataclass(frozen=True)
class DescribedScene:
    """A capture before any picture of it is opened."""

    source: Path  # the file or folder that messages name
    frames: Sequence[Frame]
    points: PointsGiven | None = None
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """frame names by "train", "val" and "test", where the scene lists them; these always win"""
    generated: Sequence[str] = ()
    """names of frames that nobody photographed: a generator made them"""
    generated_about: str = ""  # what that generator does, for people
    applied_transform: np.ndarray | None = None  # [3, 4] from original coordinates to those of the file
    applied_scale: float = 1.0
    orientation: str | None = None  # the method the scene asks for; None: the flag's
    depth_unit: float = 1e-3  # metres (units of the poses) per unit of a depth file with integers
    notes: Sequence[str] = ()  # what was decided while reading, one sentence each, for the log
    background: str | None = None  # the colour before which cut-out objects are shown, where the format implies one
    factor: int | None = None  # by which photos are reduced for training, where the scene says so
    box: float | None = None  # half the side of the cube that holds what is of interest, where the scene says so
