"""Depth of a capture's photos, written as a scene that trains with it, as pictures, and as a point cloud."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difix3d_ns.apps.picture_tasks import usable_device
from difix3d_ns.data.capture import Capture
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.initialization.depth_records import coloured
from difix3d_ns.initialization.estimated_depths import WITHIN, estimate_depths, photo_depth
from difix3d_ns.io.atomic import replacing, write_text
from difix3d_ns.io.file_names import distinct_names, png_names
from difix3d_ns.io.images import Picture, write_picture
from difix3d_ns.io.point_files import write_points
from difix3d_ns.io.progress import counted_down
from difix3d_ns.io.transforms_frames import frame_entry
from difix3d_ns.ns.capture_reader import read_dataset
from difix3d_ns.priors.base import Depth, DepthMap
from difix3d_ns.priors.registry import load_selected

TRANSFORMS = "transforms.json"
CLOUD = "points.ply"
GIVEN = "sparse_pc.ply"
MIN_LONG_SIDE = 32
_SHOWN = 0.5  # confidence from which a pixel is a point of the cloud
_POINTS = 500_000


def write_depths(
    scene: Path,
    output: Path,
    name: str = "multiview",
    weights: str | None = None,
    long_side: int = 960,
    device: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Estimate the depth of a scene's training photos and write it.

    Args:
        scene: what ns-train reads.
        output: folder: ``transforms.json`` with undistorted photos in ``images/``, their depth in ``depths/`` and its
            confidence in ``confidence/`` (float32 ``.npy``), coloured depth in ``pictures/``, and ``points.ply``; all
            in the scene's original coordinates and unit.
        name, weights: as ``load_prior`` takes them.
        long_side: of the maps in pixels at most.
        device: None for CUDA where there is one.
        force: overwrite what an earlier run has written.

    Returns:
        The depth files, in the order of the photos.

    Raises:
        UserError: nothing was begun, since something is there already, photos of the scene would be overwritten, the
            scene cannot be read, or the prior cannot be loaded; or the memory of the device does not suffice.
    """
    _check(scene, output, long_side, force)
    where = usable_device(device)
    prior = load_selected(Depth, ("--prior", "--weights"), name, weights, where)
    capture = read_dataset(scene, scene.resolve().name, long_side, hold_out=0)
    _spare_photos(capture, output)
    if force:
        (output / TRANSFORMS).unlink(missing_ok=True)
    masks = capture.masks or [None] * len(capture.images)  # type: ignore[list-item]
    photographs = [PosedImage(capture.images[i], capture.cameras[i], mask=masks[i]) for i in capture.train]
    with counted_down("Depth of photos", None) as on_step:
        try:
            maps = estimate_depths(photographs, None if capture.random_points else capture.points, prior, on_step)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"--device {where}: memory does not suffice; close other programs, or give cpu") from error
    try:
        return _write(capture, maps, output)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error}") from error


def _check(scene: Path, output: Path, long_side: int, force: bool) -> None:
    """Refuse what would fail after hours, or overwrite what is there."""
    if long_side < MIN_LONG_SIDE:
        raise UserError(f"--long-side {long_side}: at least {MIN_LONG_SIDE} is needed")
    if not scene.exists():
        raise UserError(f"{scene} does not exist: give a folder that ns-train reads")
    if output.resolve() == scene.resolve():
        raise UserError(f"--output {output} is the scene itself, whose photos would be lost: give another folder")
    if (output / TRANSFORMS).exists() and not force:
        raise UserError(f"--output {output} has a {TRANSFORMS} already: give another folder, or --force")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output} is no folder that can be written: {error}") from error


def _spare_photos(capture: Capture, output: Path) -> None:
    """Refuse a folder that has photographs of the scene."""
    folder = output.resolve()
    for file in capture.files or []:
        if folder in file.resolve().parents:
            raise UserError(f"--output {output} has the scene's photo {file}, which could be lost: give another folder")


