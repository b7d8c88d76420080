"""LLFF folders: ``poses_bounds.npy`` and pictures in the order of their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from difix3d_ns.errors import UserError
from difix3d_ns.ns.dataparsers.colmap_model import is_picture, read_split_lists
from difix3d_ns.ns.dataparsers.described_scene import DescribedScene, Frame, Lens


def read_llff(poses: Path, images: Path) -> DescribedScene:
    """Read the poses of an LLFF folder; its world is COLMAP's, turned to nerfstudio's up.

    Args:
        poses: ``poses_bounds.npy``, [N, 17]: a 3 x 5 matrix (down, right, back, position; height, width, focal
            length) and the range of depths per picture.
        images: the folder with N pictures.

    Raises:
        UserError: the file is no such table, or there are more or fewer pictures.
    """
    try:
        table = np.load(poses, allow_pickle=False).astype(np.float64)
    except (OSError, ValueError) as error:
        raise UserError(f"{poses} cannot be read ({error}); make it again with LLFF's imgs2poses.py") from error
    if table.ndim != 2 or table.shape[1] not in (15, 17) or not len(table):
        raise UserError(f"{poses} has the shape {table.shape} where LLFF has [N, 17]; make it again with imgs2poses.py")
    pictures = sorted(entry for entry in images.iterdir() if is_picture(entry.name) and not entry.name.startswith("."))
    if len(pictures) != len(table):
        raise UserError(
            f"{poses} has {len(table)} poses and {images} has {len(pictures)} pictures, which LLFF pairs by the order "
            "of their names; remove the pictures without a pose, or give a COLMAP model in sparse/0 instead"
        )
    matrices = table[:, :15].reshape(-1, 3, 5)
    turned = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    frames = []
    for picture, matrix in zip(pictures, matrices, strict=True):
        down, right, back, position = matrix[:, :4].T
        pose = np.eye(4)
        pose[:3] = turned @ np.stack([right, -down, back, position], axis=-1)
        height, width, focal = matrix[:, 4].tolist()
        lens = Lens(round(width), round(height), focal, focal, width / 2, height / 2)
        frames.append(Frame(picture.name, picture, pose, lens))
    splits, notes = read_split_lists(poses.parent, poses.parent, [frame.name for frame in frames])
    return DescribedScene(
        source=poses,
        frames=frames,
        splits=splits,
        applied_transform=np.concatenate([turned, np.zeros((3, 1))], axis=1),
        notes=[*notes, f"{poses} has no 3D points; training starts from random ones."],
    )
