"""A picture wrapped around a mesh: its charts, where each of its pixels lies, and their colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.ndimage import distance_transform_edt

from difix3d_ns.meshing.painting import Points, rays_against

PADDING = 4
"""pixels around each chart that go on with its colours, so that a reduced picture shows no seams"""


@dataclass(frozen=True)
class Charts:
    """A mesh cut open and laid flat, and the pixels of its picture."""

    mesh: trimesh.Trimesh  # cut: a vertex on a seam is there once for each chart
    places: np.ndarray  # [V, 2] of its vertices, in [0, 1]: right, up
    origin: np.ndarray  # [V] vertex of the uncut mesh
    side: int  # of the picture in pixels
    pixels: np.ndarray  # [P] of the picture that show the mesh, row by row from the top
    points: Points  # [P] what they show


def unwrapped(mesh: trimesh.Trimesh, side: int) -> Charts:
    """Lay a mesh flat with xatlas, and find what each pixel of its picture shows.

    Args:
        mesh: to be textured; 20,000 faces take ten seconds, twice as many three times as long.
        side: of the picture in pixels.
    """
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.create_image = side, PADDING, False
    packing.bilinear = True
    atlas.generate(pack_options=packing)
    origin, faces, places = atlas[0]
    faces = faces.astype(np.int64)
    cut = trimesh.Trimesh(np.asarray(mesh.vertices)[origin], faces, process=False)

    scene = rays_against(np.concatenate([places, np.zeros((len(places), 1))], 1), faces)
    middles = (np.arange(side) + 0.5) / side
    right, up = np.meshgrid(middles, 1 - middles)
    rays = np.stack([right, up, np.ones_like(up), *(np.zeros_like(up),) * 2, -np.ones_like(up)], -1)
    hits = scene.cast_rays(rays.reshape(-1, 6).astype(np.float32))
    face = hits["primitive_ids"].numpy().astype(np.int64)
    pixels = (hits["t_hit"].numpy() < np.inf).nonzero()[0]
    second, third = hits["primitive_uvs"].numpy()[pixels].astype(np.float64).T
    shares = np.stack([1 - second - third, second, third], 1)[..., None]
    corners = faces[face[pixels]]
    normals = np.asarray(mesh.vertex_normals)[origin][corners]
    normals = (normals * shares).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return Charts(cut, places, origin, side, pixels, Points((cut.vertices[corners] * shares).sum(1), normals))


def painted(charts: Charts, colours: np.ndarray) -> np.ndarray:
    """Return the picture [S, S, 3] uint8 with colours [P, 3] in [0, 1] of its pixels, which go on around charts."""
    picture = np.zeros((charts.side**2, 3), np.uint8)
    picture[charts.pixels] = np.round(colours * 255)
    empty = np.ones(charts.side**2, bool)
    empty[charts.pixels] = False
    _, nearest = distance_transform_edt(empty.reshape(charts.side, charts.side), return_indices=True)
    spread: np.ndarray = picture.reshape(charts.side, charts.side, 3)[nearest[0], nearest[1]]
    return spread
