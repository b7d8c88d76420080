"""Writing to a disk that may be full."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
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


def write_json(path: Path, content: Any) -> None:
    """See ``write_text``."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made.

    Raises:
        OSError: it could not be written; what was there is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")  # others may be writing the same file
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
