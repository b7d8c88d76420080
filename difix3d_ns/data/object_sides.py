"""Procedural objects, each photographed from a handful of sides and cut out, for generators from one photograph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from difix3d_ns.data.capture import Capture, UnusableScene
from difix3d_ns.data.procedural import photograph_world, training_world
from difix3d_ns.data.procedural.solids import Solid
from difix3d_ns.data.procedural.worlds import training_solid
from difix3d_ns.geometry.object_frame import FOCAL, RADIUS, object_cameras
from difix3d_ns.geometry.pinhole import Pinhole

SIDES = 5
"""photographs of an object"""
MIN_DRAWN, MAX_DRAWN = -10.0, 40.0
"""degrees, of the elevations that are drawn: those that Hi3D knows"""
_STREAM = 59
_CUT = 0.5
"""share of objects that are centred and scaled by what their first photograph shows; else their box is in the middle,
and its longest side 1"""
_FILLED = (0.7, 0.8)  # of the picture, by the longer side of these
_PLACES = 32  # along each side of the box, by which an object's outline is found
_VARIANTS = 16  # of each kind of texture


@dataclass(frozen=True)
class ObjectSides:
    """An object in the frame of ``geometry.object_frame``, and cameras of any azimuth and elevation around it."""

    solid: Solid  # metres
    middle: np.ndarray  # [3] metres, of the frame
    size: float  # metres, of its unit
    cameras: list[Pinhole]  # in the frame
    elevations: list[float]  # degrees

    @classmethod
    def drawn(cls, seed: int, side: int) -> ObjectSides:
        """Draw the cameras of an object; nothing is rendered.

        Args:
            seed: of the object, as of ``training_world``, and of the cameras.
            side: of the square pictures, in pixels.
        """
        solid, rng = training_solid(seed), np.random.default_rng([_STREAM, seed])
        low, high = solid.bounds()
        middle, size = (low + high) / 2, float((high - low).max())
        elevations = rng.uniform(MIN_DRAWN, MAX_DRAWN, SIDES).tolist()
        azimuths = rng.uniform(0, 360, SIDES).tolist()
        cameras = [
            object_cameras(elevation, side, 1, azimuth)[0]
            for elevation, azimuth in zip(elevations, azimuths, strict=True)
        ]
        if rng.random() < _CUT:
            middle, size = _cut(solid, middle, size, cameras[0], rng.uniform(*_FILLED))
        return cls(solid, middle, size, cameras, elevations)

    def distance(self, places: np.ndarray) -> np.ndarray:
        """Signed distance [N] of places [N, 3] of the frame to the surface, in its unit, negative inside."""
        return self.solid.distance(self.middle + self.size * places) / self.size


def _cut(solid: Solid, middle: np.ndarray, size: float, camera: Pinhole, filled: float) -> tuple[np.ndarray, float]:
    """Middle and unit of an object that is in the middle of a picture and takes a share of it."""
    axis = (np.arange(_PLACES) + 0.5) / _PLACES - 0.5
    places = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    places = places[solid.distance(middle + size * places) < 0]
    seen = places @ camera.world_to_camera[:3, :3].numpy().T + camera.world_to_camera[:3, 3].numpy()
    outline = FOCAL * seen[:, :2] / seen[:, 2:]
    low, high = outline.min(0), outline.max(0)
    aside = (low + high) / 2 / FOCAL * RADIUS * size
    return middle + camera.camera_to_world[:3, :2].numpy() @ aside, size * float((high - low).max()) / filled


def sides_capture(seed: int, side: int) -> Capture:
    """Photograph the object of a seed from the cameras of ``ObjectSides``, before white, in its frame.

    Args:
        seed: of the object.
        side: of the square pictures, in pixels.

    Raises:
        UnusableScene: a camera would be too close to it.
    """
    drawn = ObjectSides.drawn(seed, side)
    world = training_world(seed, "object", _VARIANTS)
    seen = replace(world, field_of_view=2 * np.arctan(0.5 / FOCAL))
    poses = []
    for camera in drawn.cameras:
        pose = camera.camera_to_world.numpy().copy()
        pose[:3, 3] = drawn.middle + drawn.size * pose[:3, 3]
        poses.append((pose, True))
    views = photograph_world(
        seen, np.random.default_rng([_STREAM, seed, 1]), width=side, height=side, poses=poses, label=None
    )
    if len(views) < len(poses):
        raise UnusableScene(f"sides-seed:{seed}: a camera is too close to the object; take another seed")
    masks = [(view.depth > 0).float() for view in views]
    return Capture(
        name=f"sides_{seed:05d}",
        cameras=[replace(camera, camera_to_world=camera.camera_to_world.float()) for camera in drawn.cameras],
        images=[view.image * mask + 1 - mask for view, mask in zip(views, masks, strict=True)],
        points=torch.zeros(0, 3),
        colours=torch.zeros(0, 3),
        train=list(range(len(views))),
        test=[],
        masks=masks,
        background=(1.0, 1.0, 1.0),
        depths=[view.depth / drawn.size for view in views],
        about={"object": seed, "side": side},
    )
