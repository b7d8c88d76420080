"""Trainings of a few steps in the tests' own process."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from difix3d_ns.guidance.difix import DifixConfig
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.ns.trainer import GuidedTrainer, GuidedTrainerConfig


def short_config(scene: Path, steps: int = 4, rounds: int = 0, name: str = "run") -> GuidedTrainerConfig:
    """The method's own settings on the CPU, for a few steps, with renders as pseudo-views."""
    config = copy.deepcopy(difix3d_splatfacto.config)
    assert isinstance(config, GuidedTrainerConfig)
    config.machine.device_type = "cpu"
    config.data = scene
    config.pipeline.datamanager.data = scene
    config.output_dir = scene.parent / "outputs"
    config.experiment_name = "tiny"
    config.timestamp = name
    config.vis = "tensorboard"
    config.max_num_iterations = steps
    guidance = config.pipeline.guidance
    assert isinstance(guidance, DifixConfig)
    guidance.rounds, guidance.fixer.name = rounds, "none"
    config.pipeline.sparse_helps = rounds > 0  # stereo takes longer than these trainings
    return config


def train(config: GuidedTrainerConfig) -> GuidedTrainer:
    """A training from its start to its end."""
    config.save_config()
    trainer = GuidedTrainer(config)
    trainer.setup()
    trainer.train()
    return trainer


def console_output(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed since the last call, on one line."""
    return " ".join(capsys.readouterr().out.split())


def foreign_checkpoint(folder: Path, step: int) -> Path:
    """What plain nerfstudio writes, as far as is read before set-up."""
    folder.mkdir()
    path = folder / f"step-{step:09d}.ckpt"
    torch.save({"step": step, "pipeline": {}, "optimizers": {}, "schedulers": {}, "scalers": {}}, path)
    return path
