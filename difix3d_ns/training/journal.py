"""What a run leaves to look at: TensorBoard curves and pictures, and the same figures as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from difix3d_ns.io.atomic import write_json


class Journal:
    """Curves and pictures of a run; a full disk ends them, not the run.

    Args:
        output: folder of the run; curves go to ``tensorboard/``, figures to ``history.json``.
        step: of all phases together, from which on earlier curves are replaced.
        history: {"losses": rows, "validations": rows} so far.
        console: where the end of the curves is told.
    """

    def __init__(self, output: Path, step: int, history: dict[str, list[dict[str, Any]]], console: Console):
        from torch.utils.tensorboard import SummaryWriter

        self._output, self._console = output, console
        self.history = history
        self._writer: Any = None
        self._attempt(self._open, SummaryWriter, step)

    def _open(self, writer: Any, step: int) -> None:
        self._writer = writer(str(self._output / "tensorboard"), purge_step=step or None)

    def loss(self, step: int, row: dict[str, Any]) -> None:
        """A row {"phase", "step", "loss", "learning_rate", "gradient"}; ``step`` counts through all phases."""
        self.history["losses"].append(row)
        for name in ("loss", "learning_rate", "gradient"):
            self._scalar(f"train/{name}", row[name], step)

    def validation(self, step: int, row: dict[str, Any]) -> None:
        """A row {"phase", "step", "watch", "psnr", "ssim", "flip", "best"}."""
        self.history["validations"].append(row)
        for name in ("psnr", "ssim", "flip"):
            self._scalar(f"validation/{name}", row[name], step)

    def picture(self, step: int, name: str, pictures: list[Tensor]) -> None:
        """Pictures [H, W, 3] in [0, 1] side by side."""
        row = torch.cat([picture.detach().cpu().float().clamp(0, 1) for picture in pictures], 1)
        self._attempt(lambda: self._writer.add_image(name, row, step, dataformats="HWC"))

    def save(self) -> None:
        """Write ``history.json`` and what TensorBoard still holds back."""
        self._attempt(lambda: write_json(self._output / "history.json", self.history))
        self._attempt(lambda: self._writer.flush())

    def close(self) -> None:
        """No more curves."""
        self.save()
        self._attempt(lambda: self._writer.close())

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._attempt(lambda: self._writer.add_scalar(name, value, step))

    def _attempt(self, write: Callable[..., object], *arguments: Any) -> None:
        if self._output is None:
            return
        try:
            write(*arguments)
        except OSError as error:
            self._console.print(f"The curves end here, training goes on: {error}. Free some space.", soft_wrap=True)
            self._output = None  # type: ignore[assignment]
