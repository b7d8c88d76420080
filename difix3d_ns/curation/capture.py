"""Photographs with known cameras, read from a nerfstudio dataset or made from a procedural seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData
from scipy.ndimage import binary_closing, binary_dilation, binary_opening
from torch import Tensor

from difix3d_ns.curation.procedural import photograph_world, training_world
from difix3d_ns.curation.procedural.dataset import structure_points
from difix3d_ns.geometry.pinhole import Pinhole

# What splatfacto shows where nothing is, when it trains on random backgrounds.
BACKGROUND = (0.1490, 0.1647, 0.2157)


@dataclass(frozen=True)
class Capture:
    """What a reconstruction starts from, and the photographs it is held against."""

    name: str
    cameras: list[Pinhole]
    images: Tensor  # [N, H, W, 3] float32 in [0, 1]
    masks: Tensor | None  # [N, H, W, 1] in [0, 1], 0 = background that is no part of the scene
    points: Tensor  # [P, 3] world
    colours: Tensor  # [P, 3] in [0, 1]
    train: list[int]
    test: list[int]
    background: tuple[float, float, float] = BACKGROUND  # shown where the splat is not opaque
    depths: Tensor | None = None  # [N, H, W, 1] truth, where known; 0 for sky


def load_capture(scene: str, long_side: int, white_background: bool = False) -> Capture:
    """Read ``procedural:SEED`` or a folder with ``transforms.json``.

    Args:
        scene: which.
        long_side: images are reduced to this many pixels on their longer side, never enlarged.
        white_background: the pictures show an object before white: mask it.

    Raises:
        FileNotFoundError: no ``transforms.json`` or no points in the folder.
        ValueError: bad seed, no held-out views, images of several sizes.
    """
    if scene.startswith("procedural:"):
        seed = scene.partition(":")[2]
        if not seed.isdigit():
            raise ValueError(f"{scene}: write procedural:SEED with a whole number, e.g. procedural:7")
        return procedural_capture(int(seed), long_side)
    return _read_folder(Path(scene), long_side, white_background)


def procedural_capture(seed: int, long_side: int = 288) -> Capture:
    """Photograph the training world of a seed: 6 to 12 training views, shape and exposure as they come."""
    world = training_world(seed)
    rng = np.random.default_rng([5, seed])
    ratio = rng.choice([2 / 3, 3 / 4, 9 / 16])
    short = round(long_side * ratio / 16) * 16
    width, height = (short, long_side) if rng.random() < 0.2 else (long_side, short)
    views = photograph_world(
        world,
        rng,
        width=width,
        height=height,
        train_views=int(rng.integers(6, 13)) + (5 if world.path.closed else 0),  # a full circle needs more
        test_views=int(rng.integers(9, 13)),
        exposure_change=float(rng.choice([0.0, 0.0, 0.08, 0.2])),
        label=None,
    )
    xyz, rgb = structure_points(views, rng, int(rng.integers(1000, 2500)))
    return Capture(
        name=f"procedural_{seed:05d}",
        cameras=[v.camera for v in views],
        images=torch.stack([v.image for v in views]),
        masks=None,
        points=torch.from_numpy(xyz),
        colours=torch.from_numpy(rgb).float() / 255,
        train=[i for i, v in enumerate(views) if v.training],
        test=[i for i, v in enumerate(views) if not v.training],
        depths=torch.stack([v.depth for v in views]),
    )


def _read_folder(folder: Path, long_side: int, white_background: bool) -> Capture:
    path = folder / "transforms.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give procedural:SEED or a nerfstudio dataset")
    transforms = json.loads(path.read_text())
    training, held_out = set(transforms.get("train_filenames", ())), set(transforms.get("test_filenames", ()))
    if not training or not held_out:
        raise ValueError(f"{path}: pairs need train_filenames and test_filenames")
    cameras, images, train, test = [], [], [], []
    for frame in transforms["frames"]:
        with Image.open(folder / frame["file_path"]) as file:
            photo = file.convert("RGB")
        scale = min(1.0, long_side / max(photo.size))
        width, height = round(photo.width * scale), round(photo.height * scale)
        images.append(np.asarray(photo.resize((width, height), Image.Resampling.BOX, reducing_gap=None)))
        lens = {k: frame.get(k, transforms.get(k)) for k in ("fl_x", "fl_y", "cx", "cy")}
        intrinsics = torch.tensor([[lens["fl_x"], 0, lens["cx"]], [0, lens["fl_y"], lens["cy"]], [0, 0, 1.0]])
        pose = torch.tensor(frame["transform_matrix"]) @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        cameras.append(Pinhole(pose, intrinsics, photo.width, photo.height).resized(width, height))
        if frame["file_path"] in training:
            train.append(len(cameras) - 1)
        elif frame["file_path"] in held_out:
            test.append(len(cameras) - 1)
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"{path}: images of several sizes; pairs of one scene need one size")
    points = folder / transforms.get("ply_file_path", "sparse_pc.ply")
    if not points.is_file():
        raise FileNotFoundError(f"{points} does not exist; reconstruction starts from sparse points")
    vertex = PlyData.read(str(points))["vertex"]
    stacked = torch.from_numpy(np.stack(images)).float() / 255
    return Capture(
        name=folder.resolve().name,
        cameras=cameras,
        images=stacked,
        masks=_object_masks(stacked) if white_background else None,
        points=torch.from_numpy(np.stack([np.asarray(vertex[n], np.float32) for n in "xyz"], 1)),
        colours=torch.from_numpy(np.stack([np.asarray(vertex[n], np.float32) for n in ("red", "green", "blue")], 1))
        / 255,
        train=train,
        test=test,
        background=(1.0, 1.0, 1.0) if white_background else BACKGROUND,
    )


def _object_masks(images: Tensor) -> Tensor:  # [N, H, W, 1]
    """Whatever is dark or coloured (a shadow on white is neither), without specks, small holes closed."""
    masks = []
    for image in images.numpy():
        solid = (np.ptp(image, axis=-1) > 0.18) | (image.max(-1) < 0.6)
        solid = binary_closing(binary_opening(solid), iterations=2)
        masks.append(binary_dilation(solid, iterations=1))
    return torch.from_numpy(np.stack(masks)).float()[..., None]
