"""COLMAP models, binary or text, of any version, without pycolmap."""

from __future__ import annotations

import mmap
import os
import shlex
import struct
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from nerfstudio.cameras.cameras import CameraType

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame, Lens, PointsGiven
from difix3d_ns.ns.dataparsers.point_file import read_points as read_ply

_T = TypeVar("_T")

_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ("SIMPLE_DIVISION", 4),
    13: ("DIVISION", 5),
    14: ("SIMPLE_FISHEYE", 3),
    15: ("FISHEYE", 4),
    16: ("EUCM", 6),
    17: ("EQUIRECTANGULAR", 2),
}
"""COLMAP's camera models by number: name and count of parameters"""

_DISTORTION = {
    "SIMPLE_PINHOLE": "",
    "PINHOLE": "",
    "SIMPLE_RADIAL": "k1",
    "RADIAL": "k1 k2",
    "OPENCV": "k1 k2 p1 p2",
    "FULL_OPENCV": "k1 k2 p1 p2 k3 d4 d5 d6",  # the last three divide; nerfstudio has nothing like them
    "OPENCV_FISHEYE": "k1 k2 k3 k4",
    "SIMPLE_RADIAL_FISHEYE": "k1",
    "RADIAL_FISHEYE": "k1 k2",
    "SIMPLE_FISHEYE": "",
    "FISHEYE": "",
}
"""distortion of the models that are read, in the order of their parameters, after the focal length and centre"""
_ONE_FOCAL_LENGTH = {
    "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE",
}  # fmt: skip

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".jp2")


@dataclass(frozen=True)
class ModelCamera:
    """A camera as COLMAP writes it."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ModelImage:
    """A registered image: where it was taken, without its observations."""

    number: int
    name: str
    camera: int
    rotation: tuple[float, ...]  # quaternion, scalar first, world to camera
    translation: tuple[float, ...]


def is_model(folder: Path) -> bool:
    """Return whether a folder holds cameras and images of a COLMAP model."""
    return any((folder / f"cameras{end}").is_file() and (folder / f"images{end}").is_file() for end in (".txt", ".bin"))


def read_cameras(folder: Path) -> dict[int, ModelCamera]:
    """Read a model's cameras, by number."""
    path = folder / f"cameras{_ending(folder)}"
    return _guarded(path, _text_cameras if path.suffix == ".txt" else _binary_cameras)


def read_images(folder: Path) -> list[ModelImage]:
    """Read a model's registered images, ordered by number as nerfstudio orders them."""
    path = folder / f"images{_ending(folder)}"
    images = _guarded(path, _text_images if path.suffix == ".txt" else _binary_images)
    return sorted(images, key=lambda image: image.number)


def count_images(folder: Path) -> int:
    """Count a model's registered images."""
    path = folder / f"images{_ending(folder)}"
    if path.suffix == ".txt":
        return len(read_images(folder))
    return _guarded(path, _binary_count)


def read_points(folder: Path) -> PointsGiven | None:
    """Read a model's points in its own coordinates; None where it has none."""
    binary, text = folder / "points3D.bin", folder / "points3D.txt"
    if binary.is_file():
        points = _guarded(binary, _binary_points)
    elif text.is_file():
        points = _guarded(text, _text_points)
    elif (folder / "points3D.ply").is_file():  # the original 3DGS writes one
        return read_ply(folder / "points3D.ply")
    else:
        return None
    finite = np.isfinite(points.positions).all(axis=-1)
    return PointsGiven(points.positions[finite], points.colours[finite]) if finite.any() else None


