"""The loop that trains a system, on one process or many; everything it depends on is in its checkpoint.

The checkpoint is one file that is whole or not there and that nothing can be run from; accelerate's ``save_state``
would write a folder of pickles instead.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, recursively_apply, send_to_device
from diffusers.training_utils import EMAModel
from rich.progress import Progress
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import write_tensors, write_torch
from difix3d_ns.metrics.perceptual import PerceptualWeights
from difix3d_ns.training.losses import Losses
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.run_tracker import RunTracker
from difix3d_ns.training.systems import System
from difix3d_ns.training.validate import Row, measure, summarise
from difix3d_ns.training.window import Stream, Window

CHECKPOINT = "checkpoint.pt"
BEST = "best.safetensors"
_MAX_STEP_SECONDS = 20.0
_PICTURES = 4  # validation samples whose pictures are kept
_LOG_STEPS = 50


@dataclass
class _State:
    """Progress of a run, as its checkpoint keeps it."""

    phase: int = 0
    step: int = 0  # of the phase
    total: int = 0  # of all phases
    elapsed: float = 0.0  # seconds of this phase
    stale: int = 0  # validations since the best one
    validated: int = -1  # step of the last validation
    best: float | None = None  # value of the metric that decides
    window: int | None = None  # samples held by each process; None: all
    data: str = ""  # which samples
    history: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"losses": [], "validations": []})


class _Step(nn.Module):
    """The module from batch to loss, whose gradients processes share."""

    def __init__(self, system: System, module: nn.Module, losses: Losses):
        super().__init__()
        self.module = module
        self._system, self._losses = system, losses

    def forward(self, batch: Any, phase: Phase, step: int) -> Tensor:
        return self._system.loss(self.module, batch, phase, lambda picture, truth: self._losses(picture, truth, step))


class Run:
    """A training run.

    Args:
        recipe: what to do.
        system: what to train.
        stream: what to train on.
        samples: this process' share of the unseen samples; empty where the recipe does without.
        output: folder of the run; on several machines a shared one.
        accelerator: the processes.
        progress: where progress is shown.
    """

    def __init__(
        self,
        recipe: Recipe,
        system: System,
        stream: Stream,
        samples: Sequence[Sample],
        output: Path,
        accelerator: Accelerator,
        progress: Progress,
        weights: PerceptualWeights | None = None,
    ):
        self.recipe, self.system, self.output, self.accelerator, self.progress = (
            recipe, system, output, accelerator, progress,
        )  # fmt: skip
        self._samples = samples
        with torch.random.fork_rng([accelerator.device] if accelerator.device.type == "cuda" else []):
            torch.manual_seed(recipe.seed)
            self.module = system.build().to(accelerator.device)
        self._trained = self._parameters(name for phase in recipe.phases for name in phase.modules)
        self._losses = Losses(recipe.losses, accelerator.device, weights)
        self._keys: list[str] = []  # of the samples of the current step
        self.state = _State(data=stream.fingerprint)
        saved = self._resume()
        self._window = self._fill(stream)
        if self.state.phase < len(recipe.phases):
            self._start_phase()
            if saved is not None:
                self._optimizer.load_state_dict(saved["optimizer"])
                self._ema.load_state_dict(saved["averaged"])
                self._ema.to(accelerator.device)
        self._tracker = RunTracker(accelerator, output, self.state.total, self.state.history, progress.console)

    def train(self, stop_after: int | None = None) -> bool:
        """True when all phases are done; the module then holds the best weights.

        Args:
            stop_after: stop, as if interrupted, after so many steps of this call.

        Raises:
            UserError: the loss is not finite.
        """
        left = math.inf if stop_after is None else stop_after
        device = self.accelerator.device
        # All chance of a step comes from its number and the process: nothing needs to be kept to go on exactly.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if not (self.output / CHECKPOINT).is_file():
                self._save()
            while self.state.phase < len(self.recipe.phases):
                left = self._train_phase(self.recipe.phases[self.state.phase], left)
                if left < 0:
                    return False
        return True

    def measure(self) -> dict[str, Any]:
        """Metrics of all variants on all unseen samples, with pictures; see ``summarise``. Empty without samples."""
        if self.recipe.decides == "none":
            return {}
        return summarise(self._compare(self._samples, self.system.variants, "Measuring all variants"))

    def close(self) -> None:
        """Finish the curves."""
        self._tracker.close()

    def _train_phase(self, phase: Phase, left: float) -> float:
        """Train a phase; returns how many steps may still be made, -1 if none and training is not done."""
        state = self.state
        task = self.progress.add_task(f"Training {', '.join(phase.modules)}", total=1.0)
        saved = time.monotonic()
        recent: list[tuple[float, float, float]] = []
        while (done := self._of_first_process(self._done(phase))) < 1:
            if state.step % self.recipe.validate_steps == 0 and state.validated != state.step and self._validate(phase):
                break
            if left <= 0:
                self._save()
                return -1
            start = time.monotonic()
            recent.append(self._one_step(phase, done))
            state.step, state.total, left = state.step + 1, state.total + 1, left - 1
            # A machine that slept or a stopped process did not train.
            state.elapsed += min(time.monotonic() - start, _MAX_STEP_SECONDS)
            if state.step % _LOG_STEPS == 0:
                self._log(recent, done)
                recent = []
            self.progress.update(task, completed=min(1.0, self._done(phase)))
            if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
        self._end_phase(phase)
        self.progress.update(task, completed=1.0)
        return left

    def _done(self, phase: Phase) -> float:
        """Share of a phase that is done, by steps or by time, whichever is further."""
        done = self.state.step / phase.steps
        if self.recipe.max_time:
            share = phase.share / sum(other.share for other in self.recipe.phases)
            done = max(done, self.state.elapsed / (60 * self.recipe.max_time * share))
        return done

    def _of_first_process(self, value: float) -> float:
        """The first process' value, for all: clocks differ."""
        if self.accelerator.num_processes == 1 or not self.recipe.max_time:
            return value
        return float(broadcast(torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)))

    def _start_phase(self) -> None:
        recipe, phase = self.recipe, self.recipe.phases[self.state.phase]
        self.module.train().requires_grad_(False)
        self._learning = list(self._parameters(phase.modules).values())
        for parameter in self._learning:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(
            self._learning, lr=phase.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self._ema = EMAModel(self._learning, decay=recipe.ema)
        self.accelerator.free_memory()  # of the phase before
        step = _Step(self.system, self.module, self._losses)
        self._model, self._optimizer = self.accelerator.prepare(step, optimizer)

    def _end_phase(self, phase: Phase) -> None:
        state = self.state
        if self.recipe.decides == "none":
            self._ema.copy_to(self._learning)
        else:
            if state.validated != state.step:
                self._validate(phase)
            self._load_best()
        state.phase, state.step, state.elapsed, state.stale, state.validated = state.phase + 1, 0, 0.0, 0, -1
        if state.phase < len(self.recipe.phases):
            if self.recipe.phases[state.phase].watch == phase.watch:
                state.validated = 0  # it is what was just loaded
            self._start_phase()
        self._save()

    def _one_step(self, phase: Phase, done: float) -> tuple[float, float, float]:
        """Make a step; returns loss, norm of the gradient before clipping, learning rate."""
        recipe, accelerator = self.recipe, self.accelerator
        fall = phase.end + (1 - phase.end) * 0.5 * (1 + math.cos(math.pi * done))
        rate = phase.learning_rate * min(1.0, (self.state.step + 1) / max(1, phase.warmup)) * fall
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self.state.window is not None:
            self._window.slide(self._first_sample())
        self._optimizer.zero_grad(set_to_none=True)
        self._keys = []
        losses = []
        for part in range(recipe.accumulate):
            last = part == recipe.accumulate - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self._model):
                losses.append(self._backward(phase, part))
        norm = float(accelerator.clip_grad_norm_(self._learning, recipe.clip))
        if not math.isfinite(norm):
            self._give_up("gradient", self._keys)
        self._optimizer.step()
        self._ema.step(self._learning)
        return sum(losses) / len(losses), norm, rate

    def _backward(self, phase: Phase, part: int) -> float:
        """Add the gradients of a batch; returns the mean loss of all processes."""
        recipe, accelerator = self.recipe, self.accelerator
        place = [recipe.seed, self.state.phase, self.state.step, part, accelerator.process_index]
        seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]) >> 1
        generator = Generator().manual_seed(seed)
        torch.manual_seed(seed)
        keys, prepared = self._window.pick(recipe.batch, generator)
        self._keys += keys
        batch = send_to_device(self.system.draw(prepared, phase, generator), accelerator.device)
        loss = self._model(batch, phase, self.state.step)
        values = accelerator.gather(loss.detach().float().reshape(1))
        if not bool(values.isfinite().all()):
            self._give_up("loss", self._not_finite(keys, batch, phase) if not bool(loss.isfinite()) else [])
        accelerator.backward(loss / recipe.accumulate)
        return float(values.mean())

    @torch.no_grad()
    def _not_finite(self, keys: list[str], batch: Any, phase: Phase) -> list[str]:
        """Keys of samples whose own loss is not finite; all of them if each alone is."""
        step = _Step(self.system, self.module, self._losses)
        alone = [recursively_apply(lambda tensor, i=i: tensor[i : i + 1], batch) for i in range(len(keys))]
        losses = [step(one, phase, self.state.step) for one in alone]
        return [key for key, loss in zip(keys, losses, strict=True) if not bool(loss.isfinite())] or keys

    def _give_up(self, what: str, keys: list[str]) -> None:
        """End the run; the state of now may be what went wrong: the checkpoint before it stays."""
        keys = sorted(set(gather_object(keys)))
        good = self.output / "last_good"
        if self.accelerator.is_main_process:
            best = self.output / BEST
            saved = load_file(best) if best.is_file() else _read(self.output / CHECKPOINT)["module"]
            self._fill_in(saved, self.output)
            good.mkdir(exist_ok=True)
            self.system.save(self.module, good)
        self.accelerator.wait_for_everyone()
        raise UserError(
            f"the {what} is not finite in phase {self.state.phase + 1}, step {self.state.step}, with "
            f"{', '.join(keys)}. {self.output / CHECKPOINT} and {good} hold the last good state. Look at these "
            f"samples, or lower the recipe's learning_rate; --start {good} begins there with another recipe and "
            "another --output"
        )

    def _validate(self, phase: Phase) -> bool:
        """Keep the weights if they are the best so far; True if the phase shall end."""
        recipe, state = self.recipe, self.state
        if recipe.decides == "none":
            return False
        every = max(1, len(self._samples) * self.accelerator.num_processes // recipe.watch_samples)
        with self._averaged():
            rows = self._compare(self._samples[::every], (phase.watch,), "Validating")
            means = summarise(rows)[phase.watch]
            value = means[recipe.decides]
            better = state.best is None or (value < state.best if recipe.decides == "flip" else value > state.best)
            if better and self.accelerator.is_main_process:
                self._save_best(value)
        state.best, state.stale = (value, 0) if better else (state.best, state.stale + 1)
        state.validated = state.step
        row = {"phase": state.phase, "step": state.step, "watch": phase.watch, **means, "best": better}
        self._tracker.log("validations", row, state.total)
        self._print(f"{recipe.decides} {value:.4f} on unseen scenes{', the best so far' if better else ''}")
        if better:
            self._save()
        return 0 < recipe.patience <= state.stale

    def _compare(self, samples: Sequence[Sample], variants: Sequence[str], title: str) -> list[Row]:
        """Rows of all processes, with pictures of the first few samples tracked."""
        makes = self.system.pictures(self.module)
        task = self.progress.add_task(title, total=len(samples))
        shown = list(samples[:_PICTURES])

        def advance(sample: Sample, pictures: dict[str, Tensor]) -> None:
            self.progress.advance(task)
            if any(sample is one for one in shown):
                row = [sample.request.image, *(pictures[name] for name in variants[-1:]), sample.truth]
                self._tracker.picture(f"before | after | truth/{sample.key}", row, self.state.total)

        rows = measure(samples, {name: makes[name] for name in variants}, advance)
        self.progress.remove_task(task)
        return gather_object(rows)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The module with averaged weights."""
        self._ema.store(self._learning)
        self._ema.copy_to(self._learning)
        try:
            yield
        finally:
            self._ema.restore(self._learning)

    def _save_best(self, value: float) -> None:
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self._trained.items()}
        notes = {"format": "pt", self.recipe.decides: str(value), "step": str(self.state.total)}
        write_tensors(self.output / BEST, tensors, notes)

    def _load_best(self) -> None:
        self.accelerator.wait_for_everyone()
        self._fill_in(load_file(self.output / BEST), self.output / BEST)

    def _fill_in(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        shapes = {name: parameter.shape for name, parameter in self._trained.items()}
        if wrong := sorted(dict(shapes.items() ^ {name: tensor.shape for name, tensor in tensors.items()}.items())):
            raise UserError(f"{path} is of another architecture ({', '.join(wrong[:4])}): give another --output")
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(tensors[name])

    def _parameters(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        """Parameters of some parts, by their full names."""
        parts = {name: list(parameters) for name, parameters in self.system.parts(self.module).items()}
        names = set(names)
        if unknown := sorted(names - set(parts)):
            raise UserError(f"recipe: phase trains unknown module {', '.join(unknown)}; known: {', '.join(parts)}")
        wanted = {id(parameter) for name in names for parameter in parts[name]}
        return {name: parameter for name, parameter in self.module.named_parameters() if id(parameter) in wanted}

    def _fill(self, stream: Stream) -> Window:
        """Prepare all samples if they fit in every process, else the window where the run is."""
        state, recipe = self.state, self.recipe
        task = self.progress.add_task(f"Preparing {stream.share} samples", total=stream.share)
        window = Window(stream, recipe.memory, recipe.workers, lambda: self.progress.advance(task))
        if state.window is not None:
            window.fill(self._first_sample(), state.window)
        elif not all(gather_object([whole := window.fill()])):
            state.window = min(gather_object([len(window)]))
            window.shrink(state.window)
            share = "" if whole else f", {len(window)} of {stream.share} at a time"
            self._print(f"the samples are streamed through {recipe.memory} GiB{share}")
        self.progress.update(task, total=len(window), completed=len(window))
        return window

    def _first_sample(self) -> int:
        """Number of the window's first sample: every sample is drawn ``reuse`` times on average."""
        return int(self.state.total * self.recipe.batch * self.recipe.accumulate / self.recipe.reuse)

    def _log(self, recent: list[tuple[float, float, float]], done: float) -> None:
        loss, norm, rate = (sum(values) / len(recent) for values in zip(*recent, strict=True))
        place = {"phase": self.state.phase, "step": self.state.step}
        row = {**place, "loss": loss, "gradient": norm, "learning_rate": rate}
        self._tracker.log("losses", row, self.state.total)
        if not self.progress.console.is_terminal and self.state.step % (4 * _LOG_STEPS) == 0:  # a log shows no bar
            self._print(f"loss {loss:.4f}, {done:.0%} done")

    def _print(self, text: str) -> None:
        if self.accelerator.is_main_process:
            place = f"phase {self.state.phase + 1}, step {self.state.step}"
            self.progress.console.print(f"{place}: {text}", highlight=False, soft_wrap=True)

    def _save(self) -> None:
        """Write the checkpoint; a full disk keeps the one before, and training goes on."""
        if not self.accelerator.is_main_process:
            return
        unfinished = self.state.phase < len(self.recipe.phases)
        content = {
            "recipe": json.dumps(self.recipe.fingerprint()),
            "state": vars(self.state),
            "module": {name: parameter.detach() for name, parameter in self._trained.items()},
            "averaged": self._ema.state_dict() if unfinished else {},
            "optimizer": self._optimizer.state_dict() if unfinished else {},
        }
        try:
            write_torch(self.output / CHECKPOINT, content)
        except OSError as error:
            self._print(f"the checkpoint could not be saved, training goes on: {error}. Free some space.")
        self._tracker.save()

    def _resume(self) -> dict[str, Any] | None:
        path = self.output / CHECKPOINT
        if not path.is_file():
            return None
        try:
            saved = _read(path)
            recipe, state = json.loads(saved["recipe"]), _State(**saved["state"])
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it to train from the start") from error
        mine = self.recipe.fingerprint()
        if other := sorted(key for key in {*mine, *recipe} if mine.get(key) != recipe.get(key)):
            raise UserError(
                f"{path} belongs to another recipe ({', '.join(other)} differ): give another --output, or delete it"
            )
        self._fill_in(saved["module"], path)
        if state.data != self.state.data:
            state.data = self.state.data
            self._print("there are other samples than when this run began")
        self.state = state
        self._print(f"going on from {path}")
        return saved


def _read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint on the CPU; nothing in the file can run."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True)
