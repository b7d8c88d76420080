"""One picture as a scene: its object from cameras all around, made by a generator, kept beside the picture."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import time
from contextlib import suppress
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
from difix3d_ns.io.atomic import remove_unfinished, replacing, write_json, write_tensors
from difix3d_ns.io.cut_objects import read_object
from difix3d_ns.io.images import READABLE, Picture, write_picture
from difix3d_ns.io.point_files import write_points
from difix3d_ns.io.progress import counted_down
from difix3d_ns.io.run import Run
from difix3d_ns.io.transforms_frames import frame_entry
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene
from difix3d_ns.ns.dataparsers.transforms_file import read_transforms
from difix3d_ns.priors.base import ObjectFrame, OrbitGenerator, State
from difix3d_ns.priors.orbit_generator_config import OrbitGeneratorConfig

SIDE, CPU_SIDE = 512, 256
"""pixels of the frames, on CUDA and on a CPU"""
HOW_TO_JUDGE = (
    "0 where the camera looks straight at the object, 30 where it looks down on it as at something on a table, "
    "negative where it looks up"
)
MIN_FRAMES = 3
_FLAG = "--pipeline.datamanager.photo"
_POINTS = 4000
_SAVE_EVERY = 30.0  # seconds of work that a kill may cost
_VERSION = 2  # of what is written


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
        if self.frames < MIN_FRAMES:
            raise UserError(f"{flag}.frames {self.frames}: {MIN_FRAMES} or more are needed")
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

    Work that was interrupted goes on where it was saved. Frames whose object is not cut out are left out.

    Args:
        picture: file.
        config: how.
        device: cpu or cuda, for the generator.

    Returns:
        The folder, named after the picture and what its frames depend on; one that is there is used again.

    Raises:
        UserError: no elevation is given, the picture has not one whole object, the generator fails, or the folder
            cannot be written.
    """
    if config.elevation is None:
        raise UserError(
            f"{picture} is one picture, which does not show from how far above it was taken: give "
            f"{_FLAG}.elevation DEGREES (difix3d image-to-3d: --elevation): {HOW_TO_JUDGE}"
        )
    check_elevation(config.elevation, f"{_FLAG}.elevation")
    side = config.side or (CPU_SIDE if torch.device(device).type == "cpu" else SIDE)
    generator = config.generator
    made_of = {
        "picture": hashlib.sha256(_content(picture)).hexdigest(),
        "elevation": config.elevation,
        "side": side,
        "frames": config.frames,
        "generator": generator.name,
        "weights": generator.weights,
        "weight_files": _weight_files(generator.weights),
        "dtype": generator.dtype,
        "seed": generator.seed,
        "version": _VERSION,
    }
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]
    folder = picture.with_name(f"{picture.stem}_orbit_{key}")
    if (folder / "transforms.json").is_file():
        return folder
    if (before := _made_before(picture, made_of)) is not None:
        return before
    photo = read_object(picture, side).image
    loaded = generator.load(torch.device(device))
    state = picture.with_name(f".{folder.name}.safetensors")
    for path in (folder, state):
        remove_unfinished(path.parent, glob.escape(path.suffix), glob.escape(path.stem))
    frames = _generated(loaded, photo, config, state)
    cameras = object_cameras(config.elevation, frames[0].image.shape[0], config.frames)
    cut_out = [number == 0 or bool((frame.alpha < 0.5).any()) for number, frame in enumerate(frames)]
    about = loaded.about or f"What the photo does not show is made up by {generator.name}."
    if not all(cut_out):
        about += f" {cut_out.count(False)} of {len(frames)} frames are left out: their background has several colours."
    if sum(cut_out) < MIN_FRAMES:
        raise UserError(
            f"{_FLAG}.generator.seed {generator.seed}: of {len(frames)} frames {cut_out.count(False)} have a "
            f"background of several colours, and {MIN_FRAMES} without are needed; give another seed"
        )
    try:
        with replacing(folder) as part:
            part.mkdir()
            write_json(part / "orbit.json", {**made_of, "name": picture.name})
            _write(part, frames, cameras, cut_out, about)
    except OSError as error:
        if (folder / "transforms.json").is_file():  # another training has made it meanwhile
            return folder
        raise UserError(
            f"{folder} cannot be written: {error}; copy the picture to a folder that can be, and give that one"
        ) from error
    state.unlink(missing_ok=True)
    return folder