def read_colmap(
    model: Path,
    images: Path,
    *,
    source: Path,
    masks: Path | None = None,
    depths: Path | None = None,
    with_points: bool = True,
    nerfstudio_world: bool = True,
    depth_unit: float = 1e-3,
    notes: Sequence[str] = (),
) -> DescribedScene:
    """Read a COLMAP model and find its pictures.

    Args:
        model: the folder with cameras, images and points3D.
        images: the folder that the model's names are relative to; reduced copies may be beside it.
        source: the capture's folder, for messages and lists of splits.
        masks: a folder with masks of the same names, or those with ``.png`` added or instead.
        depths: a folder with depth maps named likewise.
        with_points: whether points are read.
        nerfstudio_world: whether COLMAP's up (-y) becomes nerfstudio's (+z).
        depth_unit: metres per unit of a depth map with integers.
        notes: what was decided before.

    Raises:
        UserError: a file cannot be read, a lens is none that splats can be trained on, or pictures are missing.
    """
    cameras, registered = read_cameras(model), read_images(model)
    if not registered:
        raise UserError(f"the COLMAP model in {model} has no images; run `colmap mapper` again, or give another model")
    lenses = {number: lens_of(camera, model, images) for number, camera in _used(cameras, registered, model).items()}
    names = [image.name for image in registered]
    pictures = find_pictures(images, names)
    check_found(pictures, names, images, model)
    applied = np.eye(4)
    if nerfstudio_world:
        applied = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    frames = [
        Frame(
            name=image.name,
            image=pictures[image.name],
            pose=applied @ camera_to_world(image.rotation, image.translation),
            lens=lenses[image.camera],
            mask=find_companion(masks, image.name),
            depth=find_companion(depths, image.name, (".png", ".npy", ".tif", ".exr")),
        )
        for image in registered
    ]
    points = read_points(model) if with_points else None
    notes = list(notes)
    if points is not None:
        points = PointsGiven(points.positions @ applied[:3, :3].T, points.colours)
    elif with_points:
        notes.append(f"{model} has no 3D points; training starts from random ones.")
    for what, folder, given in (
        ("mask", masks, [frame.mask for frame in frames]),
        ("depth map", depths, [frame.depth for frame in frames]),
    ):
        if folder is not None and None in given:
            notes.append(f"{given.count(None)} of {len(frames)} photos have no {what} in {folder}.")
    splits, remarks = read_split_lists(source, model, names)
    return DescribedScene(
        source=source,
        frames=frames,
        points=points,
        splits=splits,
        applied_transform=applied[:3] if nerfstudio_world else None,
        depth_unit=depth_unit,
        notes=[*notes, *remarks],
    )


def camera_to_world(rotation: Sequence[float], translation: Sequence[float]) -> np.ndarray:
    """Convert COLMAP's world-to-camera quaternion and translation to a pose with OpenGL axes [4, 4]."""
    w, x, y, z = np.asarray(rotation, dtype=float) / np.linalg.norm(rotation)
    world_to_camera = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    pose = np.eye(4)
    pose[:3, :3] = world_to_camera.T * [1, -1, -1]
    pose[:3, 3] = -world_to_camera.T @ np.asarray(translation, dtype=float)
    return pose


