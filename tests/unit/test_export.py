"""Splats as files that viewers open."""

from __future__ import annotations

import json
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch

from difix3d_ns.apps.export_splat import export
from difix3d_ns.apps.fix_images import Sources, fix_pictures
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.runs import evaluate
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.starting_splat import read_exported
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import write_scene

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> GuidedTrainer:
    folder = tmp_path_factory.mktemp("training")
    config = short_config(write_scene(folder / "scene"), steps=3, rounds=0)
    trainer = train(config)
    config.write()
    return trainer


def test_a_ply_holds_the_splat(training: GuidedTrainer, tmp_path: Path) -> None:
    done = export(training.base_dir, tmp_path / "splat.ply", keep_all=True)
    assert done.left_out == {"that are no numbers": 0} and "Gaussians" in done.describe()
    found = read_exported(done.file)
    for name, values in training.pipeline.model.gauss_params.items():
        values = values.detach()
        if name == "quats":
            values = values / values.norm(dim=1, keepdim=True)
        assert torch.allclose(found[name], values, atol=1e-6), name
    frame = json.loads((tmp_path / "splat_frame.json").read_text())
    place = SplatFrame.of(training.pipeline.datamanager.train_dataparser_outputs)
    assert np.allclose(frame["splat_to_original"], place.to_original)


@pytest.mark.parametrize(("name", "exact"), [("a.compressed.ply", 4e-3), ("a.spz", 1e-4)])
def test_compressed_forms(training: GuidedTrainer, tmp_path: Path, name: str, exact: float) -> None:
    whole = export(training.base_dir, tmp_path / "whole.ply")
    small = export(training.base_dir, tmp_path / name)
    assert small.gaussians == whole.gaussians and small.file.name == name
    assert small.megabytes < 0.5 * whole.megabytes
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        ["whole.ply", "whole_frame.json", name, "a_frame.json"]
    )
    read = gsply.read_spz(small.file) if name.endswith(".spz") else gsply.plyread(small.file)
    original = read_exported(whole.file)["means"].numpy()
    spread = np.ptp(original, axis=0).max()
    nearest = np.sqrt(((original[:, None] - np.asarray(read.means)[None]) ** 2).sum(-1)).min(1)
    assert nearest.max() < exact * spread


def test_in_the_captures_coordinates_and_cropped(training: GuidedTrainer, tmp_path: Path) -> None:
    ours = export(training.base_dir, tmp_path / "ours.ply")
    theirs = export(training.base_dir, tmp_path / "theirs.ply", frame="capture")
    assert not (tmp_path / "theirs_frame.json").exists()
    matrix = SplatFrame.of(training.pipeline.datamanager.train_dataparser_outputs).to_original
    placed = read_exported(ours.file)["means"].double().numpy() @ matrix[:3, :3].T + matrix[:3, 3]
    found = read_exported(theirs.file)["means"].numpy()
    assert np.allclose(found, placed, atol=1e-4 * np.abs(placed).max())
    middle = np.median(found, axis=0)
    box = (*(middle - 10), middle[0], *(middle[1:] + 10))
    half = export(training.base_dir, tmp_path / "half.ply", frame="capture", crop=tuple(map(float, box)))
    means = read_exported(half.file)["means"].numpy()
    assert 0 < half.gaussians < theirs.gaussians and (means[:, 0] <= middle[0]).all()
    assert half.left_out["outside of the crop"] == theirs.gaussians - half.gaussians


@pytest.mark.parametrize("ending", [".spz", ".compressed.ply"])
def test_the_bench_measures_what_the_file_holds(training: GuidedTrainer, tmp_path: Path, ending: str) -> None:
    config = training.base_dir / "config.yml"
    whole, found = (evaluate(config, False, exported=given) for given in (None, ending))
    assert found.gaussians == export(training.base_dir, tmp_path / f"a{ending}").gaussians <= whole.gaussians
    for one, other in zip(whole.views, found.views, strict=True):
        change = (one.render - other.render).abs()
        assert torch.equal(one.truth, other.truth) and 0 < change.mean() < 0.02


def test_pictures_are_repaired_on_the_device_that_was_asked_for(
    training: GuidedTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = training.base_dir.parents[3] / "scene" / "images" / "frame_001.png"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # eval_setup would take it
    monkeypatch.setattr("difix3d_ns.ns.pipeline.load_kernels", lambda cpu: pytest.fail("CUDA was asked for"))
    config = training.base_dir / "config.yml"
    (fixed,) = fix_pictures([picture], tmp_path / "fixed.png", Sources(config=config), "blend", "cpu")
    assert fixed.is_file()


def test_what_floats_and_what_nobody_sees_is_left_out(
    training: GuidedTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from difix3d_ns.apps import export_splat

    model = training.pipeline.model
    camera = training.pipeline.scene.unoptimized_cameras()[0]
    ahead = camera.camera_to_world[:3, 2]
    with torch.no_grad():
        model.gauss_params["opacities"][0] = -9.0
        model.means[1] = camera.position - 50 * ahead
        model.means[2] = torch.nan
    monkeypatch.setattr(export_splat, "load_pipeline", lambda config: training.pipeline)
    done = export(training.base_dir, tmp_path / "a.ply")
    assert done.left_out["that cannot be seen"] >= 1 and done.left_out["that no photo shows"] >= 1
    assert done.left_out["that are no numbers"] == 1
    assert done.gaussians <= len(model.means) - 3 and "left out: 1 that are no numbers" in done.describe()
    assert export(training.base_dir, tmp_path / "b.ply", keep_all=True).gaussians == len(model.means) - 1


def test_what_is_wrong_is_said(training: GuidedTrainer, tmp_path: Path) -> None:
    (tmp_path / "there.ply").write_text("")
    for arguments, message in (
        ({"output": tmp_path / "a.obj"}, r"a\.obj: the name must end in one of \.compressed\.ply"),
        ({"output": tmp_path / "there.ply"}, r"there\.ply exists already; --force"),
        ({"output": tmp_path / "a.ply", "crop": (0.0, 0, 0, 1, -1, 1)}, r"--crop 0 0 0 1 -1 1: least x y z"),
        ({"output": tmp_path / "a.ply", "crop": (90.0, 90, 90, 91, 91, 91)}, "nothing is left.*--crop takes all away"),
    ):
        with pytest.raises(UserError, match=message):
            export(training.base_dir, **arguments)
    with pytest.raises(UserError, match="nowhere"):
        export(tmp_path / "nowhere", tmp_path / "a.ply")
    assert not (tmp_path / "a.ply").exists()