def _write(capture: Capture, maps: Sequence[DepthMap], output: Path) -> list[Path]:
    assert capture.files is not None and capture.to_original is not None
    to_original = capture.to_original
    unit = float(np.linalg.det(to_original[:3, :3]) ** (1 / 3))  # original ones per unit of the capture
    of_photo = dict(zip(capture.train, maps, strict=True))
    frames: list[dict[str, Any]] = []
    files: list[Path] = []
    for index, place in enumerate(png_names(distinct_names(capture.files))):
        place = place.relative_to(place.anchor)
        camera = capture.cameras[index]
        pose = to_original @ camera.camera_to_world.double().numpy()
        pose[:3, :3] /= unit
        frame = frame_entry(("images" / place).as_posix(), camera, pose)
        _write_photo(capture, index, place, output, frame)
        if index in of_photo:
            found = of_photo[index]
            for folder, key, values in (
                ("depths", "depth_file_path", found.depth * unit),
                ("confidence", "depth_confidence_path", photo_depth(found).confidence),
            ):
                file = output / folder / place.with_suffix(".npy")
                with replacing(file) as part, part.open("wb") as opened:
                    np.save(opened, values[..., 0].float().numpy())
                frame[key] = file.relative_to(output).as_posix()
            files.append(output / frame["depth_file_path"])
            write_picture(output / "pictures" / place, coloured(found.depth))
        frames.append(frame)
    meta: dict[str, Any] = {"camera_model": "OPENCV", "depth_unit_scale_factor": 1.0, "frames": frames}
    held_out = capture.test or capture.train
    for split, indices in {"train": capture.train, "val": held_out, "test": held_out}.items():
        meta[f"{split}_filenames"] = [frames[index]["file_path"] for index in indices]
    if not capture.random_points:
        meta["ply_file_path"] = GIVEN
        write_points(_placed(capture.points, to_original), _bytes(capture.colours), output / GIVEN)
    positions, colours = _cloud(capture, of_photo)
    write_points(_placed(positions, to_original), _bytes(colours), output / CLOUD, text=False)
    write_text(output / TRANSFORMS, json.dumps(meta, indent=1))  # last: half a scene has none
    return files


def _write_photo(capture: Capture, index: int, place: Path, output: Path, frame: dict[str, Any]) -> None:
    """Write a photograph, its silhouette as alpha, or its mask beside it."""
    image, mask = capture.images[index], None if capture.masks is None else capture.masks[index]
    picture = Picture(image)
    if mask is not None and capture.background is not None:
        before = torch.tensor(capture.background)
        picture = replace(picture, image=((image - before * (1 - mask)) / mask.clamp_min(1e-3)).clamp(0, 1), alpha=mask)
    elif mask is not None:
        used = (mask >= 0.5).float().expand(-1, -1, 3)
        write_picture(output / "masks" / place, Picture(used, grey=True))
        frame["mask_path"] = ("masks" / place).as_posix()
    write_picture(output / "images" / place, picture)


def _cloud(capture: Capture, maps: dict[int, DepthMap]) -> tuple[Tensor, Tensor]:
    """Points [P, 3] and colours [P, 3] of the pixels whose depth is trusted, at most ``_POINTS`` evenly."""
    positions, colours = [torch.zeros(0, 3)], [torch.zeros(0, 3)]
    for index, one in maps.items():
        shown = one.chance(WITHIN)[..., 0] > _SHOWN
        positions.append(unproject(one.depth, capture.cameras[index])[shown].float())
        colours.append(capture.images[index][shown])
    every = max(1, -(-sum(map(len, positions)) // _POINTS))
    return torch.cat(positions)[::every], torch.cat(colours)[::every]


def _placed(points: Tensor, matrix: np.ndarray) -> np.ndarray:
    """Points [P, 3] moved by a matrix [4, 4], float64."""
    return points.double().numpy() @ matrix[:3, :3].T + matrix[:3, 3]


def _bytes(colours: Tensor) -> np.ndarray:
    return (colours.clamp(0, 1) * 255).round().byte().numpy()
