"""Counts of the photographs that show a mesh: from its file, as a share of its surface, as colours."""

from __future__ import annotations

import numpy as np
import trimesh

from difix3d_ns.meshing.mesh_files import COUNT, GLB_COUNT

_UNSEEN, _SEEN_ONCE, _SEEN_OFTEN = (214, 69, 65), (240, 190, 90), (70, 140, 200)
"""colours of faces by how many photos show them"""
_OFTEN = 5  # photos


def photo_counts(mesh: trimesh.Trimesh) -> np.ndarray | None:
    """Return the counts [V] that a file of a mesh had, in a .glb or .ply as ``write_mesh`` writes it; None without."""
    found = mesh.vertex_attributes.get(GLB_COUNT)
    if found is None:
        raw = mesh.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
        found = raw[COUNT] if raw is not None and COUNT in (raw.dtype.names or ()) else None
    if found is None or np.size(found) != len(mesh.vertices):
        return None
    return np.ravel(found).round().astype(np.int32)


def unseen_share(mesh: trimesh.Trimesh, counts: np.ndarray) -> float:
    """Return the share of a mesh's area that no photo shows, by the counts [V] of its vertices."""
    areas = mesh.area_faces
    return float(areas[(counts[mesh.faces] == 0).all(1)].sum() / areas.sum())


def count_colours(counts: np.ndarray) -> np.ndarray:
    """Return colours [V, 3] uint8 of how many photos show vertices: red for none, over yellow, to blue for many."""
    share = np.clip((counts - 1) / (_OFTEN - 1), 0, 1)[:, None]
    mixed = (1 - share) * np.array(_SEEN_ONCE) + share * np.array(_SEEN_OFTEN)
    found: np.ndarray = np.where(counts[:, None] > 0, mixed, np.array(_UNSEEN)).round().astype(np.uint8)
    return found
