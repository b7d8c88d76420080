"""``difix3d mesh`` on a training, and on a .ply of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from difix3d_ns.apps.export_splat import export
from difix3d_ns.apps.mesh_splat import box_of, mesh, turned_box
from difix3d_ns.errors import UserError
from difix3d_ns.meshing.photo_counts import count_colours
from difix3d_ns.meshing.splat_mesh import MeshOptions
from difix3d_ns.meshing.volume import Box
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.unit.short_training import short_config, train

pytestmark = pytest.mark.usefixtures("one_thread")

BOX = Box(np.full(3, -1.5), np.full(3, 1.5))
COARSE = MeshOptions(between=2, voxels=48, box=BOX, seen_by=1)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, tiny_scene: Path) -> GuidedTrainer:
    """A splat that is opaque at the scene's points: its training is three steps long."""
    config = short_config(tiny_scene, steps=3, rounds=0)
    config.output_dir = tmp_path_factory.mktemp("meshed")
    trainer = train(config)
    config.write()
    with torch.no_grad():
        trainer.pipeline.model.gauss_params["opacities"].fill_(4.0)
        trainer.pipeline.model.gauss_params["scales"].add_(math.log(3))
    trainer.save_checkpoint(3)
    return trainer


def test_a_training_becomes_a_mesh(training: GuidedTrainer, tmp_path: Path) -> None:
    done = mesh(training.base_dir, tmp_path / "scene.ply", options=COARSE)
    assert "faces in" in done.describe() and "no photo shows" in done.describe() and 0 <= done.unseen <= 1
    found = trimesh.load(done.files[0], process=False)
    assert len(found.faces) == done.faces > 100
    means = training.pipeline.model.means.detach().numpy()
    assert (found.bounds[0] > BOX.low - 0.05).all() and (found.bounds[1] < BOX.high + 0.05).all()
    sizes = training.pipeline.model.scales.detach().exp().amax(1).numpy()
    apart = np.linalg.norm(found.vertices[:, None] - means[None], axis=-1) / sizes
    # an opaque Gaussian is half passed at 1.2 of its standard deviations
    assert np.quantile(apart.min(1), 0.95) < 1.3

    whole = replace(COARSE, turn=np.eye(4))
    there = mesh(training.base_dir, tmp_path / "there.ply", options=whole, frame="capture", colours="count")
    matrix = SplatFrame.of(training.pipeline.datamanager.train_dataparser_outputs).to_original
    moved = trimesh.load(there.files[0], process=False)
    assert np.allclose(trimesh.transform_points(found.vertices, matrix), moved.vertices, atol=1e-3)
    frame = json.loads((tmp_path / "scene_frame.json").read_text())
    assert np.allclose(frame["splat_to_original"], matrix)
    assert not (tmp_path / "there_frame.json").exists()


def test_a_ply_that_does_not_show_the_photos_is_refused(
    training: GuidedTrainer, tmp_path: Path, tiny_scene: Path
) -> None:
    splat = export(training.base_dir, tmp_path / "splat.ply", keep_all=True).file  # hardly trained
    with pytest.raises(UserError, match="does not show the photos of this scene"):
        mesh(splat, tmp_path / "b.ply", tiny_scene, COARSE)
    assert not (tmp_path / "b.ply").exists()


def test_what_is_wrong_is_said(training: GuidedTrainer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in one of \.glb, \.obj, \.ply"):
        mesh(training.base_dir, tmp_path / "scene.stl")
    (tmp_path / "there.ply").touch()
    with pytest.raises(UserError, match="--force overwrites"):
        mesh(training.base_dir, tmp_path / "there.ply")
    with pytest.raises(UserError, match="give --data"):
        mesh(tmp_path / "splat.ply", tmp_path / "a.glb")
    with pytest.raises(UserError, match="leave it out"):
        mesh(training.base_dir, tmp_path / "a.glb", tmp_path)
    with pytest.raises(UserError, match="give --texture 0"):
        mesh(training.base_dir, tmp_path / "a.ply", texture=512)
    with pytest.raises(UserError, match="least x y z"):
        box_of((0, 0, 0, 1, 1, -1))
    with pytest.raises(UserError, match="--obb-scale"):
        turned_box((0, 0, 0), (0, 0, 0), (1, 0, 1))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["there.ply"]


def test_the_box_of_the_viewer() -> None:
    box, turn = turned_box((1, 2, 3), (0, 0, math.pi / 2), (4, 2, 2))
    inside = trimesh.transform_points(np.array([[1, 3.9, 3], [2.9, 2, 3]]), turn)  # its long side lies along y
    assert ((inside > box.low) & (inside < box.high)).all(1).tolist() == [True, False]


def test_colours_of_counts() -> None:
    none, one, many, more = count_colours(np.array([0, 1, 5, 9])).tolist()
    assert none[0] > 200 and none[1] < 80 and one == [240, 190, 90] and many == more == [70, 140, 200]
