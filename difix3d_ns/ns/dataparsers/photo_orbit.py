"""One picture as a scene: its object from cameras all around, made by a generator, kept beside the picture."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.object_frame import FRAMES, MAX_ELEVATION, MIN_ELEVATION, object_cameras
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.io.atomic import replacing, write_json
from difix3d_ns.io.cut_objects import read_object
from difix3d_ns.io.images import READABLE, Picture, write_picture
from difix3d_ns.io.point_files import write_points
from difix3d_ns.io.progress import counted_down
from difix3d_ns.io.run import Run
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene
from difix3d_ns.ns.dataparsers.transforms_file import read_transforms
from difix3d_ns.priors.base import ObjectFrame, OrbitGenerator
from difix3d_ns.priors.orbit_generator_config import OrbitGeneratorConfig

SIDE, CPU_SIDE = 512, 256
"""pixels of the frames, on CUDA and on a CPU"""
HOW_TO_JUDGE = (
    "0 where the camera looks straight at the object, 30 where it looks down on it as at something on a table, "
    "negative where it looks up"
)
_POINTS = 4000
_VERSION = 1  # of what is written


@dataclass
class SinglePhotoConfig:
    """Settings of a scene that is one picture."""

    elevation: float | None = None
    """degrees that the camera looks down on the object: 0 at eye level, 30 from above; has to be given"""
    side: int | None = None
    """pixels of the frames, at most (unset: 256 on a CPU, 512 on CUDA)"""
    frames: int = FRAMES
    """cameras all around the object, the picture's among them"""
    generator: OrbitGeneratorConfig = field(default_factory=OrbitGeneratorConfig)
    """what makes the other frames"""

    def fit(self, run: Run) -> None:
        """Fill in what is unset."""
        if self.side is None:
            self.side = CPU_SIDE if run.on_cpu else SIDE

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if a setting cannot work."""
        if self.elevation is not None:
            check_elevation(self.elevation, f"{flag}.elevation")
        if self.frames < 3:
            raise UserError(f"{flag}.frames {self.frames}: 3 or more are needed")
        if self.side is not None and self.side < 64:
            raise UserError(f"{flag}.side {self.side}: 64 or more is needed")
        self.generator.check(f"{flag}.generator")


def check_elevation(elevation: float, flag: str) -> None:
    """Raise a UserError that names the flag if no camera stands there."""
    if not (math.isfinite(elevation) and MIN_ELEVATION <= elevation <= MAX_ELEVATION):
        raise UserError(
            f"{flag} {elevation:g}: {MIN_ELEVATION:g} to {MAX_ELEVATION:g} degrees are possible; {HOW_TO_JUDGE}"
        )


@dataclass
class SinglePhotoParserConfig(NerfstudioDataParserConfig):
    """Settings of a scene that is one picture; its frame is the object's."""

    orientation_method: Any = "none"
    center_method: Any = "none"
    auto_scale_poses: bool = False
    load_3D_points: bool = True
    photo: SinglePhotoConfig = field(default_factory=SinglePhotoConfig)
    device: str = "cpu"


def is_single_photo(data: Path | None) -> bool:
    """Return whether a scene is one picture."""
    return data is not None and data.is_file() and data.suffix.lower() in READABLE


def dataparser_of(
    parser: DataParserConfig, data: Path | None, photo: SinglePhotoConfig, device: str = "cpu"
) -> DataParserConfig:
    """Return what reads a scene: ``parser``, or of one picture its own."""
    if data is None or not is_single_photo(data):
        return parser
    return SinglePhotoParserConfig(data=data, photo=photo, device=device)


def read_single_photo(config: SinglePhotoParserConfig) -> DescribedScene:
    """Describe the orbit of a picture; it is made if it is not there.

    Raises:
        UserError: see ``make_orbit``.
    """
    folder = make_orbit(Path(config.data), config.photo, config.device)
    scene = read_transforms(folder / "transforms.json", points=config.load_3D_points)
    return replace(scene, notes=[f"{len(scene.frames)} frames, the photo and what was made of it: {folder}"])


