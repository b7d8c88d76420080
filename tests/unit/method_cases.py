"""All methods, small enough for tests, those of toys among them; trained in the tests' own process."""

from __future__ import annotations

import copy
import functools
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.plugins.types import MethodSpecification

from difix3d_ns.io import checkpoints
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.methods.hi3d import hi3d_splatfacto
from difix3d_ns.methods.sparse import sparse_splatfacto
from difix3d_ns.methods.sparsefusion import sparsefusion_splatfacto
from difix3d_ns.methods.threedsr import threedsr_splatfacto
from difix3d_ns.ns.trainer import STATE_KEY, GuidedTrainer, GuidedTrainerConfig
from tests.toys import joint_splatfacto, weighing_splatfacto
from tests.unit.tiny_residual import write_hi3d
from tests.unit.tiny_views import write_sparsefusion

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "enlarge"
STEPS = 60
PHOTOGRAPHS = 10
State = dict[str, Any]


def example() -> MethodSpecification:
    sys.path.insert(0, str(EXAMPLE))
    try:
        from enlarge import enlarge_splatfacto
    finally:
        sys.path.remove(str(EXAMPLE))
    return enlarge_splatfacto


def _unchanged(config: GuidedTrainerConfig) -> None:
    pass


def _small_rounds(config: GuidedTrainerConfig) -> None:
    guidance = config.pipeline.guidance
    guidance.rounds, guidance.targets.count = 1, 4  # with time for one view in a step
    guidance.fixer.name, guidance.fixer.references = "blend", 2


def _small_upscaling(config: GuidedTrainerConfig) -> None:
    guidance = config.pipeline.guidance
    guidance.upscaler.name, guidance.factor = "tests.unit.tiny_upscaler", 1.5
    guidance.steps_per_round, guidance.photos_first = 15, False


@functools.cache
def _sparsefusion_weights() -> str:
    return str(write_sparsefusion(Path(tempfile.mkdtemp())))


def _small_views(config: GuidedTrainerConfig) -> None:
    guidance = config.pipeline.guidance
    guidance.view_generator.name, guidance.view_generator.weights = "sparsefusion", _sparsefusion_weights()
    guidance.count = 3


@functools.cache
def _hi3d_weights() -> str:
    return str(write_hi3d(Path(tempfile.mkdtemp())))


def _small_orbit(config: GuidedTrainerConfig) -> None:
    guidance = config.pipeline.guidance
    guidance.orbit_refiner.name, guidance.orbit_refiner.weights = "hi3d", _hi3d_weights()
    guidance.fixer.name = "blend"
    guidance.frames, guidance.side, guidance.begin, guidance.probability = 4, 24, 0.4, 0.5


@dataclass(frozen=True)
class Case:
    """A method and what its suite needs to know of it."""

    method: Callable[[], MethodSpecification]
    settings: Callable[[GuidedTrainerConfig], None] = _unchanged
    busy: Callable[[State], bool] | None = None  # whether a state of its guidance is in the middle of work
    renders: int = 0  # most renders of one ``before_step``
    fixes: int = 0
    boundary: int = 1  # most calls of ``before_step`` before one step


CASES = {
    # a step prepares references at 8 photographs, or renders and repairs a view
    "difix3d-splatfacto": Case(
        lambda: difix3d_splatfacto, _small_rounds, lambda s: bool(s["queue"] and s["pool"]), 8, 1
    ),
    "sparse-splatfacto": Case(lambda: sparse_splatfacto),
    "enlarge-splatfacto": Case(example, busy=lambda s: 0 < len(s["pool"]) < PHOTOGRAPHS),
    # for each photograph a start or a render, and a step; then the depth at eight of them, and what follows from it
    "3dsr-splatfacto": Case(
        lambda: threedsr_splatfacto, _small_upscaling, lambda s: s["round"] == 0, 1, boundary=2 * PHOTOGRAPHS + 8 + 9
    ),
    # a step of the generator, or a render to begin with
    "sparsefusion-splatfacto": Case(lambda: sparsefusion_splatfacto, _small_views, lambda s: s["begun"], 1),
    # all four frames before one step; then a step of the refiner, references at eight photographs, or a frame
    "hi3d-splatfacto": Case(lambda: hi3d_splatfacto, _small_orbit, lambda s: s["begun"], 8, 1, boundary=4),
    "weighing-splatfacto": Case(lambda: weighing_splatfacto),
    "joint-splatfacto": Case(lambda: joint_splatfacto, busy=lambda s: 0 < s["part"] < 8, renders=1, boundary=5),
}


def config_of(case: Case, scene: Path, name: str, steps: int = STEPS) -> GuidedTrainerConfig:
    """Settings of a short training on a scene of a few small pictures."""
    config = copy.deepcopy(case.method().config)
    assert isinstance(config, GuidedTrainerConfig)
    config.machine.device_type = "cpu"
    config.data = scene
    config.output_dir = scene.parent / "outputs"
    config.experiment_name = "conformance"
    config.timestamp = name
    config.vis = "tensorboard"
    config.max_num_iterations = steps
    config.save_only_latest_checkpoint = False
    config.steps_per_save = 5
    config.steps_per_eval_image, config.steps_per_eval_all_images = 20, steps - 1
    config.pipeline.datamanager.pose_frame = "train"
    config.pipeline.initial_points.stereo = 0
    config.pipeline.model.max_gs_num = 200
    config.pipeline.model.resolution_schedule = 3
    case.settings(config)
    return config


def set_up(config: GuidedTrainerConfig) -> GuidedTrainer:
    """A training before its first step, always with the same random numbers."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    config.save_config()
    trainer = GuidedTrainer(config)
    trainer.setup()
    return trainer


def trained(config: GuidedTrainerConfig) -> GuidedTrainer:
    """A training at its end."""
    trainer = set_up(config)
    trainer.train()
    return trainer


def checkpoint(trainer: GuidedTrainer, step: int) -> Path:
    """Path of a checkpoint."""
    return trainer.checkpoint_dir / f"step-{step:09d}.ckpt"


def final_state(trainer: GuidedTrainer) -> State:
    """All that the last checkpoint holds but numbers of files."""
    assert trainer.config.max_num_iterations is not None
    return comparable(checkpoints.load(checkpoint(trainer, trainer.config.max_num_iterations - 1)))


def comparable(state: State) -> State:
    """A checkpoint without numbers of files."""
    ours = state[STATE_KEY]
    guidance = ours["parts"]["guidance"]
    if "pool" in guidance:  # files are numbered again in another folder
        guidance["pool"] = [key for key, _ in guidance["pool"]]
    return {name: state[name] for name in ("step", "pipeline", "optimizers", "schedulers")} | {"ours": ours}


def assert_same(a: object, b: object, where: str = "") -> None:
    """Equal in every bit."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple) and len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where
