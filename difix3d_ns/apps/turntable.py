"""A video around what a training's photos look at, or around a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from difix3d_ns.apps.opened_splats import config_of, full_size, opened
from difix3d_ns.apps.video_files import (
    ANIMATION,
    ANIMATION_RATE,
    MAX_ANIMATION_RATE,
    RATE,
    VIDEO,
    check_video,
    even,
    labelled,
    video_writer,
)
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report.page_pictures import pixels
from difix3d_ns.geometry.orbits import circle, converging, look_at_point, orbit, surrounding, swing
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.io.splat_files import is_splat
from difix3d_ns.meshing.mesh_files import MESH_ENDINGS, mesh_in, read_upright
from difix3d_ns.meshing.mesh_pictures import MeshPictures
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.ns.placed_mesh import mesh_in_splat
from difix3d_ns.ns.splat_frame import SplatFrame

Shown = Literal["rgb", "enhanced", "mesh"]
_LABELS: dict[Shown, str] = {"rgb": "plain", "enhanced": "enhanced", "mesh": "mesh"}
LONG_SIDES = {VIDEO: 800, ANIMATION: 480}
"""pixels of a mesh's pictures, and of an animation's at most, where nobody says how many"""
_MIN_SIDE, _MAX_SIDE = 32, 8192  # pixels
_MAX_FRAMES = 20_000


@dataclass(frozen=True)
class Turntable:
    """A video that was written."""

    file: Path
    frames: int
    width: int
    height: int
    seconds: float
    whole: bool  # once around; else there and back

    def describe(self) -> str:
        """Return it for people."""
        way = "once around" if self.whole else "there and back: the photos stand on one side"
        size = f"{self.width} x {self.height}"
        return f"{self.file}: {self.frames} frames of {size}, {self.seconds:g} s, {way}"


@dataclass(frozen=True)
class _Stage:
    """Frames to render: cameras, and pictures from each."""

    cameras: list[Pinhole]  # of all frames, of one size
    shown: Sequence[Shown]  # side by side
    draw: Callable[[Pinhole], dict[Shown, np.ndarray]]  # their pictures [H, W, 3] uint8
    whole: bool


def turntable(
    source: Path,
    output: Path,
    show: Sequence[Shown] = (),
    mesh: Path | None = None,
    seconds: float = 6.0,
    frames: int | None = None,
    long_side: int | None = None,
    data: Path | None = None,
    force: bool = False,
) -> Turntable:
    """Write a video of a camera that goes once around; where photos stand on one side alone, there and back.

    Args:
        source: config.yml of a training, its folder, a splat's .ply, or a mesh.
        output: an ``.mp4`` or a ``.gif``.
        show: what is shown side by side. Empty: rgb, with the mesh if one is given; of a mesh, itself.
        mesh: file; None: mesh.glb, .obj or .ply in the training's folder.
        seconds: of the video.
        frames: of the video; None: ``RATE`` or ``ANIMATION_RATE`` a second.
        long_side: of each picture in pixels; None: the photos', or ``LONG_SIDES``.
        data: the scene, for a splat's .ply.
        force: overwrite a file that is there.

    Raises:
        UserError: the flags are no good, nothing is there to go around, or the output cannot be written.
    """
    check_video(output, (VIDEO, ANIMATION), seconds, force)
    ending = output.suffix.lower()
    count = round(seconds * (RATE if ending == VIDEO else ANIMATION_RATE)) if frames is None else frames
    if not 2 <= count <= _MAX_FRAMES:
        raise UserError(
            f"{count} frames: at least 2 and at most {_MAX_FRAMES} are needed; change --seconds or --frames"
        )
    if ending == ANIMATION and count > MAX_ANIMATION_RATE * seconds:
        raise UserError(f"--frames {count}: an animation has at most {MAX_ANIMATION_RATE} frames a second")
    if long_side is not None and not _MIN_SIDE <= long_side <= _MAX_SIDE:
        raise UserError(f"--long-side {long_side}: at least {_MIN_SIDE} and at most {_MAX_SIDE} are needed")
    if not source.exists():
        raise UserError(f"{source} does not exist; give a training, its folder or a mesh")
    shown = tuple(dict.fromkeys(show))
    if source.suffix.lower() in MESH_ENDINGS and not is_splat(source):
        if mesh is not None or data is not None or set(shown) - {"mesh"}:
            raise UserError(f"{source} is a mesh, which is shown alone: leave out --mesh, --data and --show")
        stage = _around_mesh(source, count, long_side or LONG_SIDES[ending])
    else:
        size = functools.partial(_sized, ending=ending, long_side=long_side)
        stage = _around_splat(source, data, shown, mesh, count, size)
    width, height = _written(stage, output, count / seconds)
    return Turntable(output, count, width, height, seconds, stage.whole)


def _written(stage: _Stage, output: Path, rate: float) -> tuple[int, int]:
    """Render and write all frames; (width, height) of one."""
    size = stage.cameras[0]
    width, height = size.width * len(stage.shown), size.height
    try:
        with (
            progress_bar(Console(stderr=True), counted=True) as bar,
            video_writer(output, height, width, rate) as write,
        ):
            task = bar.add_task("Rendering", total=len(stage.cameras))
            for camera in stage.cameras:
                write(_beside(stage.draw(camera)))
                bar.advance(task)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error}") from error
    return width, height


def _beside(pictures: dict[Shown, np.ndarray]) -> np.ndarray:
    if len(pictures) == 1:
        return next(iter(pictures.values()))
    return np.concatenate([labelled(picture, _LABELS[name]) for name, picture in pictures.items()], axis=1)


def _around_mesh(file: Path, count: int, side: int) -> _Stage:
    found = read_upright(file)
    low, high = (torch.from_numpy(np.array(corner)) for corner in found.bounds)
    size = side // 2 * 2
    drawn = MeshPictures(found)
    cameras = circle(low, high, count, size, size)
    return _Stage(cameras, ("mesh",), lambda camera: {"mesh": pixels(drawn.render(camera))}, True)


def _around_splat(
    source: Path,
    data: Path | None,
    show: Sequence[Shown],
    mesh: Path | None,
    count: int,
    size: Callable[[Pinhole], Pinhole],
) -> _Stage:
    config = config_of(source, data)
    shown: Sequence[Shown] = show or (("rgb",) if mesh is None else ("rgb", "mesh"))
    if mesh is not None and "mesh" not in shown:
        raise UserError(f"--mesh {mesh}: add mesh to --show")
    file = _mesh_of(config, mesh) if "mesh" in shown else None
    pipeline = opened(source, data, config)
    photos = pipeline.scene.cameras()
    if not converging(photos):
        walk = f"ns-render interpolate --load-config {config or 'CONFIG'} --output-path walk.mp4"
        raise UserError(
            f"the photos of {source} do not stand around something, so that there is nothing to go around. For a room: "
            f"{walk}, or difix3d compare CONFIG OTHER_CONFIG --output wipe.mp4"
        )
    if "enhanced" in shown and not {"enhanced", "raw"} & {*pipeline.model.output_names}:
        raise UserError("--show enhanced: the enhancer is off; DIFIX3D_ENHANCE=key before the command switches it on")
    drawn = None
    if file is not None:
        frame = SplatFrame.of(pipeline.datamanager.train_dataparser_outputs)
        placed = mesh_in_splat(file, frame, look_at_point(photos))
        drawn = MeshPictures(placed, tuple(pipeline.model.background_color.tolist()))
    whole = surrounding(photos)
    way = (orbit if whole else swing)(photos, count)
    lens = size(full_size(pipeline, way[0]))
    cameras = [replace(each, intrinsics=lens.intrinsics, width=lens.width, height=lens.height) for each in way]
    return _Stage(cameras, shown, lambda camera: _drawn(pipeline, drawn, camera, shown), whole)


def _mesh_of(config: Path | None, mesh: Path | None) -> Path:
    """The file of the mesh that is shown beside a splat."""
    if mesh is not None:
        if not mesh.is_file():
            raise UserError(f"--mesh {mesh} does not exist")
        return mesh
    if config is None:
        raise UserError("--show mesh: give --mesh, the file that difix3d mesh has made")
    found = mesh_in(config.parent)
    if found is None:
        raise UserError(f"--show mesh: {config.parent} has no mesh; first make one: difix3d mesh {config}")
    return found


def _sized(camera: Pinhole, ending: str, long_side: int | None) -> Pinhole:
    """The camera of a video: of the given long side, or as it is, of an animation smaller."""
    if long_side is None:
        return even(camera.within(LONG_SIDES[ANIMATION]) if ending == ANIMATION else camera)
    factor = long_side / max(camera.width, camera.height)
    return even(camera.resized(round(camera.width * factor), round(camera.height * factor)))


@torch.no_grad()
def _drawn(
    pipeline: Any, mesh: MeshPictures | None, camera: Pinhole, shown: Sequence[Shown]
) -> dict[Shown, np.ndarray]:
    found: dict[Shown, np.ndarray] = {}
    outputs: Any = {}
    if {"rgb", "enhanced"} & {*shown}:
        outputs = pipeline.model.get_outputs_for_camera(to_cameras(camera).to(pipeline.device))
    always = "raw" in outputs  # enhanced as a matter of course
    for name in shown:
        if name == "mesh":
            assert mesh is not None
            found[name] = pixels(mesh.render(camera))
        else:
            found[name] = pixels(outputs[{"rgb": "raw", "enhanced": "rgb"}[name] if always else name])
    return found
