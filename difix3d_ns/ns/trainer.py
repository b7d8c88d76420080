"""nerfstudio's trainer with settings fitted to the run and checkpoints that resume exactly."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import yaml
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.errors import UserError
from difix3d_ns.io import checkpoints
from difix3d_ns.io.atomic import replacing, write_text
from difix3d_ns.io.config_fields import fill_unset
from difix3d_ns.io.run import Run, at_most
from difix3d_ns.ns import presets
from difix3d_ns.ns.config_paths import make_absolute
from difix3d_ns.ns.cuda_kernels import load_kernels
from difix3d_ns.ns.curve_services import check_curve_service
from difix3d_ns.ns.disk_space import check_space
from difix3d_ns.ns.interrupts import Interrupts
from difix3d_ns.ns.log_tracker import LogTracker
from difix3d_ns.ns.patches.eval_setup import find_trainings_again
from difix3d_ns.ns.patches.event_writers import survive_a_full_disk
from difix3d_ns.ns.pipeline import GuidedPipeline, GuidedPipelineConfig
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.starting_splat import LOAD_PLY, SplatPlacer, degree_of, is_exported, read_loaded, read_start

find_trainings_again()

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

STATE_KEY = "difix3d_ns"
"""Key of what plain nerfstudio does not keep in a checkpoint, the state of each part under a key of its own."""
FORMER_STATE_KEY = "difix3d"
"""Key used by earlier versions."""
FORMER_FLAG = "--pipeline.floaters.clearance"
"""Flag that versions after those kept in a checkpoint."""

CUDA_ITERATIONS = 30_000
CPU_ITERATIONS = 2_000
_SAVE_IN_BOUNDARIES = 120.0
"""seconds between checkpoints while work before one step goes on"""
MEANS_RATE = 1.6e-4
"""splatfacto's learning rate of the means, for 30,000 steps"""


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one pass over each tensor, which torch does by itself nowhere: on CUDA it makes a dozen."""

    def setup(self, params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        kwargs = {key: value for key, value in vars(self).items() if key not in ("_target", "max_norm")}
        fused = all(p.device.type in ("cpu", "cuda") for p in params)
        fused = fused and all(p.is_contiguous() for p in params)  # others come out wrong, silently
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

    kept: ClassVar[tuple[str, ...]] = ("max_num_iterations",)
    announced: ClassVar[dict[str, str]] = {"max_num_iterations": "{} steps"}
    _target: type = field(default_factory=lambda: GuidedTrainer)
    pipeline: GuidedPipelineConfig = field(default_factory=GuidedPipelineConfig)
    """pipeline settings"""
    load_ply: Path | None = None
    """a splat to go on from: .ply of any origin, .compressed.ply or .spz; its coordinates are found by what it shows at
    three photos"""
    load_transform: Path | None = None
    """coordinates of load-ply where they cannot be found: splat_frame.json or dataparser_transforms.json of the
    training that it comes from"""
    max_num_iterations: int | None = None  # type: ignore[assignment]
    """steps in all, resumed ones included (unset: 30000 with CUDA, 2000 without, and what the guidance adds to them)"""
    steps_per_save: int | None = None  # type: ignore[assignment]
    """steps between checkpoints (unset: a fifth of the training, at most 2000)"""
    steps_per_eval_image: int | None = None  # type: ignore[assignment]
    """steps between evaluations of one image (unset: a fifth of the training, at most 1000)"""
    steps_per_eval_all_images: int | None = None  # type: ignore[assignment]
    """steps between evaluations of all images (unset: the whole training, at most 10000)"""

    def fit(self, run: Run) -> None:
        """Fill in how often things are saved and evaluated, and learning rates for the length of the training."""
        steps = run.steps
        fill_unset(
            self,
            max_num_iterations=steps,
            steps_per_save=at_most(steps / 5, 2000),
            steps_per_eval_image=at_most(steps / 5, 1000),
            steps_per_eval_all_images=at_most(steps, 10_000),
        )
        # Adam moves a Gaussian by about the learning rate per step, so with splatfacto's own rate a short training
        # could not move them as far; the square root, since shorter trainings also have less to follow. The decay is
        # gentler, or the geometry would be frozen before the last rounds.
        shorter = max(1.0, CUDA_ITERATIONS / run.schedule_steps)
        means = self.optimizers["means"]
        fill_unset(means["optimizer"], lr=MEANS_RATE * shorter**0.5)
        fill_unset(means["scheduler"], lr_final=means["optimizer"].lr / (100 if shorter == 1 else 20))
        for group in self.optimizers.values():
            scheduler = group.get("scheduler")
            if scheduler is not None:  # they count from the first step of this training
                fill_unset(scheduler, max_steps=steps, warmup_steps=steps // 30)

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if a setting cannot work on this machine."""
        device = self.machine.device_type
        if device not in ("cpu", "cuda"):
            raise UserError(
                f"--machine.device-type {device}: Gaussians are rasterized on cpu or cuda only; on a Mac give "
                "--machine.device-type cpu, or leave the flag out"
            )
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "--machine.device-type cuda: no CUDA device is usable here; leave the flag out to use the CPU"
            )
        self._check_one_device()
        if device == "cuda" and (self.mixed_precision or self.use_grad_scaler):
            flag = "--mixed-precision" if self.mixed_precision else "--use-grad-scaler"
            raise UserError(
                f"{flag} True: densification reads gradients before they are scaled back, 65,536 times too large; "
                "leave the flag out. Gaussians are rendered in float32 either way"
            )
        if self.max_num_iterations is not None and self.max_num_iterations < 1:
            raise UserError(f"--max-num-iterations {self.max_num_iterations}: at least 1 is needed")
        check_curve_service(self.vis)

    def _check_one_device(self) -> None:
        """Raise a UserError if several devices are requested.

        Densification replaces the parameters that nerfstudio's copies on each device would average, and each copy
        would write the same pseudo-views.
        """
        for name in ("num_devices", "num_machines"):
            if (count := getattr(self.machine, name)) != 1:
                raise UserError(
                    f"--machine.{name.replace('_', '-')} {count}: a splat is trained on one GPU; leave the flag out. "
                    "Train several at once, each on a GPU of its own: CUDA_VISIBLE_DEVICES=0 ns-train ..., "
                    "CUDA_VISIBLE_DEVICES=1 ns-train ...; many scenes: difix3d bench --executor ray"
                )

    def run(self, first_step: int = 0) -> Run:
        """The training these settings describe, before anything is unset of them.

        Args:
            first_step: 0, or one more than the step of a foreign checkpoint that is trained on.
        """
        device, guidance = self.machine.device_type, self.pipeline.guidance
        on_cpu = device == "cpu"
        steps = self.max_num_iterations or guidance.default_steps(CPU_ITERATIONS if on_cpu else CUDA_ITERATIONS, on_cpu)
        return Run(steps, device, first_step, guidance.own_steps(steps, on_cpu))

    def save_config(self) -> None:
        """Make paths absolute and see that config.yml can be written, without writing it.

        nerfstudio calls it before anything is set up. A training that is refused then must not leave what looks like a
        training, nor replace the config.yml of an earlier one: ``write`` comes once it is set up. A process for each
        device would start before a trainer can check anything.
        """
        self._check_one_device()
        make_absolute(self)
        base = self.get_base_dir()
        there = next(folder for folder in (base, *base.parents) if folder.exists())
        try:
            with replacing(there / "config.yml") as part:
                part.write_text(yaml.dump(self), encoding="utf-8")
                part.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self) -> None:
        """Write config.yml, by which a training is opened again, whole or not at all."""
        make_absolute(self)
        path = self.get_base_dir() / "config.yml"
        CONSOLE.log(f"Saving config to: {path}")
        try:
            write_text(path, yaml.dump(self))
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"cannot write to --output-dir {self.output_dir}: {error}; choose a folder you may write to")


