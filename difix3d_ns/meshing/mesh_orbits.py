"""Meshes as captures for training: photographs from a ring, and an orbit in the frame of ``geometry.object_frame``."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
import trimesh

from difix3d_ns.data.capture import Capture, UnusableScene
from difix3d_ns.data.procedural.dataset import View, structure_points
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.object_frame import FRAMES, object_cameras
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.meshing.mesh_files import read_mesh
from difix3d_ns.meshing.mesh_pictures import MeshPictures

ELEVATIONS = tuple(range(-10, 41, 10))
"""degrees, one of which each orbit has, as in Hi3D's training"""
_MIN_PHOTOS, _MAX_PHOTOS = 6, 12
_ASIDE = 4.0  # degrees: how far photographs are off the ring, as a standard deviation
_POINTS = 1500
_MIN_POINTS = 200  # without texture structure from motion finds next to none
_FOUND = 40  # pixels of each photograph whose surface is a point then
_WHITE = (1.0, 1.0, 1.0)


def mesh_capture(file: Path, name: str, long_side: int, elevation: float | None = None) -> Capture:
    """Render a mesh before white: photographs to train on, and an orbit of 16 views that is held out.

    The mesh is moved and scaled so that its box is in the middle and its longest side is 1. Azimuth, elevation and
    photographs are drawn by the scene's name.

    Args:
        file: .glb, whose y points up, or .obj or another that trimesh reads, whose z points up.
        name: for the capture.
        long_side: side of the square pictures, in pixels.
        elevation: of the orbit, degrees; None: one of ``ELEVATIONS``.

    Raises:
        UnusableScene: it cannot be read, or has no extent.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    pictures = MeshPictures(_normalised(file), _WHITE)
    above = float(rng.choice(ELEVATIONS)) if elevation is None else elevation
    azimuth = float(rng.uniform(0, 360))
    count = int(rng.integers(_MIN_PHOTOS, _MAX_PHOTOS + 1))
    cameras = []
    for number in range(count):
        place = azimuth + 360 * (number + rng.random()) / count
        cameras += object_cameras(above + rng.normal(0, _ASIDE), long_side, 1, place, torch.float32)
    cameras += object_cameras(above, long_side, FRAMES, azimuth, torch.float32)
    views, masks = [], []
    for camera in cameras:
        image, depth, alpha = pictures.render_maps(camera)
        views.append(View(camera, image, depth, training=True))  # of the orbit's too: see ``orbit_capture``
        masks.append(alpha)
    xyz, rgb = structure_points(views, rng, _POINTS)
    points, colours = torch.from_numpy(xyz), torch.from_numpy(rgb).float() / 255
    if len(points) < _MIN_POINTS:
        points, colours = _surface(views, rng)
    return Capture(
        name=name,
        cameras=cameras,
        images=[view.image for view in views],
        points=points,
        colours=colours,
        train=list(range(count)),
        test=list(range(count, count + FRAMES)),
        masks=masks,
        background=_WHITE,
        depths=[view.depth for view in views],
        about={"elevation": above, "azimuth": azimuth},
    )


def _normalised(file: Path) -> trimesh.Trimesh:
    try:
        mesh = read_mesh(file)
    except UserError as error:
        raise UnusableScene(str(error)) from error
    corners = np.asarray(mesh.vertices)[np.asarray(mesh.faces).ravel()]
    low, high = corners.min(0), corners.max(0)
    if not np.isfinite([low, high]).all() or float((high - low).max()) <= 0:
        raise UnusableScene(f"{file} has no extent: it is no mesh that can be rendered")
    mesh.vertices = (np.asarray(mesh.vertices) - (low + high) / 2) / (high - low).max()
    return mesh


def _surface(views: list[View], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [P, 3] and colours [P, 3] of surfaces that photographs show, at random pixels, off by half of one."""
    points, colours = [torch.zeros(0, 3)], [torch.zeros(0, 3)]
    for view in views:
        shown = torch.nonzero(view.depth[..., 0] > 0)
        if not len(shown):
            continue
        rows, columns = shown[torch.from_numpy(rng.integers(0, len(shown), _FOUND))].unbind(1)
        found = unproject(view.depth, view.camera)[rows, columns]
        pixel = view.depth[rows, columns] / float(view.camera.intrinsics[0, 0])
        points.append(found + 0.5 * pixel * torch.from_numpy(rng.normal(size=found.shape)).float())
        colours.append(view.image[rows, columns])
    return torch.cat(points), torch.cat(colours)
