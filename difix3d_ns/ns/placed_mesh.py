"""A mesh from its file in the coordinates of a splat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.meshing.mesh_files import frame_file, read_mesh
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.starting_splat import read_transform

_GROWN = 0.5  # of a mesh's box, on either side: what the photos look at lies in it
_SAME = 1e-6  # of a matrix: it moves nothing


def mesh_in_splat(path: Path, frame: SplatFrame, point: Tensor | None = None) -> trimesh.Trimesh:
    """Read a mesh into the coordinates of a splat.

    It is in the coordinates that the file beside it says, as ``difix3d mesh`` writes it; without that file, or where
    what the photos look at does not lie there, in those of the capture, or already in the splat's.

    Args:
        path: of the mesh.
        frame: of the splat.
        point: [3] what the photos look at; None if that is not known.

    Raises:
        UserError: it is no mesh, or the point does not lie in it anywhere.
    """
    from_capture = np.linalg.inv(frame.to_original)
    beside = frame_file(path)
    ways = [(False, from_capture), (True, np.eye(4))]
    if beside.is_file():
        ways = [(True, from_capture @ read_transform(beside)), ways[0]]
    for z_up, matrix in ways:
        found = read_mesh(path, z_up)
        if not np.allclose(matrix, np.eye(4), atol=_SAME):
            found.apply_transform(matrix)
        if point is None or _holds(found, point.cpu().double().numpy()):
            return found
    raise UserError(
        f"{path} does not lie where the photos look: is it of this training? {beside.name}, which difix3d mesh writes, "
        "has to lie beside it"
    )


def _holds(mesh: trimesh.Trimesh, point: np.ndarray) -> bool:
    low, high = mesh.bounds
    margin = _GROWN * (high - low)
    return bool(((point > low - margin) & (point < high + margin)).all())
