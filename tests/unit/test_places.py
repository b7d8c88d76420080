"""Trainings opened from another folder, or moved; names that are equal; folders of trainings that came to nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nerfstudio.utils.eval_utils as nerfstudios
import pytest

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report.training import read_training
from difix3d_ns.evaluation.runs import evaluate
from difix3d_ns.io.file_names import distinct_names
from difix3d_ns.ns.config_paths import make_absolute
from difix3d_ns.ns.patches.eval_setup import find_trainings_again
from difix3d_ns.ns.trainer import GuidedTrainer, GuidedTrainerConfig
from tests.unit.fabricated_run import write_config
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import write_scene

TRAINING = "outputs/tiny/difix3d-splatfacto/run"


@pytest.fixture(autouse=True)
def _whatever_was_imported_first() -> None:
    find_trainings_again()


def _relative(scene: str = "scene", **settings: Any) -> GuidedTrainerConfig:
    """Settings as nerfstudio's command has them, for a scene in the current folder."""
    config = short_config(Path(scene), **settings)
    config.output_dir = Path("outputs")
    return config


def _two_cameras(folder: Path) -> Path:
    """A scene whose photos have equal names in a folder each; the last of both cameras are held out."""
    write_scene(folder, count=6)
    meta = json.loads((folder / "transforms.json").read_text())
    names = [f"cam{index % 2}/{index // 2:04d}.png" for index in range(6)]
    for frame, name in zip(meta["frames"], names, strict=True):
        (folder / "images" / name).parent.mkdir(exist_ok=True)
        (folder / frame["file_path"]).rename(folder / "images" / name)
        frame["file_path"] = f"images/{name}"
    held_out = [f"images/{name}" for name in names[4:]]
    meta["train_filenames"] = [f"images/{name}" for name in names[:4]]
    meta["val_filenames"] = meta["test_filenames"] = held_out
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene and its training, which was started there with relative paths, moved afterwards."""
    before = tmp_path_factory.mktemp("before") / "project"
    before.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(before)
        _two_cameras(Path("scene"))
        train(_relative(steps=2))
    moved = tmp_path_factory.mktemp("after") / "renamed"
    shutil.move(before, moved)
    return moved


def test_nerfstudios_commands_find_a_training_that_was_moved(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = project / TRAINING / "config.yml"
    assert "before" in path.read_text() and str(project) not in path.read_text()
    config, pipeline, checkpoint, step = nerfstudios.eval_setup(path)
    assert checkpoint == project / TRAINING / "nerfstudio_models/step-000000001.ckpt" and step == 1
    datamanager: Any = pipeline.datamanager
    assert config.data == datamanager.get_datapath() == project / "scene"
    assert len(datamanager.train_dataset) == 4


def test_views_of_equal_names_stay_apart(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    views = evaluate(project / TRAINING / "config.yml", enhance=False).views
    assert [view.name for view in views] == ["cam0/0002.png", "cam1/0002.png"]


def test_saved_paths_hold_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scene/masks", "prior", "images", "nerfstudio_models"):
        Path(name).mkdir(parents=True)
    for name in ("path.json", "alex.pth"):
        Path(name).touch()
    config: Any = _relative("scene/../scene")
    config.pipeline.guidance.targets.camera_path = Path("path.json")
    config.pipeline.guidance.fixer.weights = "prior"
    config.pipeline.enhancer.weights = "owner/model"  # a hub id
    config.pipeline.model.lpips_weights = (Path("alex.pth"), Path("gone.pth"))
    make_absolute(config)
    make_absolute(config)
    assert config.data == config.pipeline.datamanager.data == tmp_path / "scene"
    assert config.output_dir == tmp_path / "outputs"
    assert config.pipeline.guidance.targets.camera_path == tmp_path / "path.json"
    assert config.pipeline.guidance.fixer.weights == str(tmp_path / "prior")
    assert config.pipeline.enhancer.weights == "owner/model"
    assert config.pipeline.model.lpips_weights == (tmp_path / "alex.pth", Path("gone.pth"))
    # these are below another one by design, whatever lies in the current folder
    assert config.relative_model_dir == Path("nerfstudio_models") and config.logging.relative_log_dir == Path()


def test_paths_below_the_scene_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

    monkeypatch.chdir(tmp_path)
    for name in ("scene/mine", "mine", "images", "colmap/sparse/0", "masks"):
        Path(name).mkdir(parents=True)
    config: Any = _relative()
    parser = ColmapDataParserConfig(images_path=Path("mine"), masks_path=Path("masks"))
    config.pipeline.datamanager.dataparser = parser
    make_absolute(config)
    assert parser.images_path == Path("mine") and parser.colmap_path == Path("colmap/sparse/0")
    assert parser.masks_path == tmp_path / "masks"  # given, and not below the scene


@pytest.mark.parametrize("current", ["project", "project/outputs", "."])
def test_trainings_named_after_the_scene_are_not_taken_for_it(
    current: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config.yml of an earlier version has paths as they were given."""
    project = tmp_path / "project"
    run = project / "outputs/scene/difix3d-splatfacto/run"
    write_config(run)
    monkeypatch.chdir(tmp_path / current)
    assert read_training(run).config.data == Path("scene")  # it is nowhere
    write_scene(project / "scene", count=4)
    found = read_training(run)
    assert found.config.data == project / "scene" and found.photos == 3


def test_a_refused_training_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "scene", count=3)
    (tmp_path / "scene/transforms.json").unlink()
    config = _relative()
    config.save_config()
    with pytest.raises(UserError, match="without camera poses"):
        GuidedTrainer(config).setup()
    assert not (tmp_path / "outputs").exists()
    with pytest.raises(UserError, match=r"there is no .*config\.yml; give the config\.yml of a training"):
        nerfstudios.eval_setup(tmp_path / TRAINING / "config.yml")
    (tmp_path / TRAINING).mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no training .*refused"):
        read_training(tmp_path / "outputs")
    (tmp_path / TRAINING / "config.yml").write_text("an earlier one's")
    config.save_config()
    assert (tmp_path / TRAINING / "config.yml").read_text() == "an earlier one's"
    assert [path.name for path in (tmp_path / TRAINING).iterdir()] == ["config.yml"]


def test_a_training_that_ended_before_its_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "scene", count=3)
    config = _relative()
    config.save_config()
    GuidedTrainer(config).setup()
    path = tmp_path / TRAINING / "config.yml"
    for folder in (None, "nerfstudio_models"):  # nerfstudio's own message, and its IndexError
        if folder:
            (path.parent / folder).mkdir()
        with pytest.raises(UserError, match=r"run has no checkpoint: the training ended before"):
            nerfstudios.eval_setup(path)
    assert read_training(path).checkpoints == []


def test_names_that_tell_files_apart() -> None:
    assert distinct_names([]) == []
    assert distinct_names([Path("scene/images/a.png")]) == ["a.png"]
    assert distinct_names([Path("s/images/a.png"), Path("s/images/b.png")]) == ["a.png", "b.png"]
    assert distinct_names([Path("s/cam0/a.png"), Path("s/cam1/a.png")]) == ["cam0/a.png", "cam1/a.png"]
    assert distinct_names([Path("s/a.png"), Path("s/deep/a.png")]) == ["a.png", "deep/a.png"]
