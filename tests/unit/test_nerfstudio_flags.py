"""nerfstudio's own flags with our methods: training runs with them to its end."""

from __future__ import annotations

import functools
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine import trainer as nerfstudio_trainer

from difix3d_ns.ns.trainer import GuidedTrainer, GuidedTrainerConfig
from tests.unit.short_training import console_output, short_config
from tests.unit.tiny_scene import write_scene


def _without_lists(meta: dict[str, Any]) -> None:
    """Lists of the scene would win over the dataparser's flags."""
    for name in ("train_filenames", "val_filenames", "test_filenames"):
        meta.pop(name, None)


def _train(config: GuidedTrainerConfig) -> GuidedTrainer:
    config.save_config()
    trainer = GuidedTrainer(config)
    trainer.setup()
    trainer.train()
    assert (trainer.checkpoint_dir / "step-000000003.ckpt").is_file()
    return trainer


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("vis", "wandb"),
        ("mixed_precision", True),
        ("pipeline.model.camera_optimizer.mode", "SO3xR3"),
        ("pipeline.model.use_bilateral_grid", True),
        ("pipeline.datamanager.cache_images", "cpu"),
        ("pipeline.datamanager.cache_images_type", "float32"),
        ("pipeline.model.background_color", "white"),
        ("pipeline.model.background_color", "black"),
        ("pipeline.model.background_color", "random"),
    ],
)
def test_flags_of_training(flag: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = short_config(write_scene(tmp_path / "scene"))
    *parts, name = flag.split(".")
    owner = functools.reduce(getattr, parts, config)
    assert getattr(owner, name) != value or value == "random"  # the default
    setattr(owner, name, value)
    trainer = _train(config)
    trainer.pipeline.eval()
    camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
    assert trainer.pipeline.model.get_outputs_for_camera(camera)["rgb"].isfinite().all()
    if value == "wandb":
        assert list(trainer.base_dir.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("settings", "train_photos"),
    [
        ({"eval_mode": "all"}, 6),
        ({"eval_mode": "interval", "eval_interval": 3}, 4),
        ({"eval_mode": "fraction", "train_split_fraction": 0.5}, 3),
        ({"downscale_factor": 2}, 6),
        ({"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}, 6),
    ],
)
def test_settings_of_nerfstudios_dataparser(settings: dict[str, object], train_photos: int, tmp_path: Path) -> None:
    config = short_config(write_scene(tmp_path / "scene", change=_without_lists))
    parser = NerfstudioDataParserConfig(data=config.data, **settings)  # type: ignore[arg-type]
    config.pipeline.datamanager.dataparser = parser
    trainer = _train(config)
    dataset = trainer.pipeline.datamanager.train_dataset
    assert len(dataset) == train_photos
    width = int(dataset.cameras.width[0])
    assert width == (20 if "downscale_factor" in settings else 40)


def test_photos_are_split_by_the_names_of_their_files(tmp_path: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        _without_lists(meta)
        for index, frame in enumerate(meta["frames"]):
            name = f"images/{'eval' if index in (1, 4) else 'train'}_{index:03d}.png"
            (tmp_path / "scene" / frame["file_path"]).rename(tmp_path / "scene" / name)
            frame["file_path"] = name

    config = short_config(write_scene(tmp_path / "scene", change=change))
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(data=config.data, eval_mode="filename")
    manager = _train(config).pipeline.datamanager
    assert [path.stem for path in manager.eval_dataset.image_filenames] == ["eval_001", "eval_004"]
    assert {path.stem for path in manager.train_dataset.image_filenames} == {f"train_{i:03d}" for i in (0, 2, 3, 5)}


class _Waiting(Exception):
    """The viewer waits for Ctrl-C."""


@pytest.mark.parametrize("quits", [True, False])
def test_the_viewer_ends_with_the_training_if_it_is_to(
    quits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sleep(seconds: float) -> None:
        raise _Waiting

    monkeypatch.setattr(nerfstudio_trainer, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))
    config = short_config(write_scene(tmp_path / "scene"))
    config.vis = "viewer"
    assert not config.viewer.quit_on_train_completion
    config.viewer.quit_on_train_completion = quits
    trainer = GuidedTrainer(config)
    trainer.setup()
    try:
        if quits:
            trainer.train()
        else:
            with pytest.raises(_Waiting):
                trainer.train()
    finally:
        trainer.viewer_state.viser_server.stop()
    assert (trainer.checkpoint_dir / "step-000000003.ckpt").is_file()
    assert ("the viewer stays open" in console_output(capsys)) is not quits


def test_a_given_port_in_use_is_said_with_the_address_of_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = short_config(write_scene(tmp_path / "scene"))
    config.vis = "viewer"
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = config.viewer.websocket_port = taken.getsockname()[1]
        trainer = GuidedTrainer(config)
        trainer.setup()
    viewer = trainer.viewer_state
    found = viewer.viser_server.get_port()
    viewer.viser_server.stop()
    assert port < found <= port + 50
    assert f"Port {port} is in use: the viewer takes {found} (--viewer.websocket-port)" in console_output(capsys)
    assert viewer.viewer_info == [f"Viewer running locally at: http://localhost:{found} (listening on 0.0.0.0)"]
    assert trainer.config.viewer.websocket_port == port  # as it was given
