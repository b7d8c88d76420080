"""Meshes as files that Blender, MeshLab and web viewers open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import write_bytes

MESH_ENDINGS = (".glb", ".obj", ".ply")
NAME = "mesh"
"""of a training's mesh in its folder, without the ending"""
COUNT, GLB_COUNT = "photos", "_PHOTOS"
"""attribute of vertices: number of photos that show them; in a .glb names of one's own begin with a line"""
_UPRIGHT = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # z up to glTF's y up


def write_mesh(
    path: Path,
    mesh: trimesh.Trimesh,
    colours: np.ndarray,
    counts: np.ndarray,
    picture: np.ndarray | None = None,
    places: np.ndarray | None = None,
    z_up: bool = True,
) -> list[Path]:
    """Write a mesh.

    Args:
        path: its ending is one of ``MESH_ENDINGS``. A .glb holds everything; beside an .obj lie its .mtl and .png.
        mesh: without colours.
        colours: [V, 3] uint8 of its vertices, which are written unless there is a picture and the format has one.
        counts: [V] photos that show each vertex; an .obj cannot hold them.
        picture: [S, S, 3] uint8 of its texture.
        places: [V, 2] of its vertices in the picture: right, up.
        z_up: whether z points up, so that a .glb is turned to y up, as glTF wants it.

    Returns:
        All files that were written.

    Raises:
        OSError: they cannot be.
    """
    ending = path.suffix.lower()
    textured = picture is not None and ending != ".ply"
    written = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=np.asarray(mesh.vertex_normals), process=False)
    if picture is not None and textured:
        image = Image.fromarray(picture)
        look: Any = trimesh.visual.material.PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0)
        if ending == ".obj":
            look = trimesh.visual.material.SimpleMaterial(image=image)
        written.visual = trimesh.visual.TextureVisuals(uv=places, material=look)
    else:
        opaque = np.full((len(colours), 1), 255, np.uint8)
        written.visual = trimesh.visual.ColorVisuals(written, vertex_colors=np.concatenate([colours, opaque], 1))
    if ending != ".obj":
        written.vertex_attributes[GLB_COUNT if ending == ".glb" else COUNT] = counts.astype(np.float32)
    if ending == ".glb":
        _recolour(written, _to_linear)
    if ending == ".glb" and z_up:
        written.apply_transform(_UPRIGHT)
    return _written(path, _exported(written, path, textured))


def frame_file(path: Path) -> Path:
    """Return the file beside a mesh that has the way back to the capture's coordinates, if it is not in them."""
    return path.with_name(f"{path.stem}_frame.json")


def mesh_in(folder: Path) -> Path | None:
    """Return the mesh of a training in its folder; None if there is none."""
    return next((file for ending in MESH_ENDINGS if (file := folder / f"{NAME}{ending}").is_file()), None)


def read_upright(path: Path) -> trimesh.Trimesh:
    """Read a mesh with z up: an .obj of another program, which no ``frame_file`` lies beside, has y up.

    Raises:
        UserError: as ``read_mesh``.
    """
    found = read_mesh(path)
    if path.suffix.lower() == ".obj" and not frame_file(path).is_file():
        found.apply_transform(_UPRIGHT.T)
    return found


def read_mesh(path: Path, z_up: bool = True) -> trimesh.Trimesh:
    """Read a mesh of any format that trimesh reads.

    Args:
        path: of the file.
        z_up: whether its z pointed up when it was written, so that a .glb is turned back from y up.

    Raises:
        UserError: it cannot be read, or has no faces.
    """
    try:
        found = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # whatever a reader of a format raises
        raise UserError(f"{path} is no mesh that can be read: {error}") from error
    if not isinstance(found, trimesh.Trimesh) or not len(found.faces):
        raise UserError(f"{path} has no faces: it is no mesh")
    if path.suffix.lower() in (".glb", ".gltf"):
        _recolour(found, _to_srgb)
        if z_up:
            found.apply_transform(_UPRIGHT.T)
    return found


def with_linear_colours(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Return a mesh whose vertices have linear colours instead of sRGB, as glTF wants them; textures stay sRGB."""
    found = mesh.copy()
    _recolour(found, _to_linear)
    return found


def _recolour(mesh: trimesh.Trimesh, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the colours of vertices, in [0, 1]; a mesh without them stays as it is."""
    if isinstance(mesh.visual, trimesh.visual.ColorVisuals) and mesh.visual.kind == "vertex":
        colours = np.array(mesh.visual.vertex_colors)
        colours[:, :3] = np.round(change(colours[:, :3] / 255) * 255)
        mesh.visual.vertex_colors = colours


def _to_linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _to_srgb(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def _exported(mesh: trimesh.Trimesh, path: Path, textured: bool) -> Mapping[Path, bytes]:
    """Contents by file."""
    if path.suffix.lower() != ".obj":
        content: Any = mesh.export(file_type=path.suffix.lower()[1:])
        return {path: content}
    if not textured:
        return {path: trimesh.exchange.obj.export_obj(mesh).encode()}
    name = path.stem.replace(" ", "_")  # a blank ends a name in an .obj
    text, beside = trimesh.exchange.obj.export_obj(mesh, return_texture=True, mtl_name=f"{name}.mtl")
    files = {path: text.encode()}
    pictures = [each for each in beside if not each.endswith(".mtl")]
    for each, content in beside.items():
        if each.endswith(".mtl"):
            for number, picture in enumerate(pictures):
                content = content.replace(picture.encode(), _picture_name(name, number).encode())
            files[path.with_name(each)] = content
        else:
            files[path.with_name(_picture_name(name, pictures.index(each)))] = content
    return files


def _picture_name(name: str, number: int) -> str:
    return f"{name}.png" if number == 0 else f"{name}_{number}.png"


def _written(path: Path, files: Mapping[Path, bytes]) -> list[Path]:
    """Write files, that of the mesh last."""
    for file in [*(each for each in files if each != path), path]:
        write_bytes(file, files[file])
    return list(files)
