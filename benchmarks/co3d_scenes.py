"""Scenes of CO3D version 2 (Reizenstein et al., ICCV 2021), as in SparseFusion's table; its data has to be at hand.

    python -m benchmarks.co3d_scenes CO3D --categories hydrant teddybear --sequences 10 --photos 2 --output scenes
    difix3d bench scenes/* --output DIR --recipe few-photographs

Of each sequence of the subset's test list 32 frames are taken, evenly; of a permutation of these, whose seed is the
number of the sequence, the first are for training and the others held out. Objects are cut out by their masks, and each
photo is cut to a square around its mask, 30 % larger than that, and reduced to 256 pixels.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from rich.progress import track

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import write_text

SIZE, FRAMES, CONTEXT = 256, 32, 0.3
_MIN_MASK = 0.4  # of 1, from which a pixel of a mask, which is a probability, belongs to the object
_TURN = np.diag([-1.0, -1.0, 1.0])  # PyTorch3D's x is left and y is up; OpenCV's right and down


def read_frames(category: Path) -> dict[str, list[dict[str, Any]]]:
    """Frames of a category by sequence, in order.

    Raises:
        UserError: no annotations.
    """
    path = category / "frame_annotations.jgz"
    if not path.is_file():
        raise UserError(f"{path} is missing: give the folder of CO3D that has a folder for each category")
    frames: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for frame in json.load(file):
            frames.setdefault(frame["sequence_name"], []).append(frame)
    return {name: sorted(each, key=lambda frame: frame["frame_number"]) for name, each in frames.items()}


def test_sequences(category: Path, subset: str) -> list[str]:
    """Names of the sequences of a subset's test list, in order."""
    path = category / "set_lists" / f"set_lists_{subset}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: is it version 2 of CO3D?")
    return list(dict.fromkeys(entry[0] for entry in json.loads(path.read_text(encoding="utf-8"))["test"]))


def camera_of(frame: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Camera-to-world [4, 4] with OpenGL's axes, and intrinsics [3, 3] in pixels, of an annotated frame.

    Annotations are PyTorch3D's: row vectors, x left, y up; focal length and principal point in normalised units.
    """
    viewpoint = frame["viewpoint"]
    height, width = frame["image"]["size"]
    rotation = _TURN @ np.array(viewpoint["R"]).T  # world to camera, OpenCV
    shift = _TURN @ np.array(viewpoint["T"])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ shift
    half = np.array([width, height]) / 2
    isotropic = viewpoint.get("intrinsics_format", "ndc_norm_image_bounds") == "ndc_isotropic"
    scale = np.full(2, half.min()) if isotropic else half
    focal = np.array(viewpoint["focal_length"]) * scale
    middle = half - np.array(viewpoint["principal_point"]) * scale
    intrinsics = np.array([[focal[0], 0, middle[0]], [0, focal[1], middle[1]], [0, 0, 1]])
    return pose @ np.diag([1.0, -1.0, -1.0, 1.0]), intrinsics


def square_around(mask: np.ndarray) -> tuple[float, float, float]:
    """Left, top and side of the square around a mask [H, W] bool, with its surroundings."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0.0, 0.0, float(min(mask.shape))
    first, last = np.array([columns.min(), rows.min()]), np.array([columns.max() + 1, rows.max() + 1])
    side = float((last - first).max()) * (1 + CONTEXT)
    left, top = (first + last) / 2 - side / 2
    return float(left), float(top), side


def write_sequence(root: Path, frames: Sequence[Mapping[str, Any]], number: int, photos: int, output: Path) -> Path:
    """Write a sequence as a nerfstudio dataset of cut-out squares; returns ``output``."""
    chosen = [frames[round(i)] for i in np.linspace(0, len(frames) - 1, min(FRAMES, len(frames)))]
    order = np.random.default_rng(number).permutation(len(chosen))
    written = []
    for index, frame in enumerate(chosen):
        with Image.open(root / frame["image"]["path"]) as file:
            pixels = file.convert("RGB")
        with Image.open(root / frame["mask"]["path"]) as file:
            mask = file.convert("L").resize(pixels.size, Image.Resampling.BILINEAR)
        pose, intrinsics = camera_of({**frame, "image": {**frame["image"], "size": pixels.size[::-1]}})
        left, top, side = square_around(np.asarray(mask) > 255 * _MIN_MASK)
        picture = pixels.copy()
        picture.putalpha(mask)
        name = f"images/frame_{index + 1:05d}.png"
        (output / "images").mkdir(parents=True, exist_ok=True)
        left, top, side = round(left), round(top), round(side)
        cut = picture.crop((left, top, left + side, top + side)).convert("RGBa")  # transparent beyond the picture
        cut.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGBA").save(output / name)
        factor = SIZE / side
        written.append(
            {
                "file_path": name,
                "w": SIZE,
                "h": SIZE,
                "fl_x": intrinsics[0, 0] * factor,
                "fl_y": intrinsics[1, 1] * factor,
                "cx": (intrinsics[0, 2] - left) * factor,
                "cy": (intrinsics[1, 2] - top) * factor,
                "transform_matrix": pose.tolist(),
            }
        )
    names = [written[index]["file_path"] for index in order]
    held_out = sorted(names[photos:])
    meta = {
        "camera_model": "OPENCV",
        "frames": written,
        "train_filenames": sorted(names[:photos]),
        "val_filenames": held_out,
        "test_filenames": held_out,
    }
    write_text(output / "transforms.json", json.dumps(meta, indent=1))
    return output


def main(
    data: tyro.conf.Positional[Path],
    output: Path,
    categories: tuple[str, ...],
    sequences: int = 10,
    photos: int = 2,
    subset: str = "fewview_dev",
) -> None:
    """Write scenes.

    Args:
        data: folder of CO3D.
        output: folder; a folder for each sequence.
        categories: which.
        sequences: of each, at most.
        photos: for training.
        subset: whose test list is used.
    """
    for category in categories:
        frames = read_frames(data / category)
        for number, name in enumerate(track(test_sequences(data / category, subset)[:sequences], category)):
            write_sequence(data, frames[name], number, photos, output / f"{category}-{name}-{photos}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
