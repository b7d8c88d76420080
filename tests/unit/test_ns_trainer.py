"""The trainer: mistakes end with one line, odd scenes train, a full disk does not end training."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.scripts.train import main as ns_train

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.difix import DifixConfig, DifixGuidance, TargetConfig
from difix3d_ns.guidance.fixing import ViewFixer
from difix3d_ns.io import checkpoints
from difix3d_ns.io.run import Run
from difix3d_ns.ns import disk_space
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.ns.trainer import GuidedTrainer, GuidedTrainerConfig
from difix3d_ns.ns.training_scene import TrainingScene
from tests.stand_ins import DeepFixer, FlatRenderer, ModelOfScene
from tests.unit.short_training import console_output, short_config, train
from tests.unit.tiny_scene import datamanager, write_scene

Change = Callable[[GuidedTrainerConfig], None]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


def _set(path: str, value: Any) -> Change:
    def change(config: GuidedTrainerConfig) -> None:
        *owners, name = path.split(".")
        owner: Any = config
        for part in owners:
            owner = getattr(owner, part)
        assert hasattr(owner, name)
        setattr(owner, name, value)

    return change


MISTAKES: dict[str, tuple[Change, list[str]]] = {
    "CUDA without CUDA": (_set("machine.device_type", "cuda"), ["--machine.device-type cuda", "leave the flag out"]),
    "Apple's GPU": (_set("machine.device_type", "mps"), ["--machine.device-type mps", "--machine.device-type cpu"]),
    "two GPUs": (_set("machine.num_devices", 2), ["--machine.num-devices 2", "CUDA_VISIBLE_DEVICES=1"]),
    "two machines": (_set("machine.num_machines", 2), ["--machine.num-machines 2", "difix3d bench --executor ray"]),
    "no steps": (_set("max_num_iterations", 0), ["--max-num-iterations 0"]),
    "no such checkpoint": (_set("load_checkpoint", Path("/nowhere.ckpt")), ["/nowhere.ckpt does not exist"]),
    "no such folder of checkpoints": (_set("load_dir", Path("/nowhere")), ["--load-dir /nowhere", "nerfstudio_models"]),
    "no such fixer": (_set("pipeline.guidance.fixer.name", "magic"), ["--pipeline.guidance.fixer.name magic", "blend"]),
    "no camera path": (
        _set("pipeline.guidance.targets.kind", "camera-path"),
        ["--pipeline.guidance.targets.camera-path FILE"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_one_line(
    name: str, scene: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change, words = MISTAKES[name]
    config = short_config(scene, steps=300, rounds=1)
    change(config)
    with pytest.raises(UserError) as told:
        GuidedTrainer(config).setup()
    for word in words:
        assert word in str(told.value)


@pytest.mark.parametrize(
    ("flag", "value", "nearest"),
    [
        ("pipeline.guidance.fixer", "embeded", "did you mean embedded"),
        ("pipeline.enhancer", "belnd", "did you mean blend"),
        ("pipeline.depth", "multi-view", "did you mean multiview"),
    ],
)
def test_a_name_that_no_prior_has_is_refused_before_the_scene_is_read(
    flag: str, value: str, nearest: str, scene: Path
) -> None:
    config = short_config(scene / "nowhere")
    config.pipeline.sparse_helps = True
    _set(f"{flag}.name", value)(config)
    with pytest.raises(UserError, match=f"--{flag}.name {value}: .*{nearest}"):
        GuidedTrainer(config)


def test_a_disk_without_room_is_named_before_anything_is_done(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = short_config(scene)
    config.pipeline.model.max_gs_num = 100_000
    free = SimpleNamespace(free=20 * 2**20)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match="20 MiB are free on its disk, and the checkpoints may take up to 203 MiB"):
        GuidedTrainer(config)
    free.free = 50 * 2**20
    GuidedTrainer(config)
    assert "50 MiB are free on its disk" in console_output(capsys)
    config.pipeline.model.max_gs_num = 10_000
    GuidedTrainer(config)
    assert "are free on its disk" not in console_output(capsys)


def test_the_viewers_log_has_a_folder(scene: Path) -> None:
    config = short_config(scene, steps=1, name="with-a-viewer")
    config.experiment_name, config.vis = "of-its-own", "viewer"
    config.viewer.websocket_port = 7461
    config.viewer.quit_on_train_completion = True
    trainer = GuidedTrainer(config)
    trainer.setup()
    trainer.train()
    assert (trainer.checkpoint_dir / "step-000000000.ckpt").is_file()


def test_no_process_is_started_for_a_second_gpu(scene: Path, tmp_path: Path) -> None:
    config = short_config(scene, steps=1, rounds=0)
    config.machine.num_devices = 2
    config.output_dir = tmp_path / "outputs"
    with pytest.raises(UserError, match=r"--machine\.num-devices 2"):  # not ProcessRaisedException
        ns_train(config)
    assert not config.output_dir.exists()


@pytest.mark.slow
def test_unreadable_weights_are_told_of_before_training(scene: Path) -> None:
    (scene / "w.safetensors").write_bytes(b"no weights")
    (scene / "w.json").write_text("{}")
    for name in ("w.safetensors", "gone.safetensors"):
        config = short_config(scene, steps=300, rounds=1)
        fixer = config.pipeline.guidance.fixer
        fixer.name, fixer.weights = "embedded", str(scene / name)
        with pytest.raises(UserError) as told:
            GuidedTrainer(config).setup()
        message = str(told.value)
        assert "--pipeline.guidance.fixer.weights" in message and name.split(".")[0] in message


def test_unreadable_weights_of_the_enhancer_are_told_of_before_training(scene: Path) -> None:
    config = short_config(scene, steps=300)
    config.pipeline.enhancer.name, config.pipeline.enhancer.weights = "embedded", str(scene / "gone.safetensors")
    with pytest.raises(UserError, match=r"\(--pipeline\.enhancer\.name, --pipeline\.enhancer\.weights, .*gone"):
        GuidedTrainer(config).setup()
    config = short_config(scene, steps=300, name="off")
    config.pipeline.enhancer.weights, config.pipeline.enhancer.mode = str(scene / "gone.safetensors"), "off"
    GuidedTrainer(config).setup()


@pytest.mark.slow
def test_unreadable_camera_path(scene: Path) -> None:
    (scene / "path.json").write_text("{no json")
    for name in ("path.json", "gone.json"):
        config = short_config(scene, steps=300, rounds=1)
        targets = config.pipeline.guidance.targets
        targets.kind, targets.camera_path = "camera-path", scene / name
        with pytest.raises(UserError) as told:
            GuidedTrainer(config).setup()
        assert name in str(told.value).replace(" ", "")


def test_camera_path_is_no_larger_than_the_photographs(scene: Path) -> None:
    pose = np.eye(4)
    pose[2, 3] = 1.0
    frames = [{"camera_to_world": (pose * s).flatten().tolist(), "fov": 50, "aspect": 2} for s in (1.0, 1.0)]
    path = {"camera_type": "perspective", "render_width": 1600, "render_height": 800, "camera_path": frames}
    (scene / "path.json").write_text(json.dumps(path))
    config = short_config(scene, steps=300, rounds=1)
    wanted = config.pipeline.guidance.targets
    wanted.kind, wanted.camera_path = "camera-path", scene / "path.json"
    trainer = GuidedTrainer(config)
    trainer.setup()
    targets = trainer.pipeline.guidance.targets
    assert [(t.width, t.height) for t in targets] == [(40, 20)] * 2
    assert torch.allclose(targets[0].intrinsics[0, 2], torch.tensor(20.0, dtype=targets[0].intrinsics.dtype))


@pytest.mark.parametrize(("device", "views"), [("cpu", 1), ("cuda", 4)])
def test_a_gpu_makes_views_in_batches(device: str, views: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = datamanager(write_scene(tmp_path / "scene", count=21))
    photos = len(manager.train_dataset)
    scene_and_model = TrainingScene(manager, ModelOfScene(photos))
    renderer = FlatRenderer()
    renderer.device = torch.device(device)
    guidance = DifixGuidance(DifixConfig(rounds=2, targets=TargetConfig(count=3)))
    monkeypatch.setattr(ViewFixer, "load", lambda fixing: DeepFixer())
    references = ReferenceViews(scene_and_model, renderer)
    guidance.setup(scene_and_model, renderer, references, Run(1000, device, images=photos, folder=tmp_path))
    assert guidance.schedule.views_per_step == guidance.queue.per_step == views
    rendered = []
    while not guidance._fixing.prepare(guidance.targets, guidance.queue.per_step):
        rendered.append(len(renderer.rendered))
    assert rendered[:2] == [8, min(16, photos)] and rendered[-1] == photos  # photographs in a step, on any device


@pytest.mark.slow
def test_targets_are_sought_once(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[int] = []
    find = DifixGuidance._find_targets

    def count(guidance: DifixGuidance) -> list[Pinhole]:
        sought.append(guidance._renderer.step)
        return find(guidance)

    monkeypatch.setattr(DifixGuidance, "_find_targets", count)
    config = short_config(scene, steps=100, rounds=1)
    config.pipeline.guidance.targets.count = 3
    trainer = train(config)
    assert len(trainer.pipeline.guidance.pool) == 3
    assert sought == [0]


@pytest.mark.slow
def test_evaluation_poses_as_targets_are_undistorted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(tmp_path / "scene", size=(120, 90), k1=-0.35, k2=0.12)
    config = short_config(scene, steps=300, rounds=1)
    config.pipeline.guidance.targets.kind = "eval"
    trainer = GuidedTrainer(config)
    trainer.setup()
    assert "Targets are the evaluation poses" in console_output(capsys)
    (target,) = trainer.pipeline.guidance.targets
    image = trainer.pipeline.datamanager.cached_eval[0]["image"]
    assert (target.height, target.width) == tuple(image.shape[:2])
    photograph = trainer.pipeline.scene.cameras()[0]
    assert torch.allclose(target.intrinsics, photograph.intrinsics, atol=1e-3)
    assert abs(float(target.intrinsics[0, 0]) - 0.9 * 120) > 1


def test_no_evaluation_poses(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", change=lambda meta: meta.update(val_filenames=[]))
    config = short_config(scene, steps=300, rounds=1)
    config.pipeline.guidance.targets.kind = "eval"
    with pytest.raises(UserError) as told:
        GuidedTrainer(config).setup()
    assert "--pipeline.guidance.targets.kind eval" in str(told.value)


def test_bad_scene(scene: Path) -> None:
    (scene / "transforms.json").unlink()
    with pytest.raises(UserError) as told:
        GuidedTrainer(short_config(scene)).setup()
    assert "without camera poses; run `difix3d pose " in str(told.value)


@pytest.mark.parametrize("where", ["file", "file/deeper"])
def test_output_folder_that_cannot_be_written(scene: Path, where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    config = short_config(scene)
    config.output_dir = tmp_path / where
    with pytest.raises(UserError) as told:
        config.save_config()
    assert "cannot write to --output-dir" in str(told.value)


def test_one_training_image(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=2)
    with pytest.raises(UserError) as told:
        GuidedTrainer(short_config(scene, steps=300, rounds=1)).setup()
    message = str(told.value)
    assert "at least two training images" in message and "--pipeline.guidance.rounds 0" in message
    assert len(train(short_config(scene)).pipeline.datamanager.train_dataset) == 1


def test_training_cameras_at_one_place(tmp_path: Path) -> None:
    from tests.unit.tiny_scene import look_at

    poses = [look_at((2, 0, 0.5))] * 4 + [look_at((0, 2, 0.5)), look_at((2, 0, 0.5))]  # the held-out one elsewhere
    scene = write_scene(tmp_path / "scene", poses=poses)
    with pytest.raises(UserError) as told:
        GuidedTrainer(short_config(scene, steps=300, rounds=1)).setup()
    message = str(told.value)
    assert "no poses for pseudo-views" in message and "--pipeline.guidance.rounds 0" in message


def test_a_picture_that_goes_bad_during_training_is_told_of(scene: Path) -> None:
    trainer = GuidedTrainer(short_config(scene))
    trainer.setup()
    path = scene / "images/frame_001.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError) as told:
        trainer.train()
    assert "frame_001.png cannot be read" in str(told.value).replace("frame_001.p ng", "frame_001.png")


@pytest.mark.parametrize("kind", ["RGBA", "masks", "no points", "no held-out images", "distorted", "mixed"])
def test_odd_scenes_train(kind: str, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "RGBA": {"mode": "RGBA"},
        "masks": {"masks": True},
        "no points": {"points": False},
        "no held-out images": {"change": lambda meta: meta.update(val_filenames=[])},
        "distorted": {"k1": -0.3, "k2": 0.1, "masks": True},
        "mixed": {"sizes": [(40, 30), (30, 40), (36, 36), (40, 30), (30, 40), (40, 30)]},
    }
    config = short_config(write_scene(tmp_path / "scene", **settings[kind]), steps=6)
    config.pipeline.model.num_random = 500
    trainer = train(config)
    assert all(torch.isfinite(p).all() for p in trainer.pipeline.model.gauss_params.values())
    assert checkpoints.checkpoint_steps(trainer.checkpoint_dir)[0] == 5


def test_full_disk_does_not_end_training(
    scene: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = short_config(scene, steps=6)
    config.steps_per_save = 2
    save, failing = checkpoints.save, [True]

    def full(state: dict[str, Any], folder: Path, step: int) -> Path:
        if step == 4 and failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(state, folder, step)

    monkeypatch.setattr(checkpoints, "save", full)
    trainer = train(config)
    assert checkpoints.checkpoint_steps(trainer.checkpoint_dir) == [5, 2]
    printed = console_output(capsys)
    assert "step 4 could not be saved" in printed and "No space left" in printed and "Free some space" in printed


def test_full_disk_at_the_end_is_a_failure_that_keeps_the_rest(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = short_config(scene, steps=6)
    config.steps_per_save = 2
    save = checkpoints.save

    def full(state: dict[str, Any], folder: Path, step: int) -> Path:
        if step == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(state, folder, step)

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(SystemExit) as ended:
        train(config)
    assert ended.value.code == 1
    folder = config.get_checkpoint_dir()
    assert checkpoints.checkpoint_steps(folder) == [4, 2]
    assert "step 5 could not be saved" in console_output(capsys)


def test_curves_that_cannot_be_written_do_not_end_training(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: TensorBoard's thread dies, and every later call of it raises."""
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nerfstudio.utils.writer.EVENT_WRITERS", [])
    trainer = GuidedTrainer(short_config(scene, steps=30))
    trainer.setup()
    monkeypatch.setattr(LocalFileSystem, "append", full)
    trainer.train()
    assert checkpoints.checkpoint_steps(trainer.checkpoint_dir)[0] == 29
    captured = capsys.readouterr()
    message = " ".join(captured.out.split())
    assert message.count("The training curves end here, training goes on") == 1
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_else_cannot_be_written_is_told(scene: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = GuidedTrainer(short_config(scene))
    trainer.setup()

    def fail(*_: Any) -> None:
        raise OSError(number, "no", "transforms.json")

    monkeypatch.setattr(trainer.pipeline.datamanager.train_dataparser_outputs, "save_dataparser_transform", fail)
    with pytest.raises(UserError, match=r"cannot write to --output-dir .*make room or choose another"):
        trainer.train()