class GuidedTrainer(Trainer):
    """Splatfacto's training loop with fitted settings and exact resume."""

    config: GuidedTrainerConfig
    pipeline: GuidedPipeline

    def __init__(self, config: GuidedTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        self._loaded = self._read_checkpoint(config)
        path, state = self._loaded if self._loaded else (None, {})
        if FORMER_STATE_KEY in state or FORMER_FLAG in state.get(STATE_KEY, {}).get("kept", {}):
            raise UserError(
                f"{path} was written by an earlier version of difix3d_ns, which this one cannot go on from: train again"
            )
        self._ours = state.get(STATE_KEY, {})
        resumed = config.load_dir is not None or config.load_checkpoint is not None
        started = not resumed and (config.load_ply or config.pipeline.guidance.starting_splat) is not None
        if config.load_ply is not None:  # resumed as well
            config.pipeline.model.sh_degree = degree_of(state)
        if started or self._ours.get("method") != config.method_name:
            self._ours = {}
        foreign = self._loaded is not None and not self._ours
        first_step = state["step"] + 1 if foreign else self._ours.get("first_step", 0)
        presets.check(config)
        if config.machine.device_type == "cuda":
            load_kernels("--machine.device-type cpu")
            # ns-train sets it; each new size of a picture would be tuned again, which takes longer than it saves, and
            # which algorithm wins may differ from run to run
            torch.backends.cudnn.set_flags(_benchmark=False)
        # checkpoints from before depth was estimated by default know nothing of it
        presets.adopt(config, ({"--pipeline.depth.name": "none"} if self._ours else {}) | self._ours.get("kept", {}))
        self._run = config.run(first_step)
        messages = presets.fit(config, self._run)
        if (warning := check_space(config.output_dir, config.pipeline.model.max_gs_num)) is not None:
            CONSOLE.print(f"[yellow]{warning}", soft_wrap=True)
        if messages and self._run.on_cpu:
            if config.pipeline.datamanager.camera_res_scale_factor is None:
                messages.append("images of about 480 px (--pipeline.datamanager.camera-res-scale-factor)")
            CONSOLE.print(
                f"[bold]No CUDA in use: CPU-sized defaults:[/bold] {', '.join(messages)}; any flag you give wins."
            )
        if foreign:
            comes = "is where it starts" if started else "comes from another method"
            CONSOLE.print(f"{path} {comes}: training goes on for {config.max_num_iterations} steps.")
        super().__init__(config, local_rank, world_size)
        self._interrupts = Interrupts()

    @staticmethod
    def _read_checkpoint(config: GuidedTrainerConfig) -> tuple[Path, dict[str, Any]] | None:
        start, flag = config.pipeline.guidance.starting_splat, config.pipeline.guidance.starting_flag
        if config.load_dir is not None and config.load_step is None:
            path, state = checkpoints.load_newest(config.load_dir)
        elif config.load_dir is not None:
            path = config.load_dir / f"step-{config.load_step:09d}.ckpt"
            state = checkpoints.load(path)
        elif config.load_checkpoint is not None:
            path, state = config.load_checkpoint, checkpoints.load(config.load_checkpoint)
        elif config.load_ply is not None:
            if start is not None:
                raise UserError(
                    f"{LOAD_PLY} {config.load_ply}: {flag} is a splat to begin with as well; leave one of them out"
                )
            return read_loaded(config.load_ply)
        else:
            return None if start is None else read_start(start, flag)
        # a resumed training began with its start
        if start is not None and state.get(STATE_KEY, {}).get("method") != config.method_name:
            raise UserError(f"{flag} {start}: {path} is a splat to begin with as well; leave one of them out")
        return path, state

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        if self.config.pipeline.datamanager.data is None and self.config.data is not None:
            self.config.pipeline.datamanager.data = self.config.data
        interrupted = "Interrupted before the first step: nothing was begun."
        with self._explained_write_errors(), self._interrupts.caught(lambda: interrupted):
            super().setup(test_mode)
            survive_a_full_disk()
            writer.GLOBAL_BUFFER["max_iter"] = self._run.last_step  # else a resumed training counts too few
            if self._loaded is not None:
                self.pipeline.set_up_guidance(self._run)
        self.pipeline.between_pieces = self._between_pieces
        self.pipeline.before_steps = self._end_if_interrupted
        if self._loaded is not None and self._ours:
            path, state = self._loaded
            self.pipeline.restore_training_state(self._ours["parts"], path.parent.parent, state["step"] + 1)
            checkpoints.restore_random_state(self._ours["random"])
        self._loaded, self._ours = None, {}
        self._saved_at = time.monotonic()
        self._kept = presets.kept(self.config)  # now: nerfstudio's loop counts with another number of steps
        self.pipeline.panel.attach(self.pipeline.guidance, self._start_step)
        self.config.write()  # with everything filled in, so that evaluation rebuilds the same

    def setup_optimizers(self) -> Optimizers:
        images = len(self.pipeline.datamanager.train_dataset)
        self._run = replace(
            self._run, images=images, folder=self.base_dir, resumed=bool(self._ours), tracker=LogTracker()
        )
        for message in presets.fit(self.config, self._run):
            CONSOLE.print(f"Fitted to {images} photos: {message}")
        self.pipeline.begin(self._run, with_points=self._loaded is None)
        self.base_dir.mkdir(parents=True, exist_ok=True)  # the viewer opens a log there, and makes no folders
        optimizers = super().setup_optimizers()
        self._restart_rates(optimizers, self._run)
        return optimizers

    def _restart_rates(self, optimizers: Optimizers, run: Run) -> None:
        """Restart the learning rate of the means in windows that request it, each with a decay of its own."""
        # schedulers count from the first step of this training
        starts = [w.start - run.first_step for w in self.pipeline.guidance.windows(run) if w.restart_rate]
        restarts = [start for start in starts if 0 < start < run.steps]
        scheduler = optimizers.schedulers.get("means")
        if not restarts or not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            return
        edges = sorted({0, *restarts, run.steps})
        decay = scheduler.lr_lambdas[0]

        def restarted(step: int) -> float:
            start, end = next((a, b) for a, b in reversed(list(pairwise(edges))) if a <= step or a == 0)
            return float(decay(round((step - start) * run.steps / (end - start))))

        scheduler.lr_lambdas[0] = restarted

    def _load_checkpoint(self) -> None:
        if self._loaded is None:
            CONSOLE.print("No checkpoint to load: training from scratch.")
            return
        path, state = self._loaded
        self._check_exposures(path, state)
        if is_exported(path):
            state = self._placed(path, state)
        try:
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            self._load_moments(state["optimizers"], with_rates=bool(self._ours))
            if self._ours and self.config.load_scheduler:  # those of another method are finished
                self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{path} does not fit this method and its flags (was it trained with other ones?): {error}"
            ) from error
        self._start_step = state["step"] + 1
        CONSOLE.print(f"Loaded {path}: going on at step {self._start_step}.")

    def _placed(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """Bring an exported splat into the coordinates of this training."""

        def load(candidate: dict[str, Any]) -> None:
            self.pipeline.load_pipeline(candidate["pipeline"], candidate["step"])

        frame = SplatFrame.of(self.pipeline.datamanager.train_dataparser_outputs)
        placer = SplatPlacer(self.pipeline.scene, self.pipeline.renderer, frame)
        flag = self.config.pipeline.guidance.starting_flag if self.config.load_ply is None else LOAD_PLY
        return placer.place(
            path, flag, state, self.config.load_transform, load, lambda text: CONSOLE.print(text, soft_wrap=True)
        )

    def _check_exposures(self, path: Path, state: dict[str, Any]) -> None:
        saved, requested = "exposure" in state.get("optimizers", {}), self.config.pipeline.model.exposure
        if saved and not requested:
            raise UserError(f"{path} holds exposures of the photos: give --pipeline.model.exposure True")
        if requested and not saved:
            CONSOLE.print(f"{path} holds no exposures of the photos: this training finds them.")

    def _load_moments(self, saved: dict[str, Any], with_rates: bool) -> None:
        """Adam's moments of a checkpoint, run as this machine runs them.

        Without its rates where another method made it: they have decayed to their end, and nothing would move any more.
        """
        ours = {name: [dict(g) for g in o.param_groups] for name, o in self.optimizers.optimizers.items()}
        self.optimizers.load_optimizers(saved)
        for name, groups in ours.items():
            optimizer = self.optimizers.optimizers[name]
            for group, fresh in zip(optimizer.param_groups, groups, strict=True):
                kept = {"fused"} if with_rates else fresh.keys() - {"params"}
                group.update({key: fresh[key] for key in kept})
                for parameter in group["params"]:
                    if "step" in (state := optimizer.state.get(parameter, {})):  # where it was counted otherwise
                        state["step"] = state["step"].to(parameter.device if group["fused"] else "cpu")

    def train(self) -> None:
        if self._start_step >= self._run.last_step:
            CONSOLE.print(
                f"Already trained for {self._start_step} steps: nothing to do. "
                f"Give --max-num-iterations more than {self._start_step} to go on."
            )
            return
        total = self.config.max_num_iterations
        self.config.max_num_iterations = (
            self._run.last_step - self._start_step
        )  # nerfstudio counts from the resumed step
        try:
            with self._explained_write_errors(), self._interrupts.caught(self._where_interrupted):
                super().train()
        finally:
            self.config.max_num_iterations = total

    def _where_interrupted(self) -> str | None:
        """Return a sentence if nothing has to be saved any more."""
        if self.training_state == "completed":
            return f"Ended. The training is in {self.base_dir}."
        self.training_state = "training"  # a pause would wait for ever
        return None

    @contextmanager
    def _explained_write_errors(self) -> Iterator[None]:
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
                "method": self.config.method_name,
                "first_step": self._run.first_step,
                "kept": self._kept,
                "parts": self.pipeline.training_state(step),
                "random": checkpoints.random_state(),
            },
        }
        self._saved_at = time.monotonic()
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
        self.pipeline.guidance.keep(kept)

    def _between_pieces(self, step: int) -> None:
        """Let viewers render between pieces of work before a step, and save what has been done now and then.

        nerfstudio holds its lock meanwhile. Before the first step there is nothing a checkpoint could be named by.
        """
        self._end_if_interrupted(step)
        if step > 0 and time.monotonic() - self._saved_at > _SAVE_IN_BOUNDARIES:
            self.save_checkpoint(step - 1)
        self.train_lock.release()
        time.sleep(0)
        self.train_lock.acquire()

    def _end_if_interrupted(self, step: int) -> None:
        """Save and end, if that was requested; before a step."""
        if self._interrupts.number is None:
            return
        if step <= self._start_step:
            self._interrupts.leave("Interrupted before the first step: nothing was trained.")
        self.save_checkpoint(step - 1)
        self._interrupts.leave(f"Interrupted at step {step}. Go on with --load-dir {self.checkpoint_dir}")

    def eval_iteration(self, step: int) -> None:
        """Evaluate held-out photos now and then, if there are any."""
        if len(self.pipeline.datamanager.eval_dataset) > 0:
            super().eval_iteration(step)

    def _train_complete_viewer(self) -> None:
        self.pipeline.show_progress(self.step, force=True)
        self.pipeline.panel.finish()
        if self.viewer_state is not None:
            CONSOLE.print(
                "Training is finished; the viewer stays open (--viewer.quit-on-train-completion True ends it)."
            )
        super()._train_complete_viewer()
