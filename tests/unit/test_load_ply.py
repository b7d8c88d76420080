"""Going on from a .ply in whatever coordinates it is."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import method_configs

from difix3d_ns.apps.enhance_splat import open_splat
from difix3d_ns.apps.export_splat import export
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.runs import evaluate
from difix3d_ns.io import checkpoints
from difix3d_ns.ns import starting_splat
from difix3d_ns.ns.starting_splat import read_exported, read_transform
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.unit.short_training import console_output, short_config, train
from tests.unit.tiny_scene import write_scene

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> GuidedTrainer:
    """Of a moment: the splat shows the photos a little."""
    folder = tmp_path_factory.mktemp("training")
    config = short_config(write_scene(folder / "scene"), steps=40, rounds=0)
    config.pipeline.model.sh_degree = 1
    trainer = train(config)
    config.write()
    return trainer


@pytest.fixture(autouse=True)
def modest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting_splat, "MIN_PSNR", 8.0)


def _begun(training: GuidedTrainer, ply: Path, **flags: object) -> GuidedTrainer:
    scene = training.config.pipeline.datamanager.data
    assert scene is not None
    config = short_config(scene, steps=2, rounds=0, name=ply.stem)
    config.load_ply = ply
    for name, value in flags.items():
        setattr(config, name, value)
    trainer = GuidedTrainer(config)
    config.save_config()
    trainer.setup()
    return trainer


@pytest.mark.parametrize(
    ("frame", "beside", "expected"),
    [
        ("training", False, "the coordinates of this training"),
        ("capture", False, "those of the capture"),
        ("scaled", True, "those of scaled_frame.json"),
        ("scaled", "flag", "those of {}/elsewhere.json"),
    ],
)
def test_its_coordinates_are_found(
    training: GuidedTrainer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    frame: str,
    beside: object,
    expected: str,
) -> None:
    ply, flags = tmp_path / f"{frame}.ply", {}
    export(training.base_dir, ply, "capture" if frame == "capture" else "training", keep_all=True)
    known = tmp_path / f"{frame}_frame.json"
    if frame == "scaled":  # of another training, whose coordinates are three times as large
        gaussians = read_exported(ply)
        _write_scaled(ply, gaussians, 3.0)
        content = json.loads(known.read_text())
        matrix = np.array(content["splat_to_original"])
        matrix[:3, :3] /= 3.0
        known.write_text(json.dumps({"splat_to_original": matrix.tolist()}))
    if beside != True:  # noqa: E712
        known.unlink(missing_ok=True) if beside is False else shutil.move(known, tmp_path / "elsewhere.json")
    if beside == "flag":
        flags["load_transform"] = tmp_path / "elsewhere.json"
    trainer = _begun(training, ply, **flags)
    assert f"it is taken to be in {expected.format(tmp_path)}." in console_output(capsys)
    assert trainer.config.pipeline.model.sh_degree == 1
    for name, values in training.pipeline.model.gauss_params.items():
        found = trainer.pipeline.model.gauss_params[name].detach()
        values = values.detach()
        if name == "quats":  # of either sign
            values = values / values.norm(dim=1, keepdim=True)
            found = found * (found * values).sum(1, keepdim=True).sign()
        assert torch.allclose(found, values, atol=2e-3), name
    trainer.train()
    assert trainer.checkpoint_dir.is_dir()


def _write_scaled(path: Path, gaussians: dict[str, torch.Tensor], factor: float) -> None:
    import gsply

    arrays = [gaussians[name].numpy() for name in ("means", "scales", "quats")]
    rest = [gaussians["opacities"][:, 0].numpy(), gaussians["features_dc"].numpy(), gaussians["features_rest"].numpy()]
    gsply.plywrite(path, arrays[0] * np.float32(factor), arrays[1] + np.float32(np.log(factor)), arrays[2], *rest)


def test_a_splat_of_something_else_is_refused(
    training: GuidedTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting_splat, "MIN_PSNR", 20.0)
    ply = tmp_path / "other.ply"
    export(training.base_dir, ply, keep_all=True)
    gaussians = read_exported(ply)
    gaussians["means"] = gaussians["means"] + 100
    _write_scaled(ply, gaussians, 1.0)
    with pytest.raises(UserError, match=r"does not show the photos of this scene \(.* dB in .*--load-transform FILE"):
        _begun(training, ply)
    with pytest.raises(UserError, match=r"--load-ply .*nowhere\.ply: there is no such"):
        _begun(training, tmp_path / "nowhere.ply")
    (tmp_path / "half.ply").write_text("ply\nformat ascii 1.0\n")
    with pytest.raises(UserError, match=r"--load-ply .*half\.ply is no splat that can be read: it is no whole"):
        _begun(training, tmp_path / "half.ply")


@pytest.mark.parametrize("name", ["small.spz", "small.compressed.ply"])
def test_what_export_writes_smaller_is_read_as_well(training: GuidedTrainer, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    export(training.base_dir, file, keep_all=True)
    assert (tmp_path / "small_frame.json").is_file()
    path, state = starting_splat.read_start(file, "--pipeline.guidance.start")
    assert path == file and starting_splat.degree_of(state) == 1
    trainer = _begun(training, file)
    assert trainer.config.pipeline.model.sh_degree == 1 and trainer._start_step > 0
    found, values = (one.pipeline.model.gauss_params["means"].detach() for one in (trainer, training))
    nearest = torch.cdist(found, values).min(1).values
    assert len(found) == len(values) and nearest.max() < 4e-3 * (values.max() - values.min())
    file.write_bytes(b"ply, but nothing more")
    with pytest.raises(UserError, match=r"--load-ply .*small.* is no splat that can be read"):
        _begun(training, file)


def test_files_of_coordinates(training: GuidedTrainer, tmp_path: Path) -> None:
    export(training.base_dir, tmp_path / "a.ply")
    ours = read_transform(tmp_path / "a_frame.json")
    theirs = read_transform(training.base_dir / "dataparser_transforms.json")
    assert np.allclose(ours, theirs, atol=1e-5)
    for text in ("{}", '{"splat_to_original": [[1, 2], [3, 4]]}', "no"):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(UserError, match=r"b\.json has no coordinates"):
            read_transform(tmp_path / "b.json")


@pytest.mark.parametrize("kind", ["ply", "config.yml", "checkpoint"])
def test_a_splat_is_opened_without_training(
    training: GuidedTrainer, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    splat = training.base_dir / "config.yml"
    if kind == "checkpoint":
        splat = max(training.checkpoint_dir.iterdir())
    elif kind == "ply":
        splat = tmp_path / "splat.ply"
        export(training.base_dir, splat, "capture", keep_all=True)
        (tmp_path / "splat_frame.json").unlink(missing_ok=True)
    scene = training.config.pipeline.datamanager.data
    assert scene is not None
    config = open_splat(splat, scene, tmp_path / "outputs", fixer="none")
    assert config.is_file() and config.parents[2].parent == tmp_path / "outputs"
    ours, theirs = (evaluate(path, enhance=True) for path in (training.base_dir / "config.yml", config))
    assert theirs.views[0].enhanced is not None
    assert float((ours.views[0].render - theirs.views[0].render).abs().max()) < 0.02


def test_a_training_by_plain_splatfacto_is_opened(training: GuidedTrainer, tmp_path: Path) -> None:
    """As nerfstudio writes it: its settings, its datamanager, its split of the photos, and a checkpoint of its own."""
    ours = training.config.pipeline
    theirs = copy.deepcopy(method_configs["splatfacto"])
    theirs.data = theirs.pipeline.datamanager.data = ours.datamanager.data
    theirs.output_dir, theirs.experiment_name, theirs.timestamp = tmp_path / "plain", "scene", "run"
    theirs.pipeline.model.sh_degree = ours.model.sh_degree
    theirs.pipeline.model.background_color = ours.model.background_color
    folder = theirs.get_base_dir()
    (folder / "nerfstudio_models").mkdir(parents=True)
    (folder / "config.yml").write_text(yaml.dump(theirs))
    state = checkpoints.load(max(training.checkpoint_dir.iterdir()))
    plain = {
        "step": state["step"],
        "pipeline": {name: values for name, values in state["pipeline"].items() if "gauss_params" in name},
        "optimizers": {},
        "schedulers": {},
        "scalers": {},
    }
    torch.save(plain, folder / "nerfstudio_models" / f"step-{state['step']:09d}.ckpt")
    config = open_splat(folder, output=tmp_path / "outputs", fixer="none")
    assert config.parents[2].parent == tmp_path / "outputs"
    first, second = (evaluate(path, enhance=True) for path in (training.base_dir / "config.yml", config))
    assert second.views and second.views[0].enhanced is not None
    pictures = {view.name: view.render for view in first.views}
    for view in second.views:
        assert float((pictures[view.name] - view.render).abs().max()) < 0.02


def test_nothing_to_open(training: GuidedTrainer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SPLAT .*nothing: there is no such file"):
        open_splat(tmp_path / "nothing", tmp_path)
    with pytest.raises(UserError, match=r"--data .*nowhere does not exist"):
        open_splat(training.base_dir, tmp_path / "nowhere")
