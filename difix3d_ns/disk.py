"""Writing to a disk that may be full."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import torch


def dump(state: dict[str, Any], file: BinaryIO, failed: str) -> None:
    """``torch.save`` to the disk itself.

    Args:
        state: what to write.
        file: open for writing.
        failed: what the error says if the system gave no reason.

    Raises:
        OSError: it could not be written.
    """
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch stumbles over the end of a file that could not be written
        cause = error.__context__ if isinstance(error.__context__, OSError) else None
        raise cause or OSError(f"{failed}: {error}") from error
    file.flush()
    os.fsync(file.fileno())
