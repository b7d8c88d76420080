"""CO3D's layout, on a folder made like it: a card before a wall, photographed by cameras that are known."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.co3d_scenes import SIZE, read_frames, square_around, write_sequence
from benchmarks.co3d_scenes import test_sequences as sequences_of
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.warp import project
from tests.unit.known_scenes import look_at

CARD = torch.tensor([[-0.2, 0.0, -0.1], [0.2, 0.0, -0.1], [0.2, 0.0, 0.3], [-0.2, 0.0, 0.3]])


def _cameras() -> list[Pinhole]:
    return [look_at((0.3 * x, -2.0, 0.2), (0.05, 0.0, 0.1), 120, 80, 110.0) for x in range(-2, 3)]


def _written(camera: Pinhole, isotropic: bool) -> dict:
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


def _write(root: Path, isotropic: bool) -> None:
    folder = root / "vase"
    (folder / "set_lists").mkdir(parents=True)
    frames = []
    for number, camera in enumerate(_cameras()):
        pixels, _ = project(CARD, camera)
        left, top = pixels.min(0).values.round().int().tolist()
        right, bottom = pixels.max(0).values.round().int().tolist()
        mask = np.zeros((80, 120), np.uint8)
        mask[top:bottom, left:right] = 255
        picture = np.full((80, 120, 3), 90, np.uint8)
        picture[mask > 0] = (200, 50, 20)
        for kind, content in (("images", picture), ("masks", mask)):
            (folder / "seq" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(folder / "seq" / kind / f"frame{number:06d}.png")
        frames.append(
            {
                "sequence_name": "seq",
                "frame_number": number,
                "image": {"path": f"vase/seq/images/frame{number:06d}.png", "size": [80, 120]},
                "mask": {"path": f"vase/seq/masks/frame{number:06d}.png"},
                "viewpoint": _written(camera, isotropic),
            }
        )
    with gzip.open(folder / "frame_annotations.jgz", "wt") as file:
        json.dump(frames[::-1], file)
    (folder / "set_lists" / "set_lists_fewview_dev.json").write_text(
        json.dumps({"train": [], "test": [["seq", 0, ""], ["seq", 1, ""]]})
    )


@pytest.mark.parametrize("isotropic", [True, False])
def test_a_sequence_becomes_cut_out_squares(isotropic: bool, tmp_path: Path) -> None:
    _write(tmp_path, isotropic)
    frames = read_frames(tmp_path / "vase")
    assert sequences_of(tmp_path / "vase", "fewview_dev") == ["seq"]
    written = write_sequence(tmp_path, frames["seq"], 0, 2, tmp_path / "scene")
    meta = json.loads((written / "transforms.json").read_text())
    assert len(meta["train_filenames"]) == 2 and len(meta["val_filenames"]) == 3
    assert not set(meta["train_filenames"]) & set(meta["val_filenames"])
    for frame, camera in zip(meta["frames"], _cameras(), strict=True):
        pose = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
        np.testing.assert_allclose(pose, camera.camera_to_world.numpy(), atol=1e-5)
        lens = torch.tensor([[frame["fl_x"], 0, frame["cx"]], [0, frame["fl_y"], frame["cy"]], [0, 0, 1]])
        cut = Pinhole(torch.from_numpy(pose).float(), lens.float(), SIZE, SIZE)
        pixels, _ = project(CARD, cut)
        alpha = np.asarray(Image.open(written / frame["file_path"]))[..., 3]
        rows, columns = np.nonzero(alpha > 127)
        assert columns.min() == pytest.approx(float(pixels[:, 0].min()), abs=4)  # the mask has whole pixels
        assert columns.max() == pytest.approx(float(pixels[:, 0].max()), abs=4)
        assert rows.min() == pytest.approx(float(pixels[:, 1].min()), abs=4)
        assert max(np.ptp(rows), np.ptp(columns)) == pytest.approx(SIZE / 1.3, abs=4)


def test_nothing_in_a_mask_leaves_the_picture() -> None:
    assert square_around(np.zeros((80, 120), bool)) == (0.0, 0.0, 80.0)


def test_another_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"frame_annotations\.jgz is missing"):
        read_frames(tmp_path)
