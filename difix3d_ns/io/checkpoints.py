"""Checkpoints that survive a crash at any moment."""

from __future__ import annotations

import pickle
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import get_console

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import remove_unfinished, write_torch


def random_state() -> dict[str, Any]:
    """States of all random generators a training step draws from, as plain values and tensors."""
    kind, words, position, has_gauss, gauss = np.random.get_state()  # nerfstudio draws from it
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(words).astype(np.int64)), position, has_gauss, float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Go on drawing where ``random_state`` was taken."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in ``folder``, newest first."""
    matches = (re.fullmatch(r"step-(\d{9,})\.ckpt", path.name) for path in folder.glob("step-*.ckpt"))
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def save(state: dict[str, Any], folder: Path, step: int) -> Path:
    """Write a checkpoint so that a crash leaves either all of it or none.

    While it is written it lies beside ``folder``: nerfstudio's loaders take every name in it for a checkpoint.

    Raises:
        OSError: nothing was changed.
    """
    path = folder / f"step-{step:09d}.ckpt"
    write_torch(path, state, folder.parent)
    return path


def remove_older(folder: Path, keep: Iterable[int]) -> None:
    """Delete all checkpoints but those of the steps ``keep``, and leftovers of crashed saves."""
    keep = set(keep)
    for step in checkpoint_steps(folder):
        if step not in keep:
            (folder / f"step-{step:09d}.ckpt").unlink(missing_ok=True)
    remove_unfinished(folder.parent, ".ckpt")


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint.

    Raises:
        UserError: it does not exist or is damaged; the message names it.
    """
    if not path.exists():
        raise UserError(f"the checkpoint {path} does not exist (--load-checkpoint, --load-step)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"the checkpoint {path} is damaged or no checkpoint: {error}") from error
    if not isinstance(state, dict) or not {"step", "pipeline"} <= set(state):
        raise UserError(f"{path} is no nerfstudio checkpoint (it has no step and pipeline)")
    return state


def load_newest(folder: Path, flag: str = "--load-dir") -> tuple[Path, dict[str, Any]]:
    """Read the newest checkpoint that can be read; damaged ones are named in a notice.

    Args:
        folder: of checkpoints.
        flag: that names it, for messages.

    Raises:
        UserError: there is none.
    """
    steps = checkpoint_steps(folder) if folder.exists() else []
    for step in steps:
        path = folder / f"step-{step:09d}.ckpt"
        try:
            return path, load(path)
        except UserError as error:
            get_console().print(f"[bold yellow]{error}; trying the one before.", soft_wrap=True)
    raise UserError(
        f"{flag} {folder} has no readable checkpoint"
        + (f" ({len(steps)} damaged)" if steps else "; give the nerfstudio_models folder of a training")
    )
