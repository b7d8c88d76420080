"""The pool's folder: immutable view files and small JSON lists, each complete or absent at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

from difix3d_ns.views.view import PackedView, decode, encode

PoolState = Sequence[tuple[str, int]]
"""Key and generation of each view of a pool, in order"""


class Store:
    """Reader and writer of one folder.

    ``view_G.safetensors`` is the view taken at generation G and never changes; ``checkpoint_N.json`` lists the views
    the pool held when checkpoint N was made. Everything is written to a temporary name, flushed to the disk and
    renamed, so that an interruption leaves old or new, never half.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def prepare(self) -> None:
        """Make the folder if need be and try to write.

        Raises:
            OSError: it cannot be made or written; the message names it. A full disk is none: that may change.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write("writable.json", b"{}")
            (self.folder / "writable.json").unlink()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return  # views stay in memory until there is room
            raise OSError(
                error.errno,
                f"the folder for training views cannot be written ({error.strerror}); make it writable or choose "
                "another --output-dir",
                str(self.folder),
            ) from error

    def path(self, generation: int) -> Path:
        """Return the path of a view's file."""
        return self.folder / f"view_{generation:08d}.safetensors"

    def write_view(self, view: PackedView, generation: int) -> None:
        """Write a view; a failure, for instance on a full disk, leaves nothing behind. Raises OSError."""
        self.write(self.path(generation).name, encode(view))

    def read_view(self, key: str, generation: int) -> PackedView:
        """Read a view. Raises ValueError naming the file if it is missing or damaged."""
        path = self.path(generation)
        try:
            view = decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        if view.key != key:
            raise ValueError(f"{path}: holds the view {view.key}, not {key}")
        return view

    def keep(self, state: PoolState, checkpoint: int) -> None:
        """Remember what a checkpoint needs. Raises OSError."""
        self.write(self._list(checkpoint), json.dumps(state).encode())

    def kept(self) -> dict[int, PoolState]:
        """Return what each checkpoint needs, by its number; unreadable lists are left out."""
        result: dict[int, PoolState] = {}
        for path in self.folder.glob("checkpoint_*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                listed = json.loads(path.read_text(encoding="utf-8"))
                number = int(path.stem.removeprefix("checkpoint_"))
                result[number] = [(str(key), int(generation)) for key, generation in listed]
        return result

    def forget(self, but: set[int]) -> None:
        """Delete the lists of all checkpoints but these."""
        keep = {self._list(number) for number in but}
        for path in self.folder.glob("checkpoint_*.json"):
            if path.name not in keep:
                self._delete(path)

    @staticmethod
    def _list(checkpoint: int) -> str:
        return f"checkpoint_{checkpoint:08d}.json"

    def delete_views(self, keep: set[int]) -> None:
        """Delete all views but these, and temporary files left over by an interruption."""
        for generation in self.generations() - keep:
            self._delete(self.path(generation))
        for path in self.folder.glob("*.partial"):
            self._delete(path)

    def delete_view(self, generation: int) -> None:
        """Delete a view's file, if it is there."""
        self._delete(self.path(generation))

    def generations(self) -> set[int]:
        """Return the generations of all view files, readable or not."""
        numbers = (path.stem.removeprefix("view_") for path in self.folder.glob("view_*.safetensors"))
        return {int(number) for number in numbers if number.isdigit()}

    def write(self, name: str, content: bytes) -> None:
        """Write a file completely or not at all. Raises OSError."""
        path, partial = self.folder / name, self.folder / f"{name}.partial"
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        if hasattr(os, "O_DIRECTORY"):  # the rename itself must survive a power cut; Windows has no such call
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @staticmethod
    def _delete(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