def lens_of(camera: ModelCamera, model: Path, images: Path) -> Lens:
    """Convert a camera of COLMAP to a lens.

    Raises:
        UserError: it is one that nerfstudio has no counterpart of; the message names it and COLMAP's own remedy.
    """
    values = camera.parameters
    if camera.model == "RAD_TAN_THIN_PRISM_FISHEYE":
        fx, fy, cx, cy, *distortion = values
        return Lens(camera.width, camera.height, fx, fy, cx, cy, CameraType.FISHEYE624, tuple(distortion))
    given: dict[str, float] = {}
    if camera.model in _DISTORTION:
        intrinsics = (values[0], *values[:3]) if camera.model in _ONE_FOCAL_LENGTH else values[:4]
        first = 3 if camera.model in _ONE_FOCAL_LENGTH else 4
        given = dict(zip(_DISTORTION[camera.model].split(), values[first:], strict=True))
    if camera.model not in _DISTORTION or any(given.get(name) for name in ("d4", "d5", "d6")):
        raise UserError(_explain_lens(camera.model, model, images))
    fx, fy, cx, cy = intrinsics
    kind = CameraType.FISHEYE if camera.model.endswith("FISHEYE") else CameraType.PERSPECTIVE
    distortion = [given.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2")]
    return Lens(camera.width, camera.height, fx, fy, cx, cy, kind, tuple(distortion))


def find_pictures(folder: Path, names: Sequence[str], deep: bool = True) -> dict[str, Path]:
    """Find the files that a model's names mean.

    Args:
        folder: what the names are relative to.
        names: of the model; those found as written come first. What is left is found whatever its ending, case,
            separators and form of umlauts, or by its last part where that is unique.
        deep: whether folders in it may be searched for these.

    Returns:
        paths by name. A picture of which only reduced copies exist has the path it would have at full size.
    """
    reduced = reduced_folders(folder)
    found = {}
    for name in names:
        if any((place / name).is_file() for place in (folder, *reduced)):
            found[name] = folder / name
    missing = [name for name in names if name not in found]
    if not missing or not folder.is_dir():
        return found
    taken = set(found.values())
    files = [file for file in _pictures_in(folder, deep) if file not in taken]
    whole = {_plain(file.relative_to(folder).as_posix()): file for file in files}
    last: dict[str, list[Path]] = {}
    for file in files:
        last.setdefault(_plain(file.name), []).append(file)
    repeated = Counter(_last_part(name) for name in missing)
    for name in missing:
        same = last.get(_last_part(name), [])
        if _plain(name) in whole:
            found[name] = whole[_plain(name)]
        elif len(same) == 1 and repeated[_last_part(name)] == 1:
            found[name] = same[0]
    return found


def reduced_folders(folder: Path) -> list[Path]:
    """List the folders with reduced copies beside one with pictures: ``images_2``, ``images_4`` of ``images``."""
    if not folder.name or not folder.parent.is_dir():
        return []
    prefix = folder.name + "_"
    beside = [entry for entry in folder.parent.iterdir() if entry.name.startswith(prefix)]
    return sorted(entry for entry in beside if entry.name[len(prefix) :].isdigit() and entry.is_dir())


def check_found(pictures: Mapping[str, Path], names: Sequence[str], images: Path, model: Path) -> None:
    """Check that no picture of a model is missing.

    Raises:
        UserError: it names the first, and how many there are.
    """
    missing = [name for name in names if name not in pictures]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} photos of the COLMAP model {model} are missing, the first is "
            f"{images / missing[0]}; put them there, name their folder with `colmap --images-path FOLDER` at the end "
            "of the command (relative to --data), or remove them from the model (`colmap image_deleter`)"
        )


def find_companion(folder: Path | None, name: str, suffixes: Sequence[str] = (".png",)) -> Path | None:
    """Find the mask or depth map of a picture: of the same name, or with its own ending added or instead."""
    if folder is None:
        return None
    same = folder / name.replace("\\", "/")
    choices = [same.with_name(same.name + end) for end in suffixes]
    choices += [same.with_suffix(end) for end in suffixes if is_picture(name)]
    return next((path for path in (*choices, same) if path.is_file()), None)


