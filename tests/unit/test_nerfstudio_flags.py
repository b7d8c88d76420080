"""nerfstudio's own flags with our methods: training runs with them to its end."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from difix3d_ns.ns.trainer import GuidedTrainer, GuidedTrainerConfig
from tests.unit.short_training import short_config
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
