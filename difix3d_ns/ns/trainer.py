"""nerfstudio's trainer with settings fitted to the run and checkpoints that resume exactly."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError
from difix3d_ns.io import checkpoints
from difix3d_ns.ns.patches.event_writers import survive_a_full_disk
from difix3d_ns.ns.pipeline import GuidedPipeline, GuidedPipelineConfig
from difix3d_ns.ns.presets import settle

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

STATE_KEY = "difix3d"
"""Where a checkpoint keeps what plain nerfstudio does not: random generators, densification, pool, rounds."""


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one pass over each tensor on a CPU too, as torch does by itself with CUDA."""

    def setup(self, params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        kwargs = {key: value for key, value in vars(self).items() if key not in ("_target", "max_norm")}
        fused = all(p.device.type == "cpu" and p.is_contiguous() for p in params)  # others come out wrong, silently
        return self._target(params, fused=fused or None, **kwargs)


@dataclass
class FittedAdamConfig(FusedAdamConfig):
    """Adam with a learning rate fitted to the length of training."""

    lr: float | None = None  # type: ignore[assignment]
    """learning rate (unset: splatfacto's 1.6e-4 for 30,000 steps, more in shorter trainings)"""


@dataclass
class FittedDecayConfig(ExponentialDecaySchedulerConfig):
    """Exponential decay over the whole training."""

    max_steps: int | None = None  # type: ignore[assignment]
    """steps until the final learning rate (unset: --max-num-iterations)"""
    warmup_steps: int | None = 0  # type: ignore[assignment]
    """steps of warm-up (unset: a thirtieth of --max-num-iterations)"""


@dataclass
class GuidedTrainerConfig(TrainerConfig):
    """Trainer settings; those that are unset are fitted to the device and to --max-num-iterations."""

    _target: type = field(default_factory=lambda: GuidedTrainer)
    pipeline: GuidedPipelineConfig = field(default_factory=GuidedPipelineConfig)
    """pipeline settings"""
    max_num_iterations: int | None = None  # type: ignore[assignment]
    """steps in all, resumed ones included (unset: 30000 with CUDA, 2000 without)"""
    steps_per_save: int | None = None  # type: ignore[assignment]
    """steps between checkpoints (unset: a fifth of the training, at most 2000)"""
    steps_per_eval_image: int | None = None  # type: ignore[assignment]
    """steps between evaluations of one image (unset: a fifth of the training, at most 1000)"""
    steps_per_eval_all_images: int | None = None  # type: ignore[assignment]
    """steps between evaluations of all images (unset: the whole training, at most 10000)"""

    def save_config(self) -> None:
        try:
            super().save_config()
        except OSError as error:
            raise UserError(
                f"cannot write to --output-dir {self.output_dir}: {error}; choose a folder you may write to"
            ) from error


class GuidedTrainer(Trainer):
    """Splatfacto's training loop with fitted settings and exact resume."""

    config: GuidedTrainerConfig
    pipeline: GuidedPipeline

    def __init__(self, config: GuidedTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        self._loaded = self._read_checkpoint(config)
        path, state = self._loaded if self._loaded else (None, {})
        foreign = self._loaded is not None and STATE_KEY not in state
        self._offset = state["step"] + 1 if foreign else state.get(STATE_KEY, {}).get("offset", 0)
        self._adopt(config, state.get(STATE_KEY, {}))
        settle(config, start=self._offset)
        if foreign:
            CONSOLE.print(f"{path} comes from another method: training goes on for {config.max_num_iterations} steps.")
        assert config.max_num_iterations is not None
        self._last_step = self._offset + config.max_num_iterations
        super().__init__(config, local_rank, world_size)

    @staticmethod
    def _adopt(config: GuidedTrainerConfig, ours: dict[str, Any]) -> None:
        """Length, rounds and clearance of the training that is resumed, unless given."""
        if config.max_num_iterations is None:
            config.max_num_iterations = ours.get("steps")
        if config.pipeline.rounds is None:
            config.pipeline.rounds = ours.get("rounds")
        if ours and config.pipeline.clearance is None:
            config.pipeline.clearance = ours.get("clearance", 0.0)

    @staticmethod
    def _read_checkpoint(config: GuidedTrainerConfig) -> tuple[Path, dict[str, Any]] | None:
        if config.load_dir is not None:
            if config.load_step is None:
                return checkpoints.load_newest(config.load_dir)
            path = config.load_dir / f"step-{config.load_step:09d}.ckpt"
            return path, checkpoints.load(path)
        if config.load_checkpoint is not None:
            return config.load_checkpoint, checkpoints.load(config.load_checkpoint)
        return None

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        if self.config.pipeline.datamanager.data is None and self.config.data is not None:
            self.config.pipeline.datamanager.data = self.config.data
        with self._writing():
            super().setup(test_mode)
            survive_a_full_disk()
            self.pipeline.plan_rounds(self._offset, self._last_step, self.base_dir)
        if self._loaded is not None and STATE_KEY in self._loaded[1]:
            self._restore(*self._loaded)
        self._loaded = None
        self.config.save_config()  # with everything filled in, so that evaluation rebuilds the same

    def setup_optimizers(self) -> Optimizers:
        if self._loaded is None:
            self.pipeline.add_stereo_points()
        return super().setup_optimizers()

    def _load_checkpoint(self) -> None:
        if self._loaded is None:
            CONSOLE.print("No checkpoint to load: training from scratch.")
            return
        path, state = self._loaded
        self._check_exposures(path, state)
        try:
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            if STATE_KEY not in state:  # its finished schedulers stay behind as well
                self._load_moments(state["optimizers"], with_rates=False)
            else:
                self._load_moments(state["optimizers"], with_rates=True)
                if self.config.load_scheduler:
                    self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{path} does not fit this method and its flags (was it trained with other ones?): {error}"
            ) from error
        self._start_step = state["step"] + 1
        CONSOLE.print(f"Loaded {path}: going on at step {self._start_step}.")

    def _check_exposures(self, path: Path, state: dict[str, Any]) -> None:
        saved, wanted = "exposure" in state.get("optimizers", {}), self.config.pipeline.model.exposure
        if saved and not wanted:
            raise UserError(f"{path} holds exposures of the photographs: give --pipeline.model.exposure True")
        if wanted and not saved:
            CONSOLE.print(f"{path} holds no exposures of the photographs: they start from no change.")

    def _load_moments(self, saved: dict[str, Any], with_rates: bool) -> None:
        """Adam's moments of a checkpoint, run as this machine runs them.

        Without its rates where another method made it: they have decayed to their end, and nothing would move any more.
        """
        ours = {name: [dict(g) for g in o.param_groups] for name, o in self.optimizers.optimizers.items()}
        self.optimizers.load_optimizers(saved)
        for name, groups in ours.items():
            for group, fresh in zip(self.optimizers.optimizers[name].param_groups, groups, strict=True):
                kept = {"fused"} if with_rates else fresh.keys() - {"params"}
                group.update({key: fresh[key] for key in kept})

    def _restore(self, path: Path, state: dict[str, Any]) -> None:
        ours = state[STATE_KEY]
        self.pipeline.restore_training_state(ours["pipeline"], path.parent.parent, state["step"] + 1)
        checkpoints.restore_random_state(ours["random"])

    def train(self) -> None:
        if self._start_step >= self._last_step:
            CONSOLE.print(
                f"Already trained for {self._start_step} steps: nothing to do. "
                f"Give --max-num-iterations more than {self._start_step} to go on."
            )
            return
        total = self.config.max_num_iterations
        self.config.max_num_iterations = self._last_step - self._start_step  # nerfstudio counts from the resumed step
        try:
            with self._writing():
                super().train()
        finally:
            self.config.max_num_iterations = total

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            raise UserError(
                f"cannot write to --output-dir {self.config.output_dir}: {error}; make room or choose another folder "
                "(what was saved is kept: go on with --load-dir)"
            ) from error

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint atomically and keep the one before; a failed write loses nothing and stops nothing."""
        state = {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            STATE_KEY: {
                "steps": self._last_step - self._offset,
                "rounds": self.config.pipeline.rounds,
                "clearance": self.config.pipeline.clearance,
                "offset": self._offset,
                "pipeline": self.pipeline.training_state(step),
                "random": checkpoints.random_state(),
            },
        }
        before = checkpoints.checkpoint_steps(self.checkpoint_dir) if self.checkpoint_dir.exists() else []
        try:
            checkpoints.save(state, self.checkpoint_dir, step)
        except OSError as error:
            CONSOLE.print(
                f"[bold red]The checkpoint of step {step} could not be saved to {self.checkpoint_dir}: {error}. "
                "Free some space or make it writable; earlier checkpoints are kept"
                + (" and training goes on." if self.training_state != "completed" else ": go on with --load-dir."),
                soft_wrap=True,
            )
            if self.training_state == "completed":
                sys.exit(1)
            return
        kept = [step, *(s for s in before if s != step)]
        if self.config.save_only_latest_checkpoint:
            kept = kept[:2]  # two, so that one damaged later does not lose everything
            checkpoints.remove_older(self.checkpoint_dir, kept)
        self.pipeline.forget_before(kept)

    def _update_viewer_state(self, step: int) -> None:
        with suppress(KeyError):  # nerfstudio looks up a browser tab that was closed this very moment
            super()._update_viewer_state(step)

    def _train_complete_viewer(self) -> None:
        self.pipeline.show_progress(self.step, force=True)
        self.pipeline.panel.finish()
        if self.viewer_state is not None:
            CONSOLE.print(
                "Training is finished; the viewer stays open (--viewer.quit-on-train-completion True ends it)."
            )
        super()._train_complete_viewer()
