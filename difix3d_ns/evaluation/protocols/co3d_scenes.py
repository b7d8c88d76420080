"""Sequences of CO3D version 2 (Reizenstein et al., ICCV 2021), taken as by SparseFusion (Zhou, Tulsiani, CVPR 2023).

Of each sequence of the subset's test list 32 frames are taken, evenly; of a permutation of these, whose seed is the
number of the sequence, the first are for training and the others held out. Each photo is cut to the box of its mask,
30 % larger, brought to 256 pixels without antialiasing, at the upper left of a square, and cut out by its mask.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.protocols.dataset_writer import Box, Shot, write_dataset
from difix3d_ns.evaluation.protocols.scene_source import Misfit, SceneSource, scene_name
from difix3d_ns.io.images import open_picture
from difix3d_ns.ns.dataparsers.described_scene import Lens

SIZE, FRAMES, CONTEXT = 256, 32, 0.3
_MIN_FRAMES = 11  # of a sequence that is taken
_MIN_MASK, _MASK_STEP = 0.4, 0.05  # of 1, from which a pixel of a mask is in the box; and how fast that is lowered
_TURN = np.diag([-1.0, -1.0, 1.0])  # PyTorch3D's x is left and y is up; OpenCV's right and down
_ANNOTATIONS = "frame_annotations.jgz"

Annotation = dict[str, Any]


def find(folder: Path, photos: int = 2, sequences: int = 10, subset: str = "fewview_dev") -> list[SceneSource]:
    """Find sequences.

    Args:
        folder: of CO3D, with a folder for each category; or of a category, or of one of its sequences.
        photos: for training.
        sequences: of each category, at most; a sequence whose folder is given is taken whatever its number.
        subset: whose test list is used.

    Raises:
        Misfit: there are no categories, no test lists, or they do not have the sequence.
    """
    above, chosen = folder.resolve().parent, None
    if (folder / _ANNOTATIONS).is_file():
        categories = [folder]
    elif (above / _ANNOTATIONS).is_file():
        categories, chosen = [above], folder.resolve().name
    else:
        categories = sorted(place.parent for place in folder.glob(f"*/{_ANNOTATIONS}"))
    if not categories:
        raise Misfit(f"{folder / 'CATEGORY' / _ANNOTATIONS} is missing")
    found = []
    for category in categories:
        numbered = list(enumerate(read_sequences(category, subset).items()))
        taken = numbered[:sequences] if chosen is None else [entry for entry in numbered if entry[1][0] == chosen]
        for number, (name, frames) in taken:
            write = partial(write_sequence, category, frames, number, photos)
            found.append(SceneSource(f"{scene_name(category)}-{name}-{photos}", write))
    if not found:
        raise Misfit(f"the test list of {subset} has no sequence {chosen} of {_MIN_FRAMES} frames or more")
    return found


def read_sequences(category: Path, subset: str) -> dict[str, list[Annotation]]:
    """Frames of a subset's test list by sequence, both in order; without empty masks and short sequences.

    Raises:
        Misfit: a file is missing, or no sequence is left.
        UserError: a file is damaged.
    """
    listed = category / "set_lists" / f"set_lists_{subset}.json"
    if not listed.is_file():
        raise Misfit(f"{listed} is missing")
    try:
        tested = {entry[2] for entry in json.loads(listed.read_text(encoding="utf-8"))["test"]}
        with gzip.open(category / _ANNOTATIONS, "rt", encoding="utf-8") as file:
            annotations = json.load(file)
        found: dict[str, list[Annotation]] = {}
        for frame in annotations:
            if frame["image"]["path"] in tested and frame["mask"].get("mass", 2) > 1:
                found.setdefault(frame["sequence_name"], []).append(frame)
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{category} cannot be read ({error!r}); fetch {_ANNOTATIONS} and set_lists again") from error
    kept = {name: sorted(found[name], key=_moment) for name in sorted(found) if len(found[name]) >= _MIN_FRAMES}
    if not kept:
        raise Misfit(f"{listed} lists no sequence of {_MIN_FRAMES} frames or more that {_ANNOTATIONS} has")
    return kept


def _moment(frame: Annotation) -> tuple[float, int]:
    return float(frame.get("frame_timestamp") or 0.0), int(frame["frame_number"])


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


def box_around(mask: np.ndarray) -> Box:
    """Box of a mask [H, W] in [0, 1] with its surroundings, within the picture; all of it where the mask is empty."""
    threshold = _MIN_MASK
    while threshold > 0 and (mask > threshold).sum() <= 1:
        threshold -= _MASK_STEP
    inside = mask > threshold if threshold > 0 else np.ones_like(mask, bool)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    first = np.array([columns[0], rows[0]], float)
    size = np.array([columns[-1], rows[-1]]) + 1 - first
    low = first - size * CONTEXT / 2
    high = low + size * (1 + CONTEXT)
    bounds = np.array(mask.shape[::-1])
    left, top = (round(float(value)) for value in low.clip(0, bounds))
    right, bottom = (round(float(value)) for value in high.clip(0, bounds))
    return left, top, right, bottom


def write_sequence(category: Path, frames: Sequence[Annotation], number: int, photos: int, output: Path) -> Path:
    """Write a sequence as a nerfstudio dataset of cut-out squares; returns ``output``.

    Args:
        category: folder of the annotations, with a folder for each sequence.
        frames: of the sequence, in order.
        number: of the sequence in its category, the seed of the permutation.
        photos: for training.
        output: folder to write.
    """
    places = torch.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).long().tolist()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(number)).tolist()
    trained = set(order[:photos])
    shots = []
    for index, place in enumerate(places):
        frame = frames[place]
        _, mask = _read(category, frame)
        box = box_around(mask)
        pose, intrinsics = camera_of({**frame, "image": {"size": mask.shape}})
        scale = SIZE / max(box[2] - box[0], box[3] - box[1])
        lens = Lens(
            SIZE,
            SIZE,
            intrinsics[0, 0] * scale,
            intrinsics[1, 1] * scale,
            (intrinsics[0, 2] - box[0]) * scale,
            (intrinsics[1, 2] - box[1]) * scale,
        )
        picture = partial(_cut_out, category, frame, box)
        held_out = index not in trained
        shots.append(Shot(f"frame_{index + 1:05d}.png", lens, pose, picture, not held_out, held_out))
    return write_dataset(output, shots)


def _read(category: Path, frame: Annotation) -> tuple[np.ndarray, np.ndarray]:  # [H, W, 3] uint8, [H, W] in [0, 1]
    image, mask_file = (category.joinpath(*Path(frame[kind]["path"]).parts[1:]) for kind in ("image", "mask"))
    with open_picture(image) as file:
        pixels = np.array(file.convert("RGB"))
    with open_picture(mask_file) as file:
        mask = np.array(file.convert("L").resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.NEAREST)) / 255.0
    return pixels, mask


def _cut_out(category: Path, frame: Annotation, box: Box) -> Image.Image:
    pixels, mask = _read(category, frame)
    left, top, right, bottom = box
    colours = torch.from_numpy(pixels[top:bottom, left:right].astype(np.float32)).permute(2, 0, 1)
    alpha = torch.from_numpy(mask[top:bottom, left:right].astype(np.float32))[None] * 255
    scale = min(SIZE / (bottom - top), SIZE / (right - left))
    laid = torch.cat([_resized(colours, scale, "bilinear"), _resized(alpha, scale, "nearest")])
    square = torch.zeros(4, SIZE, SIZE)
    square[:, : laid.shape[1], : laid.shape[2]] = laid[:, :SIZE, :SIZE]
    return Image.fromarray(square.permute(1, 2, 0).round().clamp(0, 255).byte().numpy(), "RGBA")


def _resized(planes: Tensor, scale: float, mode: str) -> Tensor:
    corners = False if mode == "bilinear" else None
    return functional.interpolate(
        planes[None], scale_factor=scale, mode=mode, align_corners=corners, recompute_scale_factor=True
    )[0]
