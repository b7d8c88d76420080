"""Curves and pictures of a run for people, through accelerate's TensorBoard tracker, and the same figures as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from difix3d_ns.io.atomic import write_json

_TAGS = {"losses": "train", "validations": "validation"}


class RunTracker:
    """Curves and pictures of a run; a full disk ends them, not the run. All processes call it, the main one writes.

    Args:
        accelerator: logs with TensorBoard, below the folder of the run.
        output: that folder; the figures go to ``history.json``.
        step: of all phases together, from which on earlier curves are replaced.
        history: {"losses": rows, "validations": rows} so far, which is added to.
        console: where the end of the curves is reported.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output: Path,
        step: int,
        history: dict[str, list[dict[str, Any]]],
        console: Console,
    ):
        self._accelerator, self._output, self._history, self._console = accelerator, output, history, console
        self._writable = accelerator.is_main_process
        later = {"tensorboard": {"purge_step": step or None}}
        self._attempt(lambda: accelerator.init_trackers("tensorboard", init_kwargs=later))

    def log(self, kind: str, row: dict[str, Any], step: int) -> None:
        """Add a row to the history and its figures to the curves.

        Args:
            kind: losses, {"phase", "step", "loss", "learning_rate", "gradient"}, or validations,
                {"phase", "step", "watch", "psnr", "ssim", "flip", "best"}.
            row: as above.
            step: counted through all phases.
        """
        self._history[kind].append(row)
        figures = {f"{_TAGS[kind]}/{name}": value for name, value in row.items() if isinstance(value, float)}
        self._attempt(lambda: self._accelerator.log(figures, step))

    def picture(self, name: str, pictures: list[Tensor], step: int) -> None:
        """Show pictures [H, W, 3] in [0, 1] side by side."""

        def write() -> None:
            row = torch.cat([picture.detach().cpu().float().clamp(0, 1) for picture in pictures], 1)
            self._accelerator.get_tracker("tensorboard").log_images({name: row[None]}, step, dataformats="NHWC")

        self._attempt(write)

    def save(self) -> None:
        """Write ``history.json``."""
        self._attempt(lambda: write_json(self._output / "history.json", self._history))

    def close(self) -> None:
        """Write what is left; nothing can be tracked afterwards."""
        self.save()
        self._attempt(lambda: self._accelerator.get_tracker("tensorboard").finish())

    def _attempt(self, write: Callable[[], object]) -> None:
        if not self._writable:
            return
        try:
            write()
        except OSError as error:
            self._console.print(f"The curves end here, training goes on: {error}. Free some space.", soft_wrap=True)
            self._writable = False
