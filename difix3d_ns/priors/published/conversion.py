"""Parts of every conversion of published weights: pickles are read without running them, nothing is overwritten."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from difix3d_ns.errors import UserError, first_line


def check_output(output: Path) -> None:
    """Refuse a folder to write that exists and is not empty. Raises UserError."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists and is not an empty folder; choose another name")


def read_pickle(file: Path) -> Any:
    """Read a pickle by ``torch.load(weights_only=True)``: nothing in it can run.

    Its tensors stay on the disk until they are used, where the format allows.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{file} can't be read safely: it is damaged, half copied, or holds more than tensors and plain values, "
            f"which is never run ({first_line(error)}). Copy or download it again"
        ) from error
