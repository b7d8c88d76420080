"""The pool: all pseudo-views of all rounds up to a bound, in memory and on disk, safe against interruption."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rich
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.pseudoviews.poses import pose_distances, spacing, stack_poses
from difix3d_ns.pseudoviews.store import Store
from difix3d_ns.pseudoviews.view import PackedView, PseudoView, pack

_RAM_BYTES = 2**30
"""1 GiB: some 800 views of 480 x 320 pixels or 64 of 1920 x 1080, small beside what training itself needs."""


@dataclass
class Entry:
    """What the pool knows of a view without reading its picture."""

    camera: Pinhole
    round: int
    target: int  # position in the list of targets
    generation: int  # when the pool took the view
    packed: PackedView | None  # None: on the disk alone

    @classmethod
    def of(cls, view: PackedView) -> Entry:
        """The entry of a view in memory."""
        return cls(view.camera, view.round, view.target, view.generation, view)


class Pool:
    """Pseudo-views to train on.

    A view has a key that stays when the view is replaced by a refreshed one, and a generation, counted up with every
    view taken. Files are immutable and named by generation; ``state()`` goes into a checkpoint and ``restore``
    brings back exactly that pool, whatever was written after it. Not thread-safe: call it where training runs.
    """

    def __init__(self, capacity: int, folder: Path | None = None, ram_bytes: int = _RAM_BYTES) -> None:
        """Make an empty pool.

        Args:
            capacity: most views held; the bound of the disk too, beside views that kept checkpoints still need.
            folder: beside, never inside, ``nerfstudio_models``; None keeps everything in memory, without resume.
                What lies in it already stays until ``prune``; see ``restore``.
            ram_bytes: views beyond this are read from the disk again when drawn (least recently used leave first).

        Raises:
            ValueError: no capacity.
            OSError: the folder cannot be written; the message names it.
        """
        if capacity < 1:
            raise ValueError(f"the pool of pseudo-views needs a capacity of at least 1, got {capacity}")
        self.capacity = capacity
        self._ram_bytes = ram_bytes
        self._store = Store(folder) if folder is not None else None
        self._entries: dict[int, Entry] = {}  # by key, in the order of adding
        self._ram: OrderedDict[int, None] = OrderedDict()  # keys in memory, least recently used first
        self._unsaved: set[int] = set()  # keys whose file could not be written
        self._next_key = 0
        kept = self._store.kept() if self._store else {}
        on_disk = self._store.generations() if self._store else set()
        self._generation = max([-1, *on_disk, *kept])  # never reuse a file's name
        self._needed: set[int] = set().union(*kept.values())
        self._noticed = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def generation(self) -> int:
        """Of the newest view taken; -1 before the first."""
        return self._generation

    def __iter__(self) -> Iterator[int]:
        """Keys, in the order in which the views were first added."""
        return iter(list(self._entries))

    def add(self, view: PseudoView) -> int:
        """Take a view; a full pool gives one up first: of the oldest round, the one most like another view.

        Returns:
            Its key.

        Raises:
            ValueError: picture, confidence and camera differ in size.
        """
        packed = pack(view)
        evicted = [self._forget(self._most_redundant())] if len(self) >= self.capacity else []
        key = self._next_key
        self._next_key += 1
        self._take(key, packed, evicted)
        return key

    def replace(self, key: int, view: PseudoView) -> None:
        """Put a refreshed view in the place of another.

        Raises:
            KeyError: no such view.
            ValueError: picture, confidence and camera differ in size.
        """
        if key not in self._entries:
            raise KeyError(f"no pseudo-view {key} in the pool")
        packed = pack(view)
        self._take(key, packed, [self._forget(key, keep_place=True)])

    def get(self, key: int) -> PseudoView:
        """The view, float32 on the CPU.

        Raises:
            KeyError: no such view.
            ValueError: its file has become unreadable; the message names it.
        """
        entry = self._entries[key]
        packed = entry.packed
        if packed is None:
            assert self._store is not None
            packed = entry.packed = self._store.read_view(entry.generation)
        self._ram[key] = None
        self._ram.move_to_end(key)
        self._trim()
        return packed.unpack()

    def sample(self, generator: torch.Generator | None = None) -> PseudoView:
        """A view drawn uniformly; unreadable ones are dropped with a notice.

        Args:
            generator: on the CPU; None draws from torch's global one, whose state a checkpoint keeps.

        Raises:
            LookupError: the pool is empty.
        """
        while self._entries:
            keys = list(self._entries)
            key = keys[int(torch.randint(len(keys), (), generator=generator))]
            try:
                return self.get(key)
            except ValueError as error:
                self._forget(key)
                _notice(f"a pseudo-view became unreadable and is left out: {error}")
        raise LookupError("the pool of pseudo-views is empty")

    def oldest(self) -> int | None:
        """Key of the view that was rendered longest ago, the next to refresh; None if the pool is empty."""
        return min(self._entries, key=lambda key: self._entries[key].generation, default=None)

    def entry(self, key: int) -> Entry:
        """Camera, round, target and generation of a view, without reading its picture.

        Raises:
            KeyError: no such view.
        """
        return self._entries[key]

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: generation and views. Plain numbers and lists.

        Call it where the checkpoint is made; the files it names stay until ``prune`` is told otherwise.
        """
        for key in sorted(self._unsaved):
            self._save(key)
        state = self._snapshot()
        if self._store:
            try:
                self._store.keep(state)
            except OSError as error:
                self._notice_unsaved(error)
            self._needed |= {entry[1] for entry in state["views"]}
        return state

    def prune(self, keep_generations: Iterable[int]) -> None:
        """Delete the views that neither the pool nor a kept checkpoint needs.

        Args:
            keep_generations: ``state()["generation"]`` of every checkpoint that is still there. Call it after older
                checkpoints were deleted.
        """
        if not self._store:
            return
        keep = set(keep_generations)
        self._store.forget(but=keep)
        self._needed = set().union(*self._store.kept().values())
        self._store.delete_views(self._needed | {entry.generation for entry in self._entries.values()})

    @classmethod
    def restore(cls, folder: Path, state: dict[str, Any] | None, capacity: int, ram_bytes: int = _RAM_BYTES) -> Pool:
        """The pool of a checkpoint; damaged or missing views are named in a notice and left out.

        Args:
            folder: of the pool.
            state: from the checkpoint; None takes what the folder's index says, or without one every readable view.
            capacity: may differ from the old one; the newest views stay.
            ram_bytes: as in the constructor.

        Raises:
            OSError: the folder cannot be written; the message names it.
        """
        pool = cls(capacity, folder, ram_bytes)
        assert pool._store is not None
        entries, next_key = pool._listed(state)
        lost = []
        for key, generation in entries:
            try:
                pool._entries[key] = Entry.of(pool._store.read_view(generation))
            except ValueError as error:
                lost.append(str(error))
                continue
            pool._ram[key] = None
            pool._trim()
        if state is not None and pool._generation > int(state["generation"]):
            pool._generation += 1  # another branch: its checkpoints keep their own lists
        pool._next_key = max([next_key, *(key + 1 for key in pool._entries)])
        if lost:
            _notice(
                f"{len(lost)} of {len(entries)} pseudo-views cannot be read and are left out; training goes on with "
                "the others:\n  " + "\n  ".join(lost)
            )
        while len(pool) > capacity:
            pool._forget(pool._most_redundant())
        return pool

    def _listed(self, state: dict[str, Any] | None) -> tuple[list[tuple[int, int]], int]:
        """Keys and generations of the views to restore, and the next key."""
        assert self._store is not None
        if state is None:
            try:
                state = self._store.read_index()
            except ValueError as error:
                found = sorted(self._store.generations())
                if found:
                    _notice(f"the index of the pseudo-views is unreadable, taking all {len(found)} views: {error}")
                return list(enumerate(found)), len(found)
        return [(int(entry[0]), int(entry[1])) for entry in state["views"]], int(state.get("next_key", 0))

    def _snapshot(self) -> dict[str, Any]:
        views = [[key, e.generation, e.round, e.target] for key, e in self._entries.items() if key not in self._unsaved]
        return {"generation": self._generation, "next_key": self._next_key, "views": views}

    def _take(self, key: int, packed: PackedView, gone: list[int]) -> None:
        self._generation += 1
        self._entries[key] = Entry.of(replace(packed, generation=self._generation))
        self._ram[key] = None
        self._ram.move_to_end(key)
        self._save(key)
        # The index first: without it a file that is gone would be missed.
        for generation in gone:
            if self._store and generation not in self._needed and key not in self._unsaved:
                self._store.delete_view(generation)
        self._trim()

    def _save(self, key: int) -> None:
        if not self._store:
            return
        packed = self._entries[key].packed
        assert packed is not None  # an unsaved view never leaves the memory
        self._unsaved.add(key)
        try:
            self._store.write_view(packed)
            self._unsaved.discard(key)
            self._store.write_index(self._snapshot())
        except OSError as error:
            self._notice_unsaved(error)

    def _forget(self, key: int, keep_place: bool = False) -> int:
        generation = self._entries[key].generation
        if not keep_place:
            del self._entries[key]
        self._ram.pop(key, None)
        self._unsaved.discard(key)
        return generation

    def _trim(self) -> None:
        """Let the least recently used views go from memory; those without a file stay."""
        if not self._store:
            return
        held = {key: packed.nbytes for key in self._ram if (packed := self._entries[key].packed)}
        total = sum(held.values())
        for key in [key for key in held if key not in self._unsaved][:-1]:
            if total <= self._ram_bytes:
                return
            total -= held[key]
            self._entries[key].packed = None
            del self._ram[key]

    def _most_redundant(self) -> int:
        """Of the oldest round, the key of the view whose pose is most like another's."""
        keys = list(self._entries)
        first = min(entry.round for entry in self._entries.values())
        old = [i for i, key in enumerate(keys) if self._entries[key].round == first]
        poses = stack_poses([self._entries[key].camera for key in keys])
        distances = pose_distances(poses[old], poses, spacing(poses))
        distances[torch.arange(len(old)), old] = torch.inf
        return keys[old[int(distances.amin(1).argmin())]]

    def _notice_unsaved(self, error: OSError) -> None:
        if not self._noticed:
            self._noticed = True
            assert self._store is not None
            _notice(
                f"{self._store.folder}: pseudo-views cannot be saved ({error.strerror or error}); they stay in memory "
                "and training goes on, but a resumed run will miss them: make room on the disk"
            )


def _notice(text: str) -> None:
    rich.get_console().print(f"Notice: {text}", markup=False, highlight=False, soft_wrap=True)
