"""The pool: all pseudo-views of all rounds up to a bound, in memory and on disk, safe against interruption."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rich
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import pose_distances, spacing, stack_poses
from difix3d_ns.views.store import Store
from difix3d_ns.views.view import PackedView, PseudoView, pack

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
        if self._store:
            self._store.prepare()
        self._entries: dict[int, Entry] = {}  # by key, in the order of adding
        self._ram: OrderedDict[int, None] = OrderedDict()  # keys in memory, least recently used first
        self._unsaved: set[int] = set()  # keys whose file could not be written
        self._next_key = 0
        kept = self._store.kept() if self._store else {}
        on_disk = self._store.generations() if self._store else set()
        self._needed: set[int] = set().union(*kept.values())  # generations checkpoints need
        self._generation = max([-1, *on_disk, *self._needed])  # never reuse a file's name
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

    def put(self, view: PseudoView) -> int:
        """Take a view; it replaces the one of the same round and target, if there is one.

        Returns:
            Its key.

        Raises:
            ValueError: picture, confidence and camera differ in size.
        """
        for key, entry in self._entries.items():
            if (entry.round, entry.target) == (view.round, view.target):
                self.replace(key, view)
                return key
        return self.add(view)

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

    def sample(self, generator: torch.Generator | random.Random | None = None) -> PseudoView:
        """A view drawn uniformly; unreadable ones are dropped with a notice.

        Args:
            generator: torch's on the CPU or Python's; None draws from torch's global one.

        Raises:
            LookupError: the pool is empty.
        """
        while self._entries:
            keys = list(self._entries)
            if isinstance(generator, random.Random):
                key = generator.choice(keys)
            else:
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

    def views(self) -> list[Entry]:
        """Camera, round, target and generation of all views, in the order of their keys."""
        return list(self._entries.values())

    def entry(self, key: int) -> Entry:
        """Camera, round, target and generation of a view, without reading its picture.

        Raises:
            KeyError: no such view.
        """
        return self._entries[key]

    def state(self, checkpoint: int | None = None) -> dict[str, Any]:
        """What a checkpoint has to hold: generation and views. Plain numbers and lists.

        Call it where the checkpoint is made; the files it names stay until ``prune`` is told otherwise.

        Args:
            checkpoint: the number under which ``prune`` will know it, say the training step; None takes the generation.
        """
        for key in sorted(self._unsaved):
            self._save(key)
        state = self._snapshot()
        if self._store:
            try:
                self._store.keep(state, self._generation if checkpoint is None else checkpoint)
            except OSError as error:
                self._notice_unsaved(error)
            self._needed |= {entry[1] for entry in state["views"]}
        return state

    def prune(self, keep: Iterable[int]) -> None:
        """Delete the views that neither the pool nor a kept checkpoint needs. Call it after checkpoints were deleted.

        Where the folder has no list for a kept checkpoint (say, the disk was full), nothing is deleted.

        Args:
            keep: numbers of all checkpoints that are still there, as given to ``state`` or from its ``generation``.
        """
        if not self._store:
            return
        numbers = set(keep)
        kept = self._store.kept()
        if not numbers <= kept.keys():
            return
        self._store.forget(but=numbers)
        self._needed = set().union(*(kept[number] for number in numbers))
        self._store.delete_views(self._needed | {entry.generation for entry in self._entries.values()})

    def restore(self, folder: Path, state: dict[str, Any] | None) -> None:
        """Hold the views of a checkpoint instead of the present ones.

        Damaged or missing views are named in a notice and left out. If the capacity is smaller than it was, the newest
        rounds stay.

        Args:
            folder: of the pool the checkpoint belongs to. Views of another folder than this pool's are written to its
                own, so that the other run may be deleted.
            state: from the checkpoint; None takes what the folder's index says, or without one every readable view.
        """
        source = Store(folder)
        own = self._store is not None and source.folder.resolve() == self._store.folder.resolve()
        entries, next_key = _listed(source, state)
        self._entries, self._ram, self._unsaved = {}, OrderedDict(), set()
        lost = []
        for key, generation in sorted(entries, key=lambda entry: entry[1]):  # what was oldest stays oldest
            try:
                packed = source.read_view(generation)
            except ValueError as error:
                lost.append(str(error))
                continue
            if own:
                self._entries[key] = Entry.of(packed)
                self._ram[key] = None
                self._trim()
            else:
                self._take(key, packed, [])
        self._entries = {key: self._entries[key] for key, _ in entries if key in self._entries}
        self._next_key = max([next_key, *(key + 1 for key in self._entries)])
        if lost:
            _notice(
                f"{len(lost)} of {len(entries)} pseudo-views cannot be read and are left out; training goes on with "
                "the others:\n  " + "\n  ".join(lost)
            )
        while len(self) > self.capacity:
            self._forget(self._most_redundant())
        if own and state is not None and self._generation > int(state["generation"]):
            self._generation += 1  # another branch: its checkpoints keep their own lists

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


def _listed(source: Store, state: dict[str, Any] | None) -> tuple[list[tuple[int, int]], int]:
    """Keys and generations of the views to restore, and the next key."""
    if state is None:
        try:
            state = source.read_index()
        except ValueError as error:
            found = sorted(source.generations())
            if found:
                _notice(f"the index of the pseudo-views is unreadable, taking all {len(found)} views: {error}")
            return list(enumerate(found)), len(found)
    return [(int(entry[0]), int(entry[1])) for entry in state["views"]], int(state.get("next_key", 0))


def _notice(text: str) -> None:
    rich.get_console().print(f"Notice: {text}", markup=False, highlight=False, soft_wrap=True)
