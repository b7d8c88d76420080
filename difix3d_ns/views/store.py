"""The pool's folder: immutable view files and small JSON lists, each complete or absent at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Sequence
from pathlib import Path

from difix3d_ns.io.atomic import remove_unfinished, write_bytes, write_json
from difix3d_ns.views.view import PackedView, decode, encode

PoolState = Sequence[tuple[str, int]]
"""Key and generation of each view of a pool, in order"""
STATE, RENDERED = "state", "rendered"
"""first parts of the keys under which a guidance keeps what it works with: tensors, and renders still to be refined"""


def is_internal(key: str) -> bool:
    """Return whether a key is of something that a guidance works with, and of no view to be learnt from or shown."""
    return key.partition("/")[0] in (STATE, RENDERED)


class Store:
    """Reader and writer of one folder.

    ``view_G.safetensors`` is the view taken at generation G and never changes; ``checkpoint_N.json`` lists the views
    the pool held when checkpoint N was made. An interruption leaves old or new, never half.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def prepare(self) -> None:
        """Make the folder if need be and try to write.

        Raises:
            OSError: it cannot be made or written; the message names it. A full disk is none: that may change.
        """
        try:
            write_json(self.folder / "writable.json", {})
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
        write_bytes(self.path(generation), encode(view))

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
        write_json(self.folder / self._list(checkpoint), state)

    def kept(self) -> dict[int, PoolState]:
        """Return what each checkpoint needs, by its number; unreadable lists are left out."""
        result: dict[int, PoolState] = {}
        for path in self.folder.glob("checkpoint_*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                listed = json.loads(path.read_text(encoding="utf-8"))
                number = int(path.stem.removeprefix("checkpoint_"))
                result[number] = [(str(key), int(generation)) for key, generation in listed]
        return result

    def newest(self) -> PoolState:
        """Return the views of the newest checkpoint; none where there is none, or where the folder was deleted."""
        kept = self.kept()
        return [(key, generation) for key, generation in kept[max(kept)] if not is_internal(key)] if kept else []

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
        """Delete all views but these, and unfinished files left by an interruption."""
        for generation in self.generations() - keep:
            self._delete(self.path(generation))
        remove_unfinished(self.folder)

    def delete_view(self, generation: int) -> None:
        """Delete a view's file, if it is there."""
        self._delete(self.path(generation))

    def generations(self) -> set[int]:
        """Return the generations of all view files, readable or not."""
        numbers = (path.stem.removeprefix("view_") for path in self.folder.glob("view_*.safetensors"))
        return {int(number) for number in numbers if number.isdigit()}

    @staticmethod
    def _delete(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
