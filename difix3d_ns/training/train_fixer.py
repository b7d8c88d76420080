"""Training the embedded fixer: its blend first, then the diffusion model and its gate."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_msssim import ssim
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.fixers.networks.chain import ChainOutput, EmbeddedChain
from difix3d_ns.fixers.networks.precision import fast_dtype
from difix3d_ns.training.pairs import Batch, PairSet, find_pairs
from difix3d_ns.training.recipe import Phase, Recipe, load_recipe
from difix3d_ns.training.validate import validate

CHECKPOINT = "checkpoint.pt"
_LONGEST_STEP = 20.0  # seconds


def train_fixer(
    recipe: str | Path | Recipe,
    output: Path,
    pairs: Path | None = None,
    device: str = "cpu",
    max_minutes: float | None = None,
    stop_after: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train the embedded chain; started again with the same output it goes on where it stopped.

    Writes ``weights.safetensors`` (float16) with ``weights.json``, ``metrics.json`` (mean PSNR, SSIM and FLIP over the
    validation scenes for identity, blend, fixed and fixed_without_diffusion), ``losses.json`` and ``checkpoint.pt``.

    Args:
        recipe: a recipe, its YAML file or its name in ``configs/fixer``.
        output: folder for everything.
        pairs: folder of pairs, instead of the recipe's.
        device: where to train.
        max_minutes: instead of the recipe's.
        stop_after: stop (as if interrupted) after this many steps of this call; for tests.
        console: where the progress goes.

    Returns:
        The content of ``metrics.json``; empty if stopped early.

    Raises:
        UserError: no recipe, no pairs, or a checkpoint of another recipe.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    console = console or Console()
    root = Path(pairs) if pairs else output / recipe.pairs
    if pairs is None:
        _make_pairs(recipe, root)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console) as progress:
        training, validation = find_pairs(root)
        reading = progress.add_task(f"Warping {len(training)} pairs", total=len(training))
        data = PairSet(training, lambda: progress.advance(reading))
        run = _Run(recipe, data, output, torch.device(device), max_minutes or recipe.max_minutes, progress)
        if not run.train(stop_after):
            return {}
        chain = run.averaged
        _write_weights(chain, recipe, output)
        step = max(1, math.ceil(len(validation) / recipe.validation_samples))
        metrics = validate(chain, validation[::step], progress) if validation else {}
    if not validation:
        console.print(f"No scene in {root} starts with val_: nothing to validate on, metrics.json stays empty.")
    _write_json(output / "metrics.json", metrics)
    return metrics


class _Run:
    """State of a training run; everything in it is in the checkpoint."""

    def __init__(
        self,
        recipe: Recipe,
        data: PairSet,
        output: Path,
        device: torch.device,
        minutes: float | None,
        progress: Progress,
    ):
        self.recipe, self.data, self.output, self.device, self.progress = recipe, data, output, device, progress
        self.minutes = minutes
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.chain = EmbeddedChain(recipe.chain).to(device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.chain).requires_grad_(False)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.phase, self.step, self.elapsed = 0, 0, 0.0
        self.losses: list[tuple[int, int, float]] = []  # phase, step, mean loss of the last 50 steps
        self.optimizer = self._start_phase()
        self._resume()

    def train(self, stop_after: int | None) -> bool:
        """True when all phases are done."""
        left = math.inf if stop_after is None else stop_after
        while self.phase < len(self.recipe.phases):
            phase = self.recipe.phases[self.phase]
            task = self.progress.add_task(f"Training {' and '.join(phase.modules)}", total=1.0)
            saved, recent = time.monotonic(), []
            while (done := self._progress(phase)) < 1:
                if left <= 0:
                    self._save()
                    return False
                start = time.monotonic()
                recent.append(self._one_step(phase, done))
                self.step, left = self.step + 1, left - 1
                # A machine that slept or a stopped process did not train.
                self.elapsed += min(time.monotonic() - start, _LONGEST_STEP)
                if self.step % 50 == 0:
                    self.losses.append((self.phase, self.step, sum(recent) / len(recent)))
                    recent = []
                    if not self.progress.console.is_terminal and self.step % 200 == 0:  # a log shows no bar
                        name = f"phase {self.phase + 1}, step {self.step}"
                        self.progress.console.print(f"{name}: loss {self.losses[-1][2]:.4f}, {done:.0%} done")
                self._show(task, phase)
                if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()
            self.phase, self.step, self.elapsed = self.phase + 1, 0, 0.0
            if self.phase < len(self.recipe.phases):
                # What was averaged is what the next phase builds on.
                self.chain.load_state_dict(self.averaged.state_dict())
                self.optimizer = self._start_phase()
            self._save()
        history = [{"phase": phase, "step": step, "loss": loss} for phase, step, loss in self.losses]
        _write_json(self.output / "losses.json", history)
        return True

    def _start_phase(self) -> torch.optim.Optimizer:
        phase = self.recipe.phases[self.phase]
        known = dict(self.chain.named_children())
        if unknown := sorted(set(phase.modules) - set(known)):
            raise UserError(f"recipe: phase trains unknown module {', '.join(unknown)}; known: {', '.join(known)}")
        for name, module in known.items():
            module.requires_grad_(name in phase.modules)
        parameters = [p for p in self.chain.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            parameters, lr=phase.learning_rate, betas=(0.9, 0.99), weight_decay=self.recipe.weight_decay
        )

    def _progress(self, phase: Phase) -> float:
        """In [0, 1], by steps or by time, whichever is further."""
        done = self.step / phase.steps
        if self.minutes:
            share = phase.share / sum(other.share for other in self.recipe.phases)
            done = max(done, self.elapsed / (60 * self.minutes * share))
        return done

    def _one_step(self, phase: Phase, done: float) -> float:
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        rate = phase.learning_rate * min(1.0, (self.step + 1) / 20) * decay
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        recipe = self.recipe
        batch = self.data.draw(recipe.batch, phase.crop or recipe.crop, recipe.reference_dropout, self.generator)
        batch = Batch(*(tensor.to(self.device) for tensor in batch))
        diffusion = phase.modules != ("blend",)
        precision = fast_dtype(self.device.type)
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            out = self.chain(batch.image, batch.alpha, batch.warps, batch.visibility, diffusion=diffusion)
        loss = chain_loss(out, batch.truth)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_((p for p in self.chain.parameters() if p.requires_grad), recipe.clip)
        self.optimizer.step()
        keep = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.chain.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - keep)
        return float(loss.detach())

    def _show(self, task: TaskID, phase: Phase) -> None:
        self.progress.update(task, completed=min(1.0, self._progress(phase)))

    def _save(self) -> None:
        state = {
            "recipe": _fingerprint(self.recipe),
            "chain": self.chain.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "phase": self.phase,
            "step": self.step,
            "elapsed": self.elapsed,
            "losses": self.losses,
        }
        _replace(self.output / CHECKPOINT, lambda path: torch.save(state, path))

    def _resume(self) -> None:
        path = self.output / CHECKPOINT
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it to train from the start") from error
        if state["recipe"] != _fingerprint(self.recipe):
            raise UserError(f"{path} belongs to another recipe: give another --output, or delete it")
        self.phase, self.step, self.elapsed = state["phase"], state["step"], state["elapsed"]
        self.losses = [tuple(row) for row in state["losses"]]
        self.chain.load_state_dict(state["chain"])
        self.averaged.load_state_dict(state["averaged"])
        self.generator.set_state(state["generator"].cpu())
        if self.phase < len(self.recipe.phases):
            self.optimizer = self._start_phase()
            self.optimizer.load_state_dict(state["optimizer"])
        self.progress.console.print(f"Going on from {path}: phase {self.phase + 1}, step {self.step}")


def chain_loss(out: ChainOutput, truth: Tensor) -> Tensor:
    """Loss of the result and, where the diffusion model ran, of its own picture (its gate starts shut).

    Args:
        out: [B, 3, H, W] each.
        truth: [B, 3, H, W] in [0, 1].
    """
    loss = picture_loss(out.image, truth)
    return loss if out.decoded is None else loss + 0.5 * picture_loss(out.decoded, truth)


def picture_loss(picture: Tensor, truth: Tensor) -> Tensor:
    """L1 + 0.15 (1 - SSIM) + 0.25 L1 of the gradients; [B, 3, H, W] each."""
    picture = picture.float()
    error = picture - truth
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    structure = 1 - ssim(picture.clamp(0, 1), truth, data_range=1.0)
    return error.abs().mean() + 0.15 * structure + 0.25 * gradients


def _make_pairs(recipe: Recipe, root: Path) -> None:
    if not recipe.scenes:
        return
    from difix3d_ns.curation.pairs import PairOptions, make_pairs

    for entry in recipe.scenes:
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        make_pairs(options.pop("scene"), root, PairOptions(**options))


def _write_weights(chain: EmbeddedChain, recipe: Recipe, output: Path) -> None:
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in chain.state_dict().items()}
    _write_json(output / "weights.json", {**recipe.chain, **recipe.extra})

    def write(path: Path) -> None:
        save_file(tensors, path)
        path.chmod(0o644)  # safetensors makes files only their owner can read

    _replace(output / "weights.safetensors", write)


def _write_json(path: Path, content: Any) -> None:
    _replace(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def _fingerprint(recipe: Recipe) -> str:
    return json.dumps({"chain": recipe.chain, "phases": [vars(p) for p in recipe.phases], "seed": recipe.seed})