def _weight_files(weights: str | None) -> list[list[str | int]] | None:
    """Names, sizes and times of change of the files of weights that are here; None if none are."""
    if weights is None or not (place := Path(weights).expanduser()).exists():
        return None
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    stats = [(path, path.stat()) for path in files if not path.name.startswith(".")]
    return [[path.relative_to(place).as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _made_before(picture: Path, made_of: dict[str, Any]) -> Path | None:
    """Find an orbit that was made with weights that are not here any more, as of a training that is opened."""
    if made_of["weights"] is None or made_of["weight_files"] is not None:
        return None
    wanted = {**made_of, "name": picture.name, "weight_files": None}
    for facts in sorted(picture.parent.glob(f"{glob.escape(picture.stem)}_orbit_*/orbit.json")):
        with suppress(OSError, ValueError):
            found = json.loads(facts.read_text(encoding="utf-8"))
            if {**found, "weight_files": None} == wanted and (facts.parent / "transforms.json").is_file():
                return facts.parent
    return None


def _content(picture: Path) -> bytes:
    try:
        return picture.read_bytes()
    except OSError as error:
        raise UserError(f"{picture} cannot be read: {error.strerror}") from error


def _generated(generator: OrbitGenerator, photo: Tensor, config: SinglePhotoConfig, saved: Path) -> list[ObjectFrame]:
    """Run a generator, or let it go on from a state that was saved; the state is saved now and then.

    Raises:
        UserError: naming the flag, if it fails or gives other frames than are needed.
    """
    assert config.elevation is not None
    name = f"the orbit generator {config.generator.name!r} ({_FLAG}.generator.name)"
    state = _read_state(saved)
    try:
        if state is None:
            state = generator.start(photo, config.elevation, config.frames, config.generator.seed)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{name} cannot begin: {error}; see {_FLAG}.frames {config.frames} and {_FLAG}.elevation "
            f"{config.elevation:g}"
        ) from error
    since = time.monotonic()
    try:
        with counted_down("Frames around the object", CONSOLE) as on_step:
            while left := generator.steps_left(state):
                on_step(left)
                state = generator.step(state)
                if time.monotonic() - since > _SAVE_EVERY:
                    _save_state(saved, state)
                    since = time.monotonic()
        frames = generator.result(state)
    except (ValueError, RuntimeError) as error:  # of memory, CUDA's is a RuntimeError
        saved.unlink(missing_ok=True)
        raise UserError(
            f"{name} fails: {error}; give {_FLAG}.generator.dtype float32 or bfloat16, or another generator"
        ) from error
    sides = {tuple(frame.image.shape[:2]) for frame in frames}
    if len(frames) != config.frames or len(sides) != 1 or len(set(sides.pop())) != 1:
        raise UserError(
            f"{name} gives {len(frames)} frames where {_FLAG}.frames {config.frames} square ones of one size are needed"
        )
    return frames


def _save_state(path: Path, state: State) -> None:
    """Save a state; where that is not possible, work goes on."""
    with suppress(OSError):
        write_tensors(path, {key: values.clone(memory_format=torch.contiguous_format) for key, values in state.items()})


def _read_state(path: Path) -> State | None:
    from safetensors import SafetensorError  # not for every ns-command
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _write(folder: Path, frames: list[ObjectFrame], cameras: list[Pinhole], cut_out: list[bool], about: str) -> None:
    """Write frames, those that are cut out, as a scene; the file that makes it one comes last."""
    (folder / "images").mkdir()
    (folder / "depths").mkdir()
    names: list[str] = []
    entries: list[dict[str, Any]] = []
    for number, (frame, camera) in enumerate(zip(frames, cameras, strict=True)):
        if not cut_out[number]:
            continue
        names.append(f"images/frame_{number:03d}.png")
        write_picture(folder / names[-1], Picture(frame.image, frame.alpha))
        entries.append(frame_entry(names[-1], camera))
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
    used = [number for number, one in enumerate(cut_out) if one]
    found = _points([frames[number] for number in used], [cameras[number] for number in used])
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
