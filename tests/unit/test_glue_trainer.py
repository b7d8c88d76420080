"""The trainer: mistakes end with one line, a full disk does not end training, and resuming goes on."""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difix3d_ns import checkpoints
from difix3d_ns.curation.procedural import demo_scene
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.methods import difix3d_splatfacto
from difix3d_ns.model import Difix3DModel
from difix3d_ns.pipeline import Difix3DPipeline
from difix3d_ns.trainer import STATE_KEY, Difix3DTrainer, Difix3DTrainerConfig
from tests.unit.tiny_scene import write_scene

Change = Callable[[Difix3DTrainerConfig], None]


def _config(scene: Path, steps: int = 4, rounds: int = 0, name: str = "run") -> Difix3DTrainerConfig:
    config = copy.deepcopy(difix3d_splatfacto.config)
    assert isinstance(config, Difix3DTrainerConfig)
    config.machine.device_type = "cpu"
    config.data = scene
    config.pipeline.datamanager.data = scene
    config.output_dir = scene.parent / "outputs"
    config.experiment_name = "tiny"
    config.timestamp = name
    config.vis = "tensorboard"
    config.max_num_iterations = steps
    config.pipeline.rounds = rounds
    config.pipeline.fixer.name = "none"
    return config


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def _run(config: Difix3DTrainerConfig) -> Difix3DTrainer:
    config.save_config()
    trainer = Difix3DTrainer(config)
    trainer.setup()
    trainer.train()
    return trainer


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


def _foreign_checkpoint(folder: Path, step: int) -> Path:
    """What plain nerfstudio writes, as far as is read before set-up."""
    folder.mkdir()
    path = folder / f"step-{step:09d}.ckpt"
    torch.save({"step": step, "pipeline": {}, "optimizers": {}, "schedulers": {}, "scalers": {}}, path)
    return path


def _set(path: str, value: Any) -> Change:
    def change(config: Difix3DTrainerConfig) -> None:
        *owners, name = path.split(".")
        owner: Any = config
        for part in owners:
            owner = getattr(owner, part)
        assert hasattr(owner, name)
        setattr(owner, name, value)

    return change


