"""Changes of a mesh: parts left out, holes closed, fewer faces."""

from __future__ import annotations

import numpy as np
import trimesh

from difix3d_ns.errors import UserError
from difix3d_ns.meshing.volume import Box

MIN_PART = 0.01
"""of the largest part's area: smaller parts are specks"""
SMOOTHING = 5
"""iterations of the filter that smooths"""


def without_specks(mesh: trimesh.Trimesh, smallest: float = MIN_PART) -> tuple[trimesh.Trimesh, int]:
    """Leave out connected parts that are small beside the largest.

    Args:
        mesh: any.
        smallest: area of a part that stays, as a share of the largest one's.

    Returns:
        The mesh, and the number of parts that are left.
    """
    if not len(mesh.faces):
        return mesh, 0
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    areas = np.bincount(labels, weights=mesh.area_faces)
    large = areas >= smallest * areas.max()
    return _part(mesh, large[labels]), int(large.sum())


def smoothed(mesh: trimesh.Trimesh, iterations: int = SMOOTHING) -> trimesh.Trimesh:
    """Take the noise of depth away and keep the volume (Taubin, SIGGRAPH 1995)."""
    if not len(mesh.faces) or not iterations:
        return mesh
    filtered: trimesh.Trimesh = trimesh.smoothing.filter_taubin(mesh.copy(), iterations=iterations)
    return filtered


def without_unseen(mesh: trimesh.Trimesh, counts: np.ndarray, smallest: int) -> trimesh.Trimesh:
    """Leave out faces of which no corner is shown by ``smallest`` pictures.

    Args:
        mesh: any.
        counts: [V] pictures that show each vertex.
        smallest: number of pictures.
    """
    return _part(mesh, counts[mesh.faces].max(1) >= smallest)


def inside(mesh: trimesh.Trimesh, box: Box, turn: np.ndarray | None = None) -> trimesh.Trimesh:
    """Leave out faces with a corner outside of a box.

    Args:
        mesh: any.
        box: along the axes of the mesh, or of ``turn``.
        turn: [4, 4] from the mesh's coordinates to those of the box; None: they are the same.
    """
    places = mesh.vertices if turn is None else trimesh.transform_points(mesh.vertices, turn)
    within = ((places >= box.low) & (places <= box.high)).all(1)
    return _part(mesh, within[mesh.faces].all(1))


def closed(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Close holes, each with a flat patch of its own.

    Raises:
        UserError: pymeshlab is not there, as on ARM.
    """
    try:
        import pymeshlab
    except ImportError as error:
        raise UserError("--close-holes needs pymeshlab, which this machine has no package of; leave it out") from error

    meshes = pymeshlab.MeshSet(verbose=False)
    meshes.add_mesh(pymeshlab.Mesh(np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int32)))
    meshes.meshing_repair_non_manifold_edges()
    meshes.meshing_close_holes(maxholesize=len(mesh.faces), refinehole=False, selfintersection=False)
    found = meshes.current_mesh()
    return trimesh.Trimesh(found.vertex_matrix(), found.face_matrix(), process=True)


def simplified(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    """Merge edges until at most so many faces are left (Garland and Heckbert, SIGGRAPH 1997)."""
    if len(mesh.faces) <= faces:
        return mesh
    import open3d

    given = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(mesh.vertices), open3d.utility.Vector3iVector(mesh.faces)
    )
    found = given.simplify_quadric_decimation(faces)
    return trimesh.Trimesh(np.asarray(found.vertices), np.asarray(found.triangles), process=True)


def _part(mesh: trimesh.Trimesh, faces: np.ndarray) -> trimesh.Trimesh:
    """Keep faces [F] bool, and the vertices they use."""
    kept = trimesh.Trimesh(mesh.vertices, mesh.faces[faces], process=False)
    kept.remove_unreferenced_vertices()
    return kept
