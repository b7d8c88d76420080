"""The pool's folder: immutable view files and small JSON indices, each complete or absent at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
from pathlib import Path
from typing import Any

from difix3d_ns.io.atomic import remove_unfinished, write_bytes, write_json
from difix3d_ns.views.view import PackedView, decode, encode

_INDEX = "index.json"


class Store:
    """Reads and writes one folder.

    ``view_G.safetensors`` is the view taken at generation G and never changes. ``index.json`` lists the views the pool
    holds now, ``checkpoint_N.json`` those it held when checkpoint N was made. An interruption leaves old or new, never
    half.
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
        """Of a view's file."""
        return self.folder / f"view_{generation:08d}.safetensors"

    def write_view(self, view: PackedView) -> None:
        """Raises OSError, for instance on a full disk, and then leaves nothing behind."""
        write_bytes(self.path(view.generation), encode(view))

    def read_view(self, generation: int) -> PackedView:
        """Raises ValueError naming the file if it is missing or damaged."""
        path = self.path(generation)
        try:
            view = decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        if view.generation != generation:
            raise ValueError(f"{path}: holds the view of generation {view.generation}")
        return view

    def write_index(self, state: dict[str, Any], name: str = _INDEX) -> None:
        """Raises OSError."""
        write_json(self.folder / name, state)

    def read_index(self, name: str = _INDEX) -> dict[str, Any]:
        """Raises ValueError naming the file if it is missing or damaged."""
        path = self.folder / name
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            [(str(key), int(number)) for key, number in state["views"]]
            int(state["generation"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error
        return state

    def keep(self, state: dict[str, Any], checkpoint: int) -> None:
        """Remember what a checkpoint needs. Raises OSError."""
        self.write_index(state, self._list(checkpoint))

    def kept(self) -> dict[int, set[int]]:
        """Number of a checkpoint -> generations of the views it needs; unreadable lists are left out."""
        result = {}
        for path in self.folder.glob("checkpoint_*.json"):
            number = path.stem.removeprefix("checkpoint_")
            with contextlib.suppress(ValueError):
                result[int(number)] = {entry[1] for entry in self.read_index(path.name)["views"]}
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
        """Delete all views but these, and unfinished files left by an interruption."""
        for generation in self.generations() - keep:
            self._delete(self.path(generation))
        remove_unfinished(self.folder)

    def delete_view(self, generation: int) -> None:
        """Delete one view's file, if it is there."""
        self._delete(self.path(generation))

    def generations(self) -> set[int]:
        """Of all view files, readable or not."""
        numbers = (path.stem.removeprefix("view_") for path in self.folder.glob("view_*.safetensors"))
        return {int(number) for number in numbers if number.isdigit()}

    @staticmethod
    def _delete(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
