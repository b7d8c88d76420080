"""A training's splat, or one of another program, as a mesh."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh
from rich.console import Console

from difix3d_ns.apps.export_splat import Coordinates, check_crop, check_output
from difix3d_ns.apps.opened_splats import config_of, opened
from difix3d_ns.errors import UserError
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.meshing.mesh_files import MESH_ENDINGS, NAME, frame_file, write_mesh
from difix3d_ns.meshing.photo_counts import count_colours
from difix3d_ns.meshing.splat_mesh import MeshOptions, mesh_of_splat
from difix3d_ns.meshing.volume import Box
from difix3d_ns.ns.splat_frame import SplatFrame

Colours = Literal["photos", "count"]
TEXTURE = 2048
"""pixels of a texture's side, where nobody says how many"""


@dataclass(frozen=True)
class MeshFile:
    """A mesh that was written."""

    files: tuple[Path, ...]  # the mesh first
    faces: int
    parts: int
    unseen: float  # share of the area that no photo shows
    sides: tuple[float, float, float]  # of its box
    seconds: float

    def describe(self) -> str:
        """Return it for people."""
        size = " x ".join(f"{side:.3g}" for side in self.sides)
        parts = "one part" if self.parts == 1 else f"{self.parts} parts"
        beside = "".join(f", {file.name}" for file in self.files[1:])
        megabytes = sum(file.stat().st_size for file in self.files) / 1e6
        return (
            f"{self.files[0]}{beside}: {self.faces:,} faces in {parts}, {size}, {megabytes:.1f} MB, made in "
            f"{self.seconds:.0f} s; no photo shows {self.unseen:.1%} of its surface"
        )


def mesh(
    splat: Path,
    output: Path | None = None,
    data: Path | None = None,
    options: MeshOptions | None = None,
    frame: Coordinates = "training",
    colours: Colours = "photos",
    texture: int | None = None,
    force: bool = False,
) -> MeshFile:
    """Write a mesh of a splat.

    Args:
        splat: config.yml of a training, its folder, or a .ply.
        output: file; its ending is one of ``MESH_ENDINGS``. None: mesh.glb in the training's folder.
        data: the scene, for a .ply.
        options: of the mesh; its texture is set here.
        frame: coordinates of the file, and of the box unless it has a turn.
        colours: photos: as photographed; count: by how many photos show a face.
        texture: side in pixels, 0 for colours of vertices; None: ``TEXTURE`` where the format has one.
        force: overwrite a file that is there.

    Raises:
        UserError: the flags are no good, there is no such splat, or it has no surface.
    """
    started = time.perf_counter()
    options = options or MeshOptions()
    config = config_of(splat, data)
    if output is None:
        if config is None:
            raise UserError(f"{splat}: give --output, the file to write")
        output = config.parent / f"{NAME}.glb"
    check_output(output, MESH_ENDINGS, force)
    pipeline = opened(splat, data, config)
    plain = output.suffix.lower() == ".ply" or colours == "count"
    if texture is None:
        texture = 0 if plain else TEXTURE
    if texture and plain:
        raise UserError("--texture: a .ply, and --colours count, have colours of vertices; give --texture 0")
    place = SplatFrame.of(pipeline.datamanager.train_dataparser_outputs)
    if frame == "capture" and options.box is not None and options.turn is None:
        options = replace(options, turn=place.to_original)
    with _shown_progress() as progress:
        made = mesh_of_splat(pipeline.scene, pipeline.renderer, replace(options, texture=texture), progress)
    if frame == "capture":
        made = replace(made, mesh=_placed(made.mesh, place.to_original))
    shown = made.colours if colours == "photos" else count_colours(made.counts)
    try:
        files = write_mesh(output, made.mesh, shown, made.counts, made.picture, made.places, z_up=frame == "training")
        if frame == "training":
            beside = frame_file(output)
            place.write(beside)
            files.append(beside)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error}") from error
    sides = tuple(float(side) for side in made.mesh.extents)
    return MeshFile(
        tuple(files),
        len(made.mesh.faces),
        made.parts,
        made.unseen,
        (sides[0], sides[1], sides[2]),
        time.perf_counter() - started,
    )


def box_of(crop: tuple[float, ...]) -> Box:
    """Return the box of --crop.

    Raises:
        UserError: it is none.
    """
    check_crop(crop)
    return Box(np.array(crop[:3], float), np.array(crop[3:], float))


def turned_box(
    centre: tuple[float, float, float], rotation: tuple[float, float, float], size: tuple[float, float, float]
) -> tuple[Box, np.ndarray]:
    """Return a box around the origin, and the matrix [4, 4] to its coordinates from those of training.

    Args:
        centre: of the box, as the viewer's Export tab writes it.
        rotation: roll, pitch and yaw in radians.
        size: its sides.

    Raises:
        UserError: a side is not above 0.
    """
    from nerfstudio.data.scene_box import OrientedBox

    if min(size) <= 0:
        raise UserError(f"--obb-scale {' '.join(f'{side:g}' for side in size)}: all three are sides, above 0")
    x, y, z = (float(value) for value in rotation)
    given = OrientedBox.from_params(centre, (x, y, z), size)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = given.R.numpy(), given.T.numpy()
    half = np.array(size, float) / 2
    return Box(-half, half), np.linalg.inv(matrix)


def _placed(given: trimesh.Trimesh, matrix: np.ndarray) -> trimesh.Trimesh:
    moved = given.copy()
    moved.apply_transform(matrix)
    return moved


@contextmanager
def _shown_progress() -> Iterator:
    with progress_bar(Console(stderr=True), counted=True) as bar:
        tasks: dict[str, int] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        yield report