MISTAKES: dict[str, tuple[Change, list[str]]] = {
    "CUDA without CUDA": (_set("machine.device_type", "cuda"), ["--machine.device-type cuda", "leave the flag out"]),
    "no steps": (_set("max_num_iterations", 0), ["--max-num-iterations 0"]),
    "no such checkpoint": (_set("load_checkpoint", Path("/nowhere.ckpt")), ["/nowhere.ckpt does not exist"]),
    "no such folder of checkpoints": (_set("load_dir", Path("/nowhere")), ["--load-dir /nowhere", "nerfstudio_models"]),
    "no such fixer": (_set("pipeline.fixer.name", "magic"), ["'magic'", "--pipeline.fixer.name"]),
    "no camera path": (_set("pipeline.targets.kind", "camera-path"), ["--pipeline.targets.camera-path FILE"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_one_line(
    name: str, scene: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change, words = MISTAKES[name]
    config = _config(scene, steps=300, rounds=1)
    change(config)
    with pytest.raises(UserError) as told:
        Difix3DTrainer(config).setup()
    for word in words:
        assert word in str(told.value)


def test_unreadable_weights_are_told_of_before_training(scene: Path) -> None:
    (scene / "w.safetensors").write_bytes(b"no weights")
    (scene / "w.json").write_text("{}")
    for name in ("w.safetensors", "gone.safetensors"):
        config = _config(scene, steps=300, rounds=1)
        config.pipeline.fixer.name, config.pipeline.fixer.weights = "embedded", str(scene / name)
        with pytest.raises(UserError) as told:
            Difix3DTrainer(config).setup()
        said = str(told.value)
        assert "--pipeline.fixer.weights" in said and name.split(".")[0] in said


def test_unreadable_camera_path(scene: Path) -> None:
    (scene / "path.json").write_text("{no json")
    for name in ("path.json", "gone.json"):
        config = _config(scene, steps=300, rounds=1)
        config.pipeline.targets.kind, config.pipeline.targets.camera_path = "camera-path", scene / name
        with pytest.raises(UserError) as told:
            Difix3DTrainer(config).setup()
        assert name in str(told.value).replace(" ", "")


def test_camera_path_is_no_larger_than_the_photographs(scene: Path) -> None:
    pose = np.eye(4)
    pose[2, 3] = 1.0
    frames = [{"camera_to_world": (pose * s).flatten().tolist(), "fov": 50, "aspect": 2} for s in (1.0, 1.0)]
    path = {"camera_type": "perspective", "render_width": 1600, "render_height": 800, "camera_path": frames}
    (scene / "path.json").write_text(json.dumps(path))
    config = _config(scene, steps=300, rounds=1)
    config.pipeline.targets.kind, config.pipeline.targets.camera_path = "camera-path", scene / "path.json"
    trainer = Difix3DTrainer(config)
    trainer.setup()
    targets = trainer.pipeline._find_targets()
    assert [(t.width, t.height) for t in targets] == [(40, 20)] * 2
    assert torch.allclose(targets[0].intrinsics[0, 2], torch.tensor(20.0, dtype=targets[0].intrinsics.dtype))


@pytest.mark.parametrize(("device", "views"), [("cpu", 1), ("cuda", 4)])
def test_a_gpu_makes_views_in_batches(
    device: str, views: int, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Difix3DTrainer(_config(scene, steps=1000))
    trainer.setup()
    pipeline = trainer.pipeline
    pipeline.config.rounds, pipeline.config.targets.count = 2, 3
    with monkeypatch.context() as patch:
        patch.setattr(Difix3DModel, "device", property(lambda self: torch.device(device)))
        pipeline.plan_rounds(0, 1000, tmp_path)
    assert pipeline.rounds.schedule.views_per_step == views


def test_targets_are_sought_once(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[int] = []
    find = Difix3DPipeline._find_targets

    def count(pipeline: Difix3DPipeline) -> list[Pinhole]:
        sought.append(pipeline.model.step)
        return find(pipeline)

    monkeypatch.setattr(Difix3DPipeline, "_find_targets", count)
    config = _config(scene, steps=100, rounds=1)
    config.pipeline.targets.count = 3
    trainer = _run(config)
    assert len(trainer.pipeline.rounds.pool) == 3
    assert sought == [0]


def test_evaluation_poses_as_targets_are_undistorted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(tmp_path / "scene", size=(120, 90), k1=-0.35, k2=0.12)
    config = _config(scene, steps=300, rounds=1)
    config.pipeline.targets.kind = "eval"
    trainer = Difix3DTrainer(config)
    trainer.setup()
    assert "Targets are the evaluation poses" in _said(capsys)
    (target,) = trainer.pipeline._find_targets()
    image = trainer.pipeline.datamanager.cached_eval[0]["image"]
    assert (target.height, target.width) == tuple(image.shape[:2])
    photograph = trainer.pipeline._photographs.cameras()[0]
    assert torch.allclose(target.intrinsics, photograph.intrinsics, atol=1e-3)
    assert abs(float(target.intrinsics[0, 0]) - 0.9 * 120) > 1


def test_no_evaluation_poses(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", change=lambda meta: meta.update(val_filenames=[]))
    config = _config(scene, steps=300, rounds=1)
    config.pipeline.targets.kind = "eval"
    with pytest.raises(UserError) as told:
        Difix3DTrainer(config).setup()
    assert "--pipeline.targets.kind eval" in str(told.value)


def test_bad_scene(scene: Path) -> None:
    (scene / "transforms.json").unlink()
    with pytest.raises(UserError) as told:
        Difix3DTrainer(_config(scene)).setup()
    assert "transforms.json is missing" in str(told.value)


@pytest.mark.parametrize("where", ["file", "file/deeper"])
def test_output_folder_that_cannot_be_written(scene: Path, where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    config = _config(scene)
    config.output_dir = tmp_path / where
    with pytest.raises(UserError) as told:
        config.save_config()
    assert "cannot write to --output-dir" in str(told.value)


def test_one_training_image(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", count=2)
    with pytest.raises(UserError) as told:
        Difix3DTrainer(_config(scene, steps=300, rounds=1)).setup()
    said = str(told.value)
    assert "at least two training images" in said and "--pipeline.rounds 0" in said
    assert len(_run(_config(scene)).pipeline.datamanager.train_dataset) == 1


def test_training_cameras_at_one_place(tmp_path: Path) -> None:
    from tests.unit.tiny_scene import look_at

    poses = [look_at((2, 0, 0.5))] * 4 + [look_at((0, 2, 0.5)), look_at((2, 0, 0.5))]  # the held-out one elsewhere
    scene = write_scene(tmp_path / "scene", poses=poses)
    with pytest.raises(UserError) as told:
        Difix3DTrainer(_config(scene, steps=300, rounds=1)).setup()
    said = str(told.value)
    assert "no poses for pseudo-views" in said and "--pipeline.rounds 0" in said


def test_a_picture_that_goes_bad_during_training_is_told_of(scene: Path) -> None:
    trainer = Difix3DTrainer(_config(scene))
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
    config = _config(write_scene(tmp_path / "scene", **settings[kind]), steps=6)
    config.pipeline.model.num_random = 500
    trainer = _run(config)
    assert all(torch.isfinite(p).all() for p in trainer.pipeline.model.gauss_params.values())
    assert checkpoints.checkpoint_steps(trainer.checkpoint_dir)[0] == 5


def test_full_disk_does_not_end_training(
    scene: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(scene, steps=6)
    config.steps_per_save = 2
    save, failing = checkpoints.save, [True]

    def full(state: dict[str, Any], folder: Path, step: int) -> Path:
        if step == 4 and failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(state, folder, step)

    monkeypatch.setattr(checkpoints, "save", full)
    trainer = _run(config)
    assert checkpoints.checkpoint_steps(trainer.checkpoint_dir) == [5, 2]
    said = _said(capsys)
    assert "step 4 could not be saved" in said and "No space left" in said and "Free some space" in said


def test_full_disk_at_the_end_is_a_failure_that_keeps_the_rest(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(scene, steps=6)
    config.steps_per_save = 2
    save = checkpoints.save

    def full(state: dict[str, Any], folder: Path, step: int) -> Path:
        if step == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(state, folder, step)

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(SystemExit) as ended:
        _run(config)
    assert ended.value.code == 1
    folder = config.get_checkpoint_dir()
    assert checkpoints.checkpoint_steps(folder) == [4, 2]
    assert "step 5 could not be saved" in _said(capsys)


def test_curves_that_cannot_be_written_do_not_end_training(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: TensorBoard's thread dies, and every later call of it raises."""
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nerfstudio.utils.writer.EVENT_WRITERS", [])
    trainer = Difix3DTrainer(_config(scene, steps=30))
    trainer.setup()
    monkeypatch.setattr(LocalFileSystem, "append", full)
    trainer.train()
    assert checkpoints.checkpoint_steps(trainer.checkpoint_dir)[0] == 29
    captured = capsys.readouterr()
    said = " ".join(captured.out.split())
    assert said.count("The training curves end here, training goes on") == 1
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_else_cannot_be_written_is_told(scene: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Difix3DTrainer(_config(scene))
    trainer.setup()

    def fail(*_: Any) -> None:
        raise OSError(number, "no", "transforms.json")

    monkeypatch.setattr(trainer.pipeline.datamanager.train_dataparser_outputs, "save_dataparser_transform", fail)
    with pytest.raises(UserError, match=r"cannot write to --output-dir .*make room or choose another"):
        trainer.train()


@pytest.mark.parametrize(("densification", "rounds"), [("default", 0), ("mcmc", 0), ("default", 2)])
def test_resumed_training_equals_an_uninterrupted_one(scene: Path, densification: str, rounds: int) -> None:
    steps = 100 if rounds else 40

    def config(name: str) -> Difix3DTrainerConfig:
        made = _config(scene, steps=steps, rounds=rounds, name=name)
        made.steps_per_save = steps // 2
        made.pipeline.targets.count = 3
        made.pipeline.model.densification = densification  # type: ignore[assignment]
        made.pipeline.model.max_gaussians = 200
        return made

    def seeded(made: Difix3DTrainerConfig) -> Difix3DTrainer:
        torch.manual_seed(0)
        np.random.seed(0)
        return _run(made)

    whole = seeded(config("whole"))
    halves = config("halves")
    halves.load_checkpoint = whole.checkpoint_dir / f"step-{steps // 2:09d}.ckpt"
    assert halves.load_checkpoint.exists()
    torch.manual_seed(99)
    resumed = _run(halves)
    assert resumed._start_step == steps // 2 + 1
    assert (whole.pipeline.rounds is not None) == bool(rounds)
    if rounds:
        assert len(whole.pipeline.rounds.pool) == len(resumed.pipeline.rounds.pool) > 0
    for name, parameter in whole.pipeline.model.gauss_params.items():
        other = resumed.pipeline.model.gauss_params[name]
        assert parameter.shape == other.shape, name
        assert torch.allclose(parameter, other, atol=1e-5), name


def test_nothing_left_to_do(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = _run(_config(scene))
    again = _config(scene, name="again")
    again.load_dir = done.checkpoint_dir
    _run(again)
    assert "Already trained for 4 steps" in _said(capsys)


def test_foreign_checkpoint_is_trained_on_for_as_many_steps(scene: Path, tmp_path: Path) -> None:
    config = _config(scene, steps=300)
    config.load_checkpoint = _foreign_checkpoint(tmp_path / "foreign", 29_999)
    trainer = Difix3DTrainer(config)
    assert (trainer._offset, trainer._last_step) == (30_000, 30_300)
    assert config.pipeline.model.warmup_length is not None and config.pipeline.model.warmup_length > 30_000
    assert config.optimizers["means"]["scheduler"].max_steps == 300  # schedulers begin anew


def test_a_finished_training_goes_on_with_rates_that_move_things(scene: Path) -> None:
    finished = _config(scene, steps=10, name="finished")
    finished.optimizers["scales"]["optimizer"].lr = 1e-7
    done = _run(finished)
    path = done.checkpoint_dir / "step-000000009.ckpt"
    state = checkpoints.load(path)
    del state[STATE_KEY]
    state["optimizers"]["means"]["param_groups"][0]["lr"] = 1.6e-6
    state["schedulers"]["means"]["last_epoch"] = 30_000
    torch.save(state, path)
    config = _config(scene, steps=12, name="on")
    config.load_checkpoint = path
    config.pipeline.model.warmup_length = 1000  # no densification: the same Gaussians are compared
    trainer = Difix3DTrainer(config)
    trainer.setup()
    rates = {name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.optimizers.items()}
    assert rates["means"] == pytest.approx(config.optimizers["means"]["optimizer"].lr)
    assert rates["scales"] == 0.005
    moments = trainer.optimizers.optimizers["means"].state[trainer.pipeline.model.gauss_params["means"]]
    assert torch.equal(moments["exp_avg"], state["optimizers"]["means"]["state"][0]["exp_avg"])
    before = trainer.pipeline.model.gauss_params["means"].detach().clone()
    trainer.train()
    moved = (trainer.pipeline.model.gauss_params["means"].detach() - before).abs().max()
    assert moved > 2 * rates["means"]
    group = trainer.optimizers.optimizers["means"].param_groups[0]
    assert group["lr"] == pytest.approx(config.optimizers["means"]["scheduler"].lr_final)


def test_resuming_what_began_from_a_foreign_checkpoint(scene: Path) -> None:
    plain = _run(_config(scene, steps=10, name="plain"))
    path = plain.checkpoint_dir / "step-000000009.ckpt"
    state = checkpoints.load(path)
    del state[STATE_KEY]
    torch.save(state, path)  # as splatfacto would have written it
    first = _config(scene, steps=12, name="first")
    first.load_checkpoint, first.steps_per_save = path, 5
    trained = _run(first)
    assert checkpoints.checkpoint_steps(trained.checkpoint_dir) == [21, 20]
    (trained.checkpoint_dir / "step-000000021.ckpt").write_bytes(b"damaged")
    resumed = _config(scene, steps=12, name="resumed")
    resumed.load_dir = trained.checkpoint_dir
    again = Difix3DTrainer(resumed)
    assert (again._offset, again._last_step) == (10, 22)
    again.setup()
    assert again._start_step == 21
    assert resumed.pipeline.model.warmup_length == first.pipeline.model.warmup_length


def test_foreign_checkpoint_of_another_shape_is_told_of(scene: Path, tmp_path: Path) -> None:
    config = _config(scene)
    config.load_checkpoint = _foreign_checkpoint(tmp_path / "foreign", 10)
    with pytest.raises(UserError) as told:
        Difix3DTrainer(config).setup()
    assert "does not fit this method" in str(told.value)


@pytest.mark.parametrize("densification", ["default", "mcmc"])
@pytest.mark.parametrize("clearance", [0.5, 0.0])
def test_what_floats_in_front_of_a_camera_is_removed(scene: Path, densification: str, clearance: float) -> None:
    config = _config(scene, steps=6, rounds=1)
    config.pipeline.clearance = clearance
    config.pipeline.stereo_points = 0
    config.pipeline.model.refine_every = 2
    config.pipeline.model.warmup_length = 100  # nothing else removes Gaussians
    config.pipeline.model.densification = densification  # type: ignore[assignment]
    config.pipeline.model.max_gaussians = 200
    config.save_config()
    trainer = Difix3DTrainer(config)
    trainer.setup()
    model = trainer.pipeline.model
    before = len(model.means)
    camera = trainer.pipeline._photographs.cameras()[0]
    with torch.no_grad():
        model.means[:3] = camera.position + 0.1 * camera.forward
        model.means[3] = camera.position - 0.1 * camera.forward  # behind it, and seen by others: no business of this
    trainer.train()
    gone = before - len(model.means)
    assert gone >= 3 if clearance else gone == 0
    for name, parameter in model.gauss_params.items():
        moments = trainer.optimizers.optimizers[name].state[parameter]
        assert moments["exp_avg"].shape == parameter.shape, name


@pytest.mark.parametrize("rounds", [0, 1])
def test_what_is_nearer_than_photographs_look_is_not_drawn(scene: Path, rounds: int) -> None:
    from difix3d_ns.geometry.clearance import nearest_depths
    from difix3d_ns.photographs import to_cameras

    config = _config(scene, rounds=rounds)
    config.pipeline.stereo_points = 0
    trainer = Difix3DTrainer(config)
    trainer.setup()
    model, photographs = trainer.pipeline.model.eval(), trainer.pipeline._photographs
    camera = photographs.given_cameras()[0]
    points = trainer.pipeline.datamanager.train_dataparser_outputs.metadata["points3D_xyz"]
    nearest = min(depth for depth in nearest_depths(points, photographs.given_cameras()) if depth > 0)
    assert model.near_plane == pytest.approx(0.5 * nearest if rounds else 0.01)

    def looks(depth: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Opacity, and median depth, with one large opaque Gaussian there and nothing else."""
        with torch.no_grad():
            model.gauss_params["opacities"][:] = -20.0
            model.gauss_params["opacities"][0] = 20.0
            model.means[0] = camera.position + depth * camera.forward
            model.gauss_params["scales"][0] = torch.tensor(depth).log()
            drawn = model.get_outputs(to_cameras(camera, model.device))["accumulation"]
            size = camera.width, camera.height
            return drawn, model.median_depth(camera.camera_to_world, camera.intrinsics, *size)[0]

    for seen in looks(0.6 * nearest):
        assert float(seen.max()) > 0.1
    for seen in looks(0.4 * nearest):
        assert (float(seen.max()) < 0.01) == (rounds > 0)


def test_stereo_points_are_added_to_a_new_training_alone(tmp_path: Path) -> None:
    scene = demo_scene(tmp_path / "scene", seed=3, width=128, height=96, train_views=4, test_views=1)
    config = _config(scene, steps=4, rounds=1)
    config.pipeline.stereo_points = 300
    new = _run(config)
    given = len(new.pipeline.datamanager.train_dataparser_outputs.metadata["points3D_xyz"])
    assert len(new.pipeline.model.means) == given + 300
    resumed = _config(scene, steps=6, rounds=1, name="resumed")
    resumed.pipeline.stereo_points = 300
    resumed.load_dir = new.checkpoint_dir
    assert len(_run(resumed).pipeline.model.means) == given + 300
    plain = _config(scene, steps=2, rounds=0, name="plain")
    assert len(_run(plain).pipeline.model.means) == given
    assert plain.pipeline.stereo_points == 0


def test_adam_is_fused_where_that_is_safe() -> None:
    from difix3d_ns.trainer import FusedAdamConfig

    assert FusedAdamConfig().setup([torch.nn.Parameter(torch.zeros(4, 3))]).param_groups[0]["fused"]
    steps = []
    for build in (FusedAdamConfig(lr=0.1).setup, lambda params: torch.optim.Adam(params, lr=0.1, eps=1e-8)):
        parameter = torch.nn.Parameter(torch.zeros(4, 5, 3)[:, 1:])  # as splatfacto cuts its harmonics
        optimizer = build([parameter])
        parameter.grad = torch.arange(48.0).reshape(4, 4, 3) - 20
        optimizer.step()
        steps.append(parameter.detach())
    torch.testing.assert_close(*steps)


def test_a_resumed_training_steps_as_this_machine_does(scene: Path) -> None:
    """A checkpoint keeps how Adam was run where it was made."""
    _run(_config(scene, 4))
    path = next(scene.parent.rglob("*.ckpt"))
    state = torch.load(path, weights_only=False)
    for optimizer in state["optimizers"].values():
        optimizer["param_groups"][0]["fused"] = None
    torch.save(state, path)
    config = _config(scene, 6, name="again")
    config.load_dir = path.parent
    trainer = _run(config)
    assert all(o.param_groups[0]["fused"] for o in trainer.optimizers.optimizers.values())