def make_orbit(picture: Path, config: SinglePhotoConfig, device: str = "cpu") -> Path:
    """Make the frames of an orbit around a picture's object, as a scene beside the picture.

    Args:
        picture: file.
        config: how.
        device: cpu or cuda, for the generator.

    Returns:
        The folder, named after the picture and what its frames depend on; one that is there is used again.

    Raises:
        UserError: no elevation is given, the picture has not one whole object, or the folder cannot be written.
    """
    if config.elevation is None:
        raise UserError(
            f"{picture} is one picture, which does not show from how far above it was taken: give "
            f"--pipeline.datamanager.photo.elevation DEGREES (difix3d image-to-3d: --elevation): {HOW_TO_JUDGE}"
        )
    check_elevation(config.elevation, "--pipeline.datamanager.photo.elevation")
    side = config.side or (CPU_SIDE if torch.device(device).type == "cpu" else SIDE)
    generator = config.generator
    made_of = {
        "picture": hashlib.sha256(_content(picture)).hexdigest(),
        "elevation": config.elevation,
        "side": side,
        "frames": config.frames,
        "generator": generator.name,
        "weights": generator.weights,
        "dtype": generator.dtype,
        "seed": generator.seed,
        "version": _VERSION,
    }
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]
    folder = picture.with_name(f"{picture.stem}_orbit_{key}")
    if (folder / "transforms.json").is_file():
        return folder
    photo = read_object(picture, side).image
    loaded = generator.load(torch.device(device))
    frames = _generated(loaded, photo, config)
    about = getattr(loaded, "about", f"What the photo does not show is made up by {generator.name}.")
    try:
        with replacing(folder) as part:
            part.mkdir()
            write_json(part / "orbit.json", {**made_of, "picture": picture.name})
            _write(part, frames, object_cameras(config.elevation, photo.shape[0], config.frames), about)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error}; copy the picture to a folder that can be, and give that one"
        ) from error
    return folder


def _content(picture: Path) -> bytes:
    try:
        return picture.read_bytes()
    except OSError as error:
        raise UserError(f"{picture} cannot be read: {error.strerror}") from error


def _generated(generator: OrbitGenerator, photo: Tensor, config: SinglePhotoConfig) -> list[ObjectFrame]:
    assert config.elevation is not None
    state = generator.start(photo, config.elevation, config.frames, config.generator.seed)
    with counted_down("Frames around the object", CONSOLE) as on_step:
        while left := generator.steps_left(state):
            on_step(left)
            state = generator.step(state)
    return generator.result(state)


def _write(folder: Path, frames: list[ObjectFrame], cameras: list[Pinhole], about: str) -> None:
    """Write frames as a scene; the file that makes it one comes last."""
    (folder / "images").mkdir()
    (folder / "depths").mkdir()
    names: list[str] = []
    entries: list[dict[str, Any]] = []
    for number, (frame, camera) in enumerate(zip(frames, cameras, strict=True)):
        names.append(f"images/frame_{number:03d}.png")
        write_picture(folder / names[-1], Picture(frame.image, frame.alpha))
        lens, opengl = camera.intrinsics, camera.camera_to_world.numpy() @ np.diag([1.0, -1, -1, 1])
        entries.append(
            {
                "file_path": names[-1],
                "fl_x": float(lens[0, 0]),
                "fl_y": float(lens[1, 1]),
                "cx": float(lens[0, 2]),
                "cy": float(lens[1, 2]),
                "w": camera.width,
                "h": camera.height,
                "transform_matrix": opengl.tolist(),
            }
        )
        if frame.depth is not None:
            entries[-1]["depth_file_path"] = f"depths/frame_{number:03d}.npy"
            np.save(folder / entries[-1]["depth_file_path"], frame.depth[..., 0].numpy())
    meta: dict[str, Any] = {
        "orientation_override": "none",
        "frames": entries,
        "train_filenames": names,
        "val_filenames": [],
        "test_filenames": [],
        "generated_filenames": names[1:],
        "generated_about": about,
    }
    found = _points(frames, cameras)
    if found is not None:
        write_points(*found, folder / "points.ply")
        meta["ply_file_path"] = "points.ply"
    write_json(folder / "transforms.json", meta)


def _points(frames: list[ObjectFrame], cameras: list[Pinhole]) -> tuple[np.ndarray, np.ndarray] | None:
    """Points on the surface that the frames' depth shows, [N, 3] float32, with colours [N, 3] uint8."""
    shown = [(frame, camera) for frame, camera in zip(frames, cameras, strict=True) if frame.depth is not None]
    if not shown:
        return None
    generator = torch.Generator().manual_seed(0)
    places, colours = [], []
    for frame, camera in shown:
        assert frame.depth is not None
        solid = ((frame.depth > 0) & (frame.alpha > 0.5))[..., 0].nonzero()  # [P, 2]
        chosen = solid[torch.randperm(len(solid), generator=generator)[: -(-_POINTS // len(shown))]]
        rows, columns = chosen.unbind(1)
        places.append(unproject(frame.depth, camera)[rows, columns])
        colours.append(frame.image[rows, columns])
    found = torch.cat(places).float().numpy(), (torch.cat(colours) * 255).round().byte().numpy()
    return found if len(found[0]) else None
