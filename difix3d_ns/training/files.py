"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from difix3d_ns.io.atomic import dump


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write under another name beside it, then rename; what was there before stays if writing fails.

    Raises:
        OSError: it could not be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except SafetensorError as error:  # its writer wraps what the system said
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """See ``replace_file``."""
    replace_file(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


def write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Safetensors that others may read too; see ``replace_file``."""

    def write(temporary: Path) -> None:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # safetensors makes files only their owner can read

    replace_file(path, write)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """``torch.save``; see ``replace_file``."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            dump(state, file, f"{path} could not be written")

    replace_file(path, write)


def read_state(path: Path) -> dict[str, Any]:
    """What ``write_state`` wrote, on the CPU; nothing in the file can run."""
    return torch.load(path, map_location="cpu", weights_only=True)
