"""Pictures of a training's mesh, and how much of it photographs show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import trimesh
from nerfstudio.cameras.cameras import CameraType

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report.page_pictures import Picture, picture
from difix3d_ns.evaluation.report.parts import Section, Text, facts, picture_row
from difix3d_ns.evaluation.report.training import Training
from difix3d_ns.geometry.orbits import circle, converging, look_at_point, orbit, surrounding, swing
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.meshing.mesh_files import mesh_in, read_upright
from difix3d_ns.meshing.mesh_pictures import MeshPictures
from difix3d_ns.meshing.photo_counts import count_colours, photo_counts, unseen_share
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.placed_mesh import mesh_in_splat
from difix3d_ns.ns.splat_frame import SplatFrame

_VIEWS = 5  # side by side
_SIDE = 360  # pixels of the long side of each


def mesh_section(training: Training) -> Section:
    """Section of the mesh that lies in a training's folder, if one does."""
    file = mesh_in(training.folder)
    if file is None:
        return Section("", [])
    try:
        mesh, cameras = mesh_and_cameras(training, file)
    except UserError as error:
        return Section("Mesh", [f"The mesh is not shown: {error}"])
    counts = photo_counts(mesh)
    rows = [("File", file.name), ("Faces", f"{len(mesh.faces):,}")]
    parts: list[Text] = [picture_row(_pictures(mesh, cameras), "The mesh from several sides")]
    if counts is not None:
        rows.append(("Surface that no photo shows", f"{unseen_share(mesh, counts):.1%}"))
        coloured = coloured_by_count(mesh, counts)
        caption = "By how many photos show it: red for none, yellow for one, blue for five and more"
        parts.append(picture_row(_pictures(coloured, cameras), caption))
    return Section("Mesh", [*parts, facts(rows)])


def coloured_by_count(mesh: trimesh.Trimesh, counts: np.ndarray) -> trimesh.Trimesh:
    """Return a mesh in the colours of how many photographs show its vertices, ``counts`` [V]."""
    coloured = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    coloured.visual = trimesh.visual.ColorVisuals(coloured, vertex_colors=count_colours(counts))
    return coloured


def mesh_and_cameras(training: Training, file: Path) -> tuple[trimesh.Trimesh, list[Pinhole]]:
    """Read a mesh, with cameras that look at it: on the way of the photographs around it, else around its box."""
    photos = _photographs(training)
    if training.dataset is not None and converging(photos):
        frame = SplatFrame.of(training.dataset._dataparser_outputs)
        mesh = mesh_in_splat(file, frame, look_at_point(photos))
        half = swing(photos, 2 * (_VIEWS - 1))[:_VIEWS]  # from one end to the other
        way = orbit(photos, _VIEWS) if surrounding(photos) else half
        return mesh, [camera.within(_SIDE) for camera in way]
    mesh = read_upright(file)
    low, high = (torch.from_numpy(np.array(corner)) for corner in mesh.bounds)
    return mesh, circle(low, high, _VIEWS, _SIDE, _SIDE)


def _photographs(training: Training) -> list[Pinhole]:
    """Cameras of the photographs; none if they are not here, or are no pinholes."""
    if training.dataset is None:
        return []
    cameras = training.dataset.cameras
    if not bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all()):
        return []
    return [to_pinhole(cameras[index : index + 1]) for index in range(len(cameras))]


def _pictures(mesh: trimesh.Trimesh, cameras: Sequence[Pinhole]) -> list[Picture]:
    drawn = MeshPictures(mesh)
    return [picture(drawn.render(camera)) for camera in cameras]
