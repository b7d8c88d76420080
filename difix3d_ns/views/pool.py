"""The pool: training views up to a bound, in memory and on disk, safe against interruption."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rich
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.views.store import Store
from difix3d_ns.views.view import PackedView, TrainView, pack

_RAM_BYTES = 2**30
"""1 GiB: some 800 views of 480 x 320 pixels or 64 of 1920 x 1080, small beside what training itself needs."""


@dataclass
class Entry:
    """What the pool knows of a view without reading its picture."""

    key: str
    camera: Pinhole
    generation: int  # when the pool took the view
    packed: PackedView | None  # None: on the disk alone

    @classmethod
    def of(cls, view: PackedView) -> Entry:
        """The entry of a view in memory."""
        return cls(view.key, view.camera, view.generation, view)


Evict = Callable[[Sequence[Entry]], str]
"""Which view a full pool gives up, by key; the guidance's rule."""


def most_redundant(entries: Sequence[Entry], among: Sequence[Entry] | None = None) -> str:
    """Key of the view whose pose is most like another's.

    Args:
        entries: all views.
        among: those of them one of which is wanted; None: any.
    """
    among = entries if among is None else among
    places = {entry.key: place for place, entry in enumerate(entries)}
    rows = [places[entry.key] for entry in among]
    poses = stack_poses([entry.camera for entry in entries])
    distances = pose_distances(poses[rows], poses, camera_spacing(poses))
    distances[torch.arange(len(rows)), rows] = torch.inf
    return among[int(distances.amin(1).argmin())].key


class Pool:
    """Views to train on, by key.

    A view put under a key that is taken replaces the old one in its place. Each view taken gets a generation, counted
    up. Files are immutable and named by generation; ``state()`` goes into a checkpoint and ``restore`` brings back
    exactly that pool, whatever was written after it. Not thread-safe: call it where training runs.
    """

    def __init__(
        self,
        capacity: int | None,
        folder: Path | None = None,
        evict: Evict = most_redundant,
        ram_bytes: int = _RAM_BYTES,
    ) -> None:
        """Make an empty pool.

        Args:
            capacity: most views held; the bound of the disk too, beside views that kept checkpoints still need. None:
                no view is ever given up.
            folder: beside, never inside, ``nerfstudio_models``; None keeps everything in memory, without resume.
                What lies in it already stays until ``prune``; see ``restore``.
            evict: which view a full pool gives up before it takes another.
            ram_bytes: views beyond this are read from the disk again when drawn (least recently used leave first).

        Raises:
            ValueError: no capacity.
            OSError: the folder cannot be written; the message names it.
        """
        if capacity is not None and capacity < 1:
            raise ValueError(f"the pool of training views needs a capacity of at least 1, got {capacity}")
        self.capacity = capacity
        self._evict = evict
        self._ram_bytes = ram_bytes
        self._store = Store(folder) if folder is not None else None
        if self._store:
            self._store.prepare()
        self._entries: dict[str, Entry] = {}  # by key, in the order in which keys first came
        self._ram: OrderedDict[str, None] = OrderedDict()  # keys in memory, least recently used first
        self._unsaved: set[str] = set()  # keys whose file could not be written
        kept = self._store.kept() if self._store else {}
        on_disk = self._store.generations() if self._store else set()
        self._needed: set[int] = set().union(*kept.values())  # generations checkpoints need
        self._generation = max([-1, *on_disk, *self._needed])  # never reuse a file's name
        self._noticed = False

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    @property
    def generation(self) -> int:
        """Generation of the newest view taken; -1 before the first."""
        return self._generation

    def __iter__(self) -> Iterator[str]:
        """Keys, in the order in which they first came."""
        return iter(list(self._entries))

    def put(self, view: TrainView) -> None:
        """Take a view, in the place of one with its key; else a full pool gives one up first.

        Raises:
            ValueError: picture, maps and camera differ in size.
        """
        packed = pack(view)
        gone = []
        if view.key in self._entries:
            gone.append(self._forget(view.key, keep_place=True))
        elif self.capacity is not None and len(self) >= self.capacity:
            gone.append(self._forget(self._evict(self.entries())))
        self._take(packed, gone)

    def get(self, key: str) -> TrainView:
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

    def sample(self, generator: torch.Generator | None = None) -> TrainView:
        """A view drawn uniformly; unreadable ones are dropped with a notice.

        Args:
            generator: torch's on the CPU; None draws from torch's global one.

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
                _notice(f"a training view became unreadable and is left out: {error}")
        raise LookupError("the pool of training views is empty")

    def entries(self) -> list[Entry]:
        """Key, camera and generation of all views, in the order of their keys."""
        return list(self._entries.values())

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
        entries = _listed(source, state)
        self._entries, self._ram, self._unsaved = {}, OrderedDict(), set()
        lost = []
        for key, generation in sorted(entries, key=lambda entry: entry[1]):  # what was oldest stays oldest
            try:
                packed = source.read_view(generation)
            except ValueError as error:
                lost.append(str(error))
                continue
            key = packed.key
            if own:
                self._entries[key] = Entry.of(packed)
                self._ram[key] = None
                self._trim()
            else:
                self._take(packed, [])
        self._entries = {key: self._entries[key] for key, _ in entries if key in self._entries}
        if lost:
            _notice(
                f"{len(lost)} of {len(entries)} training views cannot be read and are left out; training goes on with "
                "the others:\n  " + "\n  ".join(lost)
            )
        while self.capacity is not None and len(self) > self.capacity:
            self._forget(self._evict(self.entries()))
        if own and state is not None and self._generation > int(state["generation"]):
            self._generation += 1  # another branch: its checkpoints keep their own lists

    def _snapshot(self) -> dict[str, Any]:
        views = [[key, entry.generation] for key, entry in self._entries.items() if key not in self._unsaved]
        return {"generation": self._generation, "views": views}

    def _take(self, packed: PackedView, gone: list[int]) -> None:
        key = packed.key
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

    def _save(self, key: str) -> None:
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

    def _forget(self, key: str, keep_place: bool = False) -> int:
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

    def _notice_unsaved(self, error: OSError) -> None:
        if not self._noticed:
            self._noticed = True
            assert self._store is not None
            _notice(
                f"{self._store.folder}: training views cannot be saved ({error.strerror or error}); they stay in "
                "memory and training goes on, but a resumed run will miss them: make room on the disk"
            )


def _listed(source: Store, state: dict[str, Any] | None) -> list[tuple[str, int]]:
    """Keys and generations of the views to restore; keys of unlisted files are read with them."""
    if state is None:
        try:
            state = source.read_index()
        except ValueError as error:
            found = sorted(source.generations())
            if found:
                _notice(f"the index of the training views is unreadable, taking all {len(found)} views: {error}")
            return _newest(source, found)
    return [(str(entry[0]), int(entry[1])) for entry in state["views"]]


def _newest(source: Store, generations: Sequence[int]) -> list[tuple[str, int]]:
    """Keys of view files, each with its newest generation; what cannot be read keeps a name of its own."""
    newest: dict[str, int] = {}
    for generation in generations:
        try:
            newest[source.read_view(generation).key] = generation
        except ValueError:
            newest[f"unreadable/{generation}"] = generation
    return list(newest.items())


def _notice(text: str) -> None:
    rich.get_console().print(f"Notice: {text}", markup=False, highlight=False, soft_wrap=True)