def read_split_lists(folder: Path, model: Path, names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Read which photos train and which are held out, where lists say so.

    Args:
        folder: of the capture, with ``train_list.txt``, ``test_list.txt``, ``validation_list.txt``; some may lack.
        model: its folder may have the original 3DGS's ``test.txt``.
        names: of all photos.

    Returns:
        (names by "train", "val" and "test", empty where no list is there; notes).

    Raises:
        UserError: no name of a list is that of a photo.
    """
    files = {
        "train": [folder / "train_list.txt"],
        "test": [folder / "test_list.txt", model / "test.txt"],
        "val": [folder / "validation_list.txt", folder / "val_list.txt"],
    }
    splits: dict[str, list[str]] = {}
    notes = []
    for split, places in files.items():
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            continue
        entries = [line.strip() for line in _lines(path) if line.strip()]
        matched = _match(entries, names)
        unknown = [entry for entry in entries if entry not in matched]
        if entries and not matched:
            raise UserError(f"{path}: no photo of {model} has a name in it ({entries[0]}, ...); correct or remove it")
        if unknown:
            notes.append(f"{len(unknown)} of {len(entries)} names in {path} are no photos of the model: {unknown[0]}.")
        chosen = set(matched.values())
        splits[split] = [name for name in names if name in chosen]
    if splits:
        held_out = {name for split in ("test", "val") for name in splits.get(split, ())}
        trained = set(splits["train"]) if "train" in splits else set(names) - held_out
        splits.setdefault("train", [name for name in names if name in trained])
        rest = [name for name in names if name not in trained]
        test = splits.get("test") or splits.get("val") or rest
        splits["test"], splits["val"] = test, splits.get("val") or test
    return splits, notes


def _used(cameras: dict[int, ModelCamera], images: Iterable[ModelImage], model: Path) -> dict[int, ModelCamera]:
    used = {}
    for image in images:
        if image.camera not in cameras:
            raise UserError(
                f"{model}: {image.name} has camera {image.camera}, which cameras{_ending(model)} lacks; "
                "export the model again"
            )
        used[image.camera] = cameras[image.camera]
    return used


def _explain_lens(name: str, model: Path, images: Path) -> str:
    if name == "EQUIRECTANGULAR":
        return (
            f"{model} has panoramas (EQUIRECTANGULAR), which splats cannot be trained on; cut them up: "
            f"{command('ns-process-data', 'images', '--data', images, '--camera-type', 'equirectangular')} "
            "--output-dir SCENE, and train on SCENE"
        )
    what = "FULL_OPENCV with k4, k5 or k6 other than 0" if name == "FULL_OPENCV" else name
    output = images.parent / "undistorted"
    undistorter = command(
        "colmap", "image_undistorter", "--image_path", images, "--input_path", model, "--output_path", output
    )
    return (
        f"{model} has cameras of the model {what}, which nerfstudio cannot undistort; let COLMAP do it "
        f"(`{undistorter}`), then train with {command('--data', output)}"
    )


def command(*words: str | Path) -> str:
    """Join a command for a shell, quoted where it must be."""
    return " ".join(shlex.quote(str(word)) for word in words)


def _ending(folder: Path) -> str:
    for end in (".txt", ".bin"):  # nerfstudio's order
        if (folder / f"cameras{end}").is_file() and (folder / f"images{end}").is_file():
            return end
    raise UserError(f"{folder} is no COLMAP model: it lacks cameras.bin and images.bin (or both as .txt)")


def _guarded(path: Path, read: Callable[[Path], _T]) -> _T:
    try:
        return read(path)
    except (struct.error, ValueError, IndexError, KeyError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); export the COLMAP model again") from error


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from file


def _text_cameras(path: Path) -> dict[int, ModelCamera]:
    cameras = {}
    for line in _lines(path):
        words = line.split()
        if words and not words[0].startswith("#"):
            expected = dict(_MODELS.values()).get(words[1])
            parameters = tuple(map(float, words[4:]))
            if expected is not None and len(parameters) != expected:
                raise ValueError(f"camera {words[0]} has {len(parameters)} parameters where {words[1]} has {expected}")
            cameras[int(words[0])] = ModelCamera(words[1], int(words[2]), int(words[3]), parameters)
    return cameras


def _binary_cameras(path: Path) -> dict[int, ModelCamera]:
    data, offset = path.read_bytes(), 8
    cameras = {}
    for _ in range(struct.unpack_from("<Q", data)[0]):
        number, model, width, height = struct.unpack_from("<IiQQ", data, offset)
        if model not in _MODELS:
            raise ValueError(f"camera {number} has the unknown model {model}")
        name, count = _MODELS[model]
        cameras[number] = ModelCamera(name, width, height, struct.unpack_from(f"<{count}d", data, offset + 24))
        offset += 24 + 8 * count
    return cameras


def _text_images(path: Path) -> list[ModelImage]:
    images = []
    after_image = False  # the next line has its observations, which may be none
    for line in _lines(path):
        words = line.split(None, 9)
        if words and words[0].startswith("#"):
            continue
        if after_image and not _is_image(words):
            after_image = False
        elif words:
            numbers = tuple(map(float, words[1:8]))
            images.append(ModelImage(int(words[0]), words[9].rstrip(), int(words[8]), numbers[:4], numbers[4:]))
            after_image = True
    return images


def _is_image(words: Sequence[str]) -> bool:
    """Return whether a line names an image; one with observations has numbers alone."""
    if len(words) < 10:
        return False
    try:
        [float(word) for word in words[9].split(None, 3)[:3]]
    except ValueError:
        return True
    return False


def _binary_images(path: Path) -> list[ModelImage]:
    images, offset = [], 8
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for _ in range(struct.unpack_from("<Q", data)[0]):
            number, *numbers, camera = struct.unpack_from("<I7dI", data, offset)
            end = data.find(b"\0", offset + 64)
            name = data[offset + 64 : end].decode("utf-8", "surrogateescape")
            (observations,) = struct.unpack_from("<Q", data, end + 1)
            offset = end + 9 + 24 * observations
            if offset > len(data):
                raise ValueError(f"it ends within {name}")
            images.append(ModelImage(number, name, camera, tuple(numbers[:4]), tuple(numbers[4:])))
    return images


def _binary_count(path: Path) -> int:
    with path.open("rb") as file:
        return int(struct.unpack("<Q", file.read(8))[0])


def _text_points(path: Path) -> PointsGiven:
    rows = [line.split(None, 7)[1:7] for line in _lines(path) if line.strip() and not line.lstrip().startswith("#")]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return PointsGiven(table[:, :3], table[:, 3:].astype(np.uint8))


def _binary_points(path: Path) -> PointsGiven:
    data, offset = path.read_bytes(), 8
    (count,) = struct.unpack_from("<Q", data)
    positions, colours = [], []
    for _ in range(count):
        _, x, y, z, red, green, blue, _, track = struct.unpack_from("<Q3d3BdQ", data, offset)
        positions.append((x, y, z))
        colours.append((red, green, blue))
        offset += 51 + 8 * track
    if offset > len(data):
        raise ValueError("it ends within a point")
    return PointsGiven(
        np.array(positions, dtype=np.float64).reshape(-1, 3), np.array(colours, dtype=np.uint8).reshape(-1, 3)
    )


def _pictures_in(folder: Path, deep: bool) -> list[Path]:
    places = os.walk(folder) if deep else [next(os.walk(folder))]
    return [Path(place) / name for place, _, names in places for name in names if is_picture(name)]


def is_picture(name: str) -> bool:
    """Return whether a file's name is that of a picture."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def _plain(name: str) -> str:
    """Reduce a name to what is the same on every system: no ending, no case, one kind of separators and umlauts."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/")).lower().removeprefix("./")
    end = next((end for end in PICTURE_SUFFIXES if name.endswith(end)), "")
    return name[: len(name) - len(end)]


def _last_part(name: str) -> str:
    return _plain(name).rsplit("/", 1)[-1]


def _match(entries: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Names that entries of a list mean."""
    exact, whole = set(names), {_plain(name): name for name in names}
    last: dict[str, list[str]] = {}
    for name in names:
        last.setdefault(_last_part(name), []).append(name)
    matched = {}
    for entry in entries:
        same = last.get(_last_part(entry), [])
        if entry in exact:
            matched[entry] = entry
        elif _plain(entry) in whole:
            matched[entry] = whole[_plain(entry)]
        elif len(same) == 1:
            matched[entry] = same[0]
    return matched
