"""Depth of a capture's photos, written as a scene that trains with it, as pictures, and as a point cloud."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from difix3d_ns.apps.picture_tasks import usable_device
from difix3d_ns.data.capture import Capture
from difix3d_ns.data.procedural.dataset import save_image, write_points
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.initialization.estimated_depths import estimate_depths
from difix3d_ns.io.atomic import write_text
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.ns.capture_reader import read_dataset
from difix3d_ns.priors.base import Depth, DepthMap
from difix3d_ns.priors.registry import available_priors, load_depth

TRANSFORMS = "transforms.json"
CLOUD = "points.ply"
GIVEN = "sparse_pc.ply"
TOLERANCE = 0.02
"""relative error, exact enough to learn from: a pixel's confidence is the chance that its depth is within it"""
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
            in the frame and unit of the scene's own poses.
        name, weights: as ``load_depth`` takes them.
        long_side: of the maps in pixels at most.
        device: None for CUDA where there is one.
        force: overwrite what is there.

    Returns:
        The depth files, in the order of the photos.

    Raises:
        UserError: nothing was begun, since something is there already, the scene cannot be read, or the prior cannot
            be loaded.
    """
    if (output / TRANSFORMS).exists() and not force:
        raise UserError(
            f"--output {output} has a {TRANSFORMS} already: give another folder, or --force to overwrite it"
        )
    prior = _load(name, weights, usable_device(device))
    capture = read_dataset(scene, scene.resolve().name, long_side, own_frame=True)
    photographs = [
        PosedImage(
            capture.images[index], capture.cameras[index], mask=None if capture.masks is None else capture.masks[index]
        )
        for index in capture.train
    ]
    with progress_bar(None, counted=True) as bar:
        task = bar.add_task("Depth of photos", total=None)

        def on_step(left: int) -> None:
            total = bar.tasks[task].total or left
            bar.update(task, total=total, completed=total - left)

        given = None if capture.random_points else capture.points
        maps = estimate_depths(photographs, given, prior, on_step)
        bar.update(task, completed=bar.tasks[task].total)
    return _write(capture, maps, output)


def _load(name: str, weights: str | None, device: str) -> Depth:
    known = available_priors(Depth)
    if "." not in name and name not in known:
        raise UserError(f"--prior {name}: one of {', '.join(known)}, or package.module of yours is needed")
    try:
        return load_depth(name, weights, device)
    except (ValueError, OSError, RuntimeError) as error:
        flag = f"--prior {name}" if weights is None else f"--weights {weights}"
        raise UserError(f"{flag}: {error}") from error


def _write(capture: Capture, maps: Sequence[DepthMap], output: Path) -> list[Path]:
    assert capture.names is not None
    of_photo = dict(zip(capture.train, maps, strict=True))
    frames: list[dict[str, Any]] = []
    files: list[Path] = []
    for index, camera in enumerate(capture.cameras):
        place = PurePosixPath(capture.names[index]).with_suffix(".png")
        frame: dict[str, Any] = {
            "file_path": str("images" / place),
            **{"w": camera.width, "h": camera.height},
            **dict(zip(("fl_x", "fl_y"), camera.intrinsics.diagonal().tolist(), strict=False)),
            **dict(zip(("cx", "cy"), camera.intrinsics[:2, 2].tolist(), strict=True)),
            "transform_matrix": (camera.camera_to_world.double().numpy() @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist(),
        }
        _save_picture(capture.images[index], output / "images" / place)
        if capture.masks is not None:
            frame["mask_path"] = str("masks" / place)
            _save_picture(capture.masks[index].expand(-1, -1, 3), output / "masks" / place)
        if index in of_photo:
            known, confidence = of_photo[index].depth, of_photo[index].chance(TOLERANCE)
            for folder, key, values in (
                ("depths", "depth_file_path", known),
                ("confidence", "depth_confidence_path", confidence),
            ):
                file = output / folder / place.with_suffix(".npy")
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, values[..., 0].numpy())
                frame[key] = file.relative_to(output).as_posix()
            files.append(output / frame["depth_file_path"])
            _save_picture(coloured(known), output / "pictures" / place)
        frames.append(frame)
    meta: dict[str, Any] = {"camera_model": "OPENCV", "frames": frames, "ply_file_path": GIVEN}
    named = {"train": capture.train, "val": capture.test or capture.train, "test": capture.test or capture.train}
    for split, indices in named.items():
        meta[f"{split}_filenames"] = [frames[index]["file_path"] for index in indices]
    if capture.random_points:
        del meta["ply_file_path"]
    else:
        write_points(capture.points.numpy(), _bytes(capture.colours), output / GIVEN)
    write_points(*_cloud(capture, of_photo), output / CLOUD)
    write_text(output / TRANSFORMS, json.dumps(meta, indent=1))  # last: half a scene has none
    return files


def coloured(depth: Tensor) -> Tensor:
    """Picture [H, W, 3] of depth [H, W, 1]: near is yellow, far is dark blue, unknown is black."""
    known = depth > 0
    if not bool(known.any()):
        return torch.zeros(*depth.shape[:2], 3)
    inverse = (1 / depth.clamp_min(1e-9)).where(known, 0.0)
    low, high = np.quantile(inverse[known].numpy(), (0.02, 0.98))
    place = ((inverse[..., 0] - low) / max(high - low, 1e-9)).clamp(0, 1)
    colours = torch.from_numpy(matplotlib.colormaps["cividis"](place.numpy())[..., :3]).float()
    return colours * known


def _cloud(capture: Capture, maps: dict[int, DepthMap]) -> tuple[np.ndarray, np.ndarray]:
    """Points [P, 3] and colours [P, 3] uint8 of the pixels whose depth is trusted, at most ``_POINTS`` evenly."""
    positions, colours = [torch.zeros(0, 3)], [torch.zeros(0, 3)]
    for index, one in maps.items():
        shown = one.chance(TOLERANCE)[..., 0] > _SHOWN
        positions.append(unproject(one.depth, capture.cameras[index])[shown].float())
        colours.append(capture.images[index][shown])
    every = max(1, -(-sum(map(len, positions)) // _POINTS))
    return torch.cat(positions)[::every].numpy(), _bytes(torch.cat(colours)[::every])


def _bytes(colours: Tensor) -> np.ndarray:
    return (colours.clamp(0, 1) * 255).round().byte().numpy()


def _save_picture(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(image, path)
