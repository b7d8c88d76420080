"""The one writer of files and folders that are whole or not there.

What is being written lies beside its place as ``.NAME.RANDOM.part.ENDING``: hidden, and with the ending by which
writers of pictures choose the format. It is flushed to the disk before it gets its name, and then so is the name: a
crash, a full disk or a power cut leaves what was there before or all that is new.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_UNFINISHED = ".part"


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Hand out a name to write under; at the end of the block it replaces ``path``, after an error it is removed.

    Args:
        path: a file, or a folder that is empty or not there; the folder around it is made.
        folder: where the unfinished one lies, on the same disk; None for beside ``path``.

    Returns:
        A name that nobody else writes under. If the block leaves nothing there, nothing changes.

    Raises:
        OSError: it could not be written; what was there is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = (folder or path.parent) / f".{path.stem}.{uuid.uuid4().hex[:8]}{_UNFINISHED}{path.suffix}"
    try:
        yield part
        if part.exists():
            for written in (*part.rglob("*"), part):
                _flush(written)
            if path.is_dir():  # an empty one; Windows replaces none
                path.rmdir()
            os.replace(part, path)
            _flush(path.parent)
    finally:
        _remove(part)


def remove_unfinished(folder: Path, ending: str = "*", name: str = "*") -> None:
    """Delete what a killed process left in a folder.

    Args:
        folder: nobody else writes files of this ending and name there.
        ending: of what was being written, ".ckpt"; "*" for all.
        name: of what was being written, without its ending; "*" for all.
    """
    for part in folder.glob(f".{name}.*{_UNFINISHED}{ending}"):
        _remove(part)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file. Raises OSError; see ``replacing``."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8. Raises OSError; see ``replacing``."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON. Raises OSError; see ``replacing``."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write safetensors that other users may read too. Raises OSError; see ``replacing``."""
    from safetensors import SafetensorError  # not for every ns-command
    from safetensors.torch import save_file

    with replacing(path) as part:
        try:
            save_file(tensors, part, dict(notes) if notes else None)
        except SafetensorError as error:  # it wraps the system's error
            raise OSError(f"{path} could not be written: {error}") from error
        part.chmod(0o644)  # safetensors makes files only their owner can read


def stream_tensors(
    path: Path,
    dtype: torch.dtype,
    shapes: Mapping[str, Sequence[int]],
    read: Callable[[str], Tensor],
    on_written: Callable[[int], None] = lambda size: None,
) -> None:
    """Write safetensors of one precision, with one tensor at a time in memory.

    Args:
        path: of the file.
        dtype: a floating type of 2 or 4 bytes.
        shapes: of the tensors, by name.
        read: gives the tensor of a name, in any precision.
        on_written: called with the number of bytes of each tensor.

    Raises:
        OSError: see ``replacing``.
        ValueError: a tensor has another shape.
    """
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _SAFE_TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path) as part, part.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, shape in shapes.items():
            values = read(name).detach().to("cpu", dtype).contiguous()
            if list(values.shape) != list(shape):
                raise ValueError(f"{name} has shape {list(values.shape)}, not {list(shape)}")
            content = values.reshape(-1).view(torch.uint8).numpy()
            file.write(content.data)
            on_written(content.size)


_SAFE_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_torch(path: Path, state: Mapping[str, Any], folder: Path | None = None) -> None:
    """Write what ``torch.load(weights_only=True)`` reads. Raises OSError; see ``replacing``."""
    with replacing(path, folder) as part, part.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch stumbles over the end of a file that could not be written
            cause = error.__context__ if isinstance(error.__context__, OSError) else None
            raise cause or OSError(f"{path} could not be written: {error}") from error


def _remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have a file's content, or the names in a folder, written to the disk itself."""
    folder = path.is_dir()
    if folder and not hasattr(os, "O_DIRECTORY"):  # Windows has no such call
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
