"""Folders in the layouts of published data sets, tiny, for tests of what reads them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import project
from tests.unit.colmap_captures import write_model
from tests.unit.known_scenes import look_at
from tests.unit.tiny_scene import ring, write_ply

CARD = torch.tensor([[-0.2, 0.0, -0.1], [0.2, 0.0, -0.1], [0.2, 0.0, 0.3], [-0.2, 0.0, 0.3]])


def _picture(size: tuple[int, int], seed: int, mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4}[mode]
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, channels), dtype=np.uint8)
    return Image.fromarray(coarse, mode).resize(size, Image.Resampling.BILINEAR)


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_nerfbusters(
    scene: Path, train: int = 5, held_out: int = 3, size: tuple[int, int] = (96, 64), masks: bool = True
) -> Path:
    """Write a scene of Nerfbusters; its masks, at half of the size, leave out the left quarter, the last one all."""
    names = [f"frame_{i:05d}.png" for i in range(1, train + 1)]
    names += [f"frame_1_{i:05d}.png" for i in range(1, held_out + 1)]
    frames: list[dict[str, Any]] = []
    for index, (name, pose) in enumerate(zip(names, ring(len(names)), strict=True)):
        _save(_picture(size, index), scene / "images" / name)
        frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist()})
    width, height = size
    meta = {"camera_model": "OPENCV", "w": width, "h": height, "fl_x": 80.0, "fl_y": 80.0}
    meta |= {"cx": width / 2, "cy": height / 2, "frames": frames, "ply_file_path": "sparse_pc.ply"}
    write_ply(scene / "sparse_pc.ply")
    (scene / "transforms.json").write_text(json.dumps(meta))
    for view in range(held_out if masks else 0):
        count = np.full((height // 2, width // 2, 3), 2, np.uint8)  # seen by two photos
        count[:, : width // 8 if view < held_out - 1 else None] = 0
        _save(Image.fromarray(count), scene / "visibility_median_count" / f"{view:05d}.png")
    return scene


def write_dl3dv(scene: Path, near: int = 4, far: int = 3, size: tuple[int, int] = (48, 32)) -> Path:
    """Write a scene of DL3DV-Benchmark: photos of images_4 alone, from two places."""
    inside = scene / "nerfstudio"
    frames = []
    for index, pose in enumerate(ring(near + far)):
        pose[:3, 3] += [0.0, 6.0 * (index >= near), 0.0]
        name = f"frame_{index + 1:05d}.png"
        _save(_picture(size, index), inside / "images_4" / name)
        frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist(), "colmap_im_id": index})
    width, height = (4 * side for side in size)
    meta = {"camera_model": "OPENCV", "w": width, "h": height, "fl_x": 160.0, "fl_y": 160.0}
    meta |= {"cx": width / 2, "cy": height / 2, "k1": 0.01, "k2": 0, "p1": 0, "p2": 0, "frames": frames}
    (inside / "transforms.json").write_text(json.dumps(meta))
    return scene


def write_mipnerf360(
    scene: Path, count: int = 10, size: tuple[int, int] = (200, 136), copies: Sequence[int] = (2, 4, 8)
) -> Path:
    """Write a scene of Mip-NeRF 360: photos, reduced copies, COLMAP's model."""
    names = [f"_DSC{8600 + index}.JPG" for index in range(count)]
    for index, name in enumerate(names):
        for factor in (1, *copies):
            folder = "images" if factor == 1 else f"images_{factor}"
            _save(_picture((size[0] // factor, size[1] // factor), index), scene / folder / name)
    lens = ("PINHOLE", (180.0, 180.0, size[0] / 2, size[1] / 2))
    write_model(scene / "sparse" / "0", names, cameras=(lens,), points=30, size=size)
    return scene


def write_llff(scene: Path, count: int = 9, size: tuple[int, int] = (160, 120)) -> Path:
    """Write a scene of LLFF: photos, copies of an eighth, COLMAP's model with a radial lens, poses."""
    names = [f"IMG_{4026 + index}.JPG" for index in range(count)]
    for index, name in enumerate(names):
        _save(_picture(size, index), scene / "images" / name)
        _save(_picture((size[0] // 8, size[1] // 8), index), scene / "images_8" / f"image{index:03d}.png")
    lens = ("SIMPLE_RADIAL", (150.0, size[0] / 2, size[1] / 2, 0.01))
    write_model(scene / "sparse" / "0", names, cameras=(lens,), points=30, size=size)
    np.save(scene / "poses_bounds.npy", np.zeros((count, 17)))
    return scene


def write_gso(place: Path, size: int = 64) -> Path:
    """Write an object of SyncDreamer's renders."""
    for view in range(16):
        picture = _picture((size, size), view, "RGBA")
        alpha = np.zeros((size, size), np.uint8)
        alpha[size // 4 : -size // 4, size // 4 : -size // 4] = 255
        picture.putalpha(Image.fromarray(alpha))
        _save(picture, place / f"{view:03d}.png")
        _save(Image.new("L", (size, size)), place / f"{view:03d}-depth.png")
    return place


def co3d_cameras(count: int = 12) -> list[Pinhole]:
    """Cameras of the sequences that ``write_co3d`` writes; the last is so near that the box leaves the picture."""
    places = [(0.05 * x, -2.0 if x < count - 1 else -0.45, 0.2) for x in range(count)]
    return [look_at(place, (0.05, 0.0, 0.1), 120, 80, 110.0) for place in places]


def write_co3d(root: Path, isotropic: bool = True, sequences: Sequence[str] = ("104_12345_678",)) -> Path:
    """Write a category of CO3D: a card before a wall, photographed by cameras that are known."""
    folder = root / "vase"
    (folder / "set_lists").mkdir(parents=True)
    frames, listed = [], []
    for sequence in sequences:
        for number, camera in enumerate(co3d_cameras()):
            pixels, _ = project(CARD, camera)
            left, top = pixels.min(0).values.round().int().clamp(min=0).tolist()
            right, bottom = pixels.max(0).values.round().int().tolist()
            mask = np.zeros((80, 120), np.uint8)
            mask[top:bottom, left:right] = 255
            picture = np.full((80, 120, 3), 90, np.uint8)
            picture[mask > 0] = (200, 50, 20)
            for kind, content in (("images", picture), ("masks", mask)):
                _save(Image.fromarray(content), folder / sequence / kind / f"frame{number:06d}.png")
            path = f"vase/{sequence}/images/frame{number:06d}.png"
            listed.append([sequence, number, path])
            frames.append(
                {
                    "sequence_name": sequence,
                    "frame_number": number,
                    "frame_timestamp": 0.1 * number,
                    "image": {"path": path, "size": [80, 120]},
                    "mask": {"path": path.replace("images", "masks"), "mass": float((mask > 0).sum())},
                    "viewpoint": _viewpoint(camera, isotropic),
                    "meta": {"frame_type": "test_known"},
                }
            )
    with gzip.open(folder / "frame_annotations.jgz", "wt") as file:
        json.dump(frames[::-1], file)
    lists = {"train": [], "val": [], "test": listed}
    (folder / "set_lists" / "set_lists_fewview_dev.json").write_text(json.dumps(lists))
    return root


def _viewpoint(camera: Pinhole, isotropic: bool) -> dict[str, Any]:
    """A camera as PyTorch3D has it."""
    turn = np.diag([-1.0, -1.0, 1.0])
    matrix = camera.world_to_camera.double().numpy()
    half = np.array([camera.width, camera.height]) / 2
    scale = np.full(2, half.min()) if isotropic else half
    intrinsics = camera.intrinsics.double().numpy()
    return {
        "R": (turn @ matrix[:3, :3]).T.tolist(),
        "T": (turn @ matrix[:3, 3]).tolist(),
        "focal_length": (np.diag(intrinsics)[:2] / scale).tolist(),
        "principal_point": ((half - intrinsics[:2, 2]) / scale).tolist(),
        "intrinsics_format": "ndc_isotropic" if isotropic else "ndc_norm_image_bounds",
    }
