"""Writer of nerfstudio datasets whose pictures, split and points are decided by others."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import CameraType
from PIL import Image

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.evaluation_masks import MASKS
from difix3d_ns.io.atomic import replacing
from difix3d_ns.io.images import read_stored
from difix3d_ns.io.point_files import write_points
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame, Lens, PointsGiven
from difix3d_ns.ns.dataparsers.picture_files import read_header, used_picture

CAMERA_MODELS = {CameraType.PERSPECTIVE: "OPENCV", CameraType.FISHEYE: "OPENCV_FISHEYE"}
_IMAGES = "images"
_TERMS = ("k1", "k2", "k3", "k4", "p1", "p2")

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Shot:
    """A photo of a dataset that is to be written."""

    name: str
    """of its file in ``images/``, with folders where it is in some"""
    lens: Lens
    pose: np.ndarray
    """[4, 4] camera-to-world, OpenGL axes"""
    picture: Path | Callable[[], Image.Image]
    """a file that is used as it is, or what makes the picture"""
    trained: bool = False
    held_out: bool = False


def cropped_lens(lens: Lens, size: tuple[int, int], box: Box) -> Lens:
    """Intrinsics of a picture that was resized to ``size`` (width, height) and cropped to ``box``."""
    x, y = size[0] / lens.width, size[1] / lens.height
    return replace(
        lens,
        width=box[2] - box[0],
        height=box[3] - box[1],
        fx=lens.fx * x,
        fy=lens.fy * y,
        cx=lens.cx * x - box[0],
        cy=lens.cy * y - box[1],
    )


def middle_box(size: tuple[int, int], multiple: int) -> Box:
    """Box in the middle of a picture (width, height) whose sides are multiples of a number of pixels."""
    kept = tuple(side // multiple * multiple for side in size)
    left, top = ((side - inner) // 2 for side, inner in zip(size, kept, strict=True))
    return left, top, left + kept[0], top + kept[1]


def frame_entry(name: str, lens: Lens, pose: np.ndarray) -> dict[str, Any]:
    """Entry of a photo in the list ``frames`` of transforms.json."""
    return {
        "file_path": name,
        "camera_model": CAMERA_MODELS[lens.camera_type],
        **{"w": lens.width, "h": lens.height, "fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy},
        **dict(zip(_TERMS, lens.distortion, strict=True)),
        "transform_matrix": pose.tolist(),
    }


def placement_keys(scene: DescribedScene) -> dict[str, Any]:
    """Keys of transforms.json on the coordinates of a scene, where they are stated."""
    keys: dict[str, Any] = {}
    if scene.applied_transform is not None:
        keys["applied_transform"] = np.asarray(scene.applied_transform).tolist()
    if scene.applied_scale != 1.0:
        keys["applied_scale"] = scene.applied_scale
    if scene.orientation is not None:
        keys["orientation_override"] = scene.orientation
    return keys


def shot_of(
    scene: DescribedScene, frame: Frame, factor: int, multiple: int = 1, trained: bool = False, held_out: bool = False
) -> Shot:
    """The photo of a frame, reduced by a factor.

    Args:
        scene: of the frame.
        frame: which.
        factor: by which it is reduced: its copy in images_FACTOR if there is one, else bicubic.
        multiple: its sides are cut to multiples of this, in the middle.
        trained: whether it is trained on.
        held_out: whether it is held out.

    Raises:
        UserError: its file is not there, or its lens is no pinhole or fisheye.
    """
    if frame.lens.camera_type not in CAMERA_MODELS or frame.lens.crop_radius is not None:
        raise UserError(f"{frame.image}: only pinholes and whole fisheyes are reduced; undistort the photos first")
    used = used_picture(frame, factor, scene.source if scene.source.is_dir() else scene.source.parent)
    if not used.path.is_file():
        raise UserError(f"{used.path} is missing: put the data set's pictures there")
    size = used.lens.width, used.lens.height
    box = middle_box(size, multiple)
    plain = read_header(used.path).size == size and box == (0, 0, *size)

    def picture() -> Image.Image:
        return Image.fromarray(read_stored(used.path, size, "bicubic")).crop(box)

    folder = _folder_inside(frame.image, scene.source if scene.source.is_dir() else scene.source.parent)
    name = folder / (used.path.name if plain else f"{used.path.stem}.png")
    lens = cropped_lens(used.lens, size, box)
    return Shot(name.as_posix(), lens, frame.pose, used.path if plain else picture, trained, held_out)


def _folder_inside(image: Path, scene: Path) -> Path:
    """Folder of a photo in the folder ``images`` of its scene: cam1 of images/cam1/0001.jpg; none of one elsewhere."""
    full, top = (Path(os.path.abspath(path)) for path in (image, scene))
    if not full.is_relative_to(top):
        return Path()
    folder = full.relative_to(top).parent
    return folder.relative_to(_IMAGES) if folder.is_relative_to(_IMAGES) else folder


def write_dataset(
    output: Path,
    shots: Sequence[Shot],
    keys: Mapping[str, Any] | None = None,
    points: PointsGiven | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a dataset, whole or not at all; returns ``output``.

    Files that are used as they are become links, and nothing is ever written through one: they lead to the user's own
    photos. nerfstudio does not reduce the pictures further.

    Args:
        output: folder; there must not be one with anything in it.
        shots: photos.
        keys: further keys of transforms.json.
        points: initial points.
        masks: [H, W, 1] bool by name of a held-out photo: where it counts.

    Raises:
        UserError: two photos, or their masks, would have the same name; nothing is written.
        OSError: it could not be written.
    """
    _check_unique(output, [f"{_IMAGES}/{shot.name}" for shot in shots])
    masked = {_mask_name(name): mask for name, mask in (masks or {}).items()}
    _check_unique(output, [_mask_name(name) for name in masks or {}])
    meta: dict[str, Any] = {"downscale_factor": 1, **(keys or {})}
    meta["frames"] = [frame_entry(f"{_IMAGES}/{shot.name}", shot.lens, shot.pose) for shot in shots]
    held_out = [f"{_IMAGES}/{shot.name}" for shot in shots if shot.held_out]
    meta["train_filenames"] = [f"{_IMAGES}/{shot.name}" for shot in shots if shot.trained]
    meta |= {"val_filenames": held_out, "test_filenames": held_out}
    with replacing(output) as part:
        part.mkdir()
        for shot in shots:
            file = part / _IMAGES / shot.name
            file.parent.mkdir(parents=True, exist_ok=True)
            if callable(shot.picture):
                _save(shot.picture(), file)
            else:
                _link(shot.picture.absolute(), file)
        for name, mask in masked.items():
            _save(Image.fromarray(mask[..., 0]), part / name)
        if points is not None:
            meta["ply_file_path"] = "sparse_pc.ply"
            write_points(points.positions.astype(np.float64), points.colours, part / "sparse_pc.ply")
        (part / "transforms.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    return output


def _check_unique(output: Path, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(
                f"{output.name}: {count} photos of the data set would become {name}: rename all but one of them, as "
                "files and where the poses name them"
            )


def _mask_name(photo: str) -> str:
    return f"{MASKS}/{Path(photo).stem}.png"


def _save(picture: Image.Image, file: Path) -> None:
    """Write a picture; what has its name is replaced, and where that is a link the file it leads to is kept."""
    with replacing(file) as part:
        picture.save(part)


def _link(file: Path, link: Path) -> None:
    """Link a file, or copy it where the disk has no links. Raises FileExistsError: something has the link's name."""
    try:
        os.symlink(file, link)
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        shutil.copyfile(file, link)
