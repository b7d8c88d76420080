"""A training from its recipe to weights, their metrics and their model card."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from rich.console import Console

from difix3d_ns.data.scene_names import ReadCapture, only_procedural
from difix3d_ns.data.shards import find_shards
from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import remove_unfinished, write_json
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.metrics.perceptual import PerceptualWeights
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.training.card import write_card
from difix3d_ns.training.prior_recipe import Recipe
from difix3d_ns.training.systems import create
from difix3d_ns.training.training_loop import Run
from difix3d_ns.training.validate import choose_samples
from difix3d_ns.training.window import Stream

SHARDS = "shards"


def train(
    recipe: Recipe,
    output: Path,
    shards: Path | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    read: ReadCapture = only_procedural,
    stop_after: int | None = None,
    console: Console | None = None,
    weights: PerceptualWeights | None = None,
) -> dict[str, Any]:
    """Train a prior; started again with the same output it goes on where it stopped.

    Args:
        recipe: what to train, from which start and for how long.
        output: folder for weights, metrics.json, MODEL_CARD.md, curves and what resuming needs.
        shards: folder that ``data.curate`` wrote; None: they are made from the recipe's scenes.
        device: cpu or cuda; None: cuda if there is one.
        read: reads those of the recipe's scenes that are folders.
        stop_after: stop, as if interrupted, after so many steps; for tests.
        console: where progress goes.
        weights: of the networks that losses compare by; None for those in torch's hub folder.

    Returns:
        The content of ``metrics.json``; empty if stopped early.

    Raises:
        UserError: a mistake in the recipe, no or damaged samples, a checkpoint of another recipe, a loss that is not
            finite, or weights that cannot be written.
    """
    accelerator = _accelerator(recipe, output, device)
    console = console or Console(quiet=not accelerator.is_main_process)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            remove_unfinished(output)
        root = _samples(recipe, output, shards, read, accelerator, console)
        system = create(recipe)
        rank, processes = accelerator.process_index, accelerator.num_processes
        with progress_bar(console) as progress:
            unseen = _unseen(recipe, root, rank, processes)
            stream = Stream(find_shards(root, "train"), system.prepare, recipe.seed, rank, processes)
            run = Run(recipe, system, stream, unseen, output, accelerator, progress, weights)
            finished = run.train(stop_after)
            metrics = run.measure() if finished else {}
            run.close()
        if finished and accelerator.is_main_process:
            system.save(run.module, output)
            write_json(output / "metrics.json", metrics)
            write_card(output / "MODEL_CARD.md", recipe, metrics, root, run.state.history)
        accelerator.wait_for_everyone()
    except OSError as error:
        raise UserError(
            f"--output {output}: {error}. Make room or choose another folder; started again, the run goes on"
        ) from error
    return metrics


def _accelerator(recipe: Recipe, output: Path, device: str | None) -> Accelerator:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device; leave the flag out")
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run here: precision and device may differ
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    fast = {"auto": fast_dtype(kind), "float32": torch.float32, "bfloat16": torch.bfloat16}[recipe.precision]
    return Accelerator(
        cpu=kind == "cpu",
        mixed_precision="bf16" if fast == torch.bfloat16 else "no",
        log_with="tensorboard",
        project_dir=output,
        # Others wait while one process makes the samples or measures more than the others.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=24))],
    )


def _samples(
    recipe: Recipe, output: Path, shards: Path | None, read: ReadCapture, accelerator: Accelerator, console: Console
) -> Path:
    """Folder of shards; the recipe's scenes are curated there first."""
    if shards is not None:
        return shards
    root = output / SHARDS
    if recipe.scenes and accelerator.is_main_process:
        from difix3d_ns.data.curate import curate

        for entry in recipe.scenes:
            scenes = (entry.scene,) if isinstance(entry.scene, str) else entry.scene
            curate(scenes, root, entry, entry.first_seed, console=console, read=read)
    accelerator.wait_for_everyone()
    return root


def _unseen(recipe: Recipe, root: Path, rank: int, processes: int) -> list:
    if recipe.decides == "none":
        return []
    try:
        shards = find_shards(root, "validation")
    except UserError as error:
        raise UserError(
            f"{error}. The recipe decides by {recipe.decides} on unseen scenes; with `decides: none` it does without"
        ) from error
    return choose_samples(shards, recipe.validation_samples, rank, processes)
