"""The pool: training views up to a bound, in memory and on disk, safe against interruption."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import rich
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.views.store import PoolState, Store
from difix3d_ns.views.view import PackedView, TrainView, pack

_RAM_BYTES = 2**30
"""1 GiB: some 800 views of 480 x 320 pixels or 64 of 1920 x 1080, small beside what training itself needs."""


@dataclass(frozen=True)
class Entry:
    """A view's facts, known without reading its picture."""

    key: str
    camera: Pinhole
    generation: int  # number of its file, counted up with each view taken


Evict = Callable[[Sequence[Entry]], str]
"""Choose the view a full pool gives up, by key; the guidance's rule."""


def most_redundant(entries: Sequence[Entry], among: Sequence[Entry] | None = None) -> str:
    """Return the key of the view whose pose is most like another's.

    Args:
        entries: all views.
        among: those of them to choose from; None: all.
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

    A view put under a key that is taken replaces the old one in its place. Files are immutable and named by generation,
    a counter of the views taken; ``state()`` goes into a checkpoint and ``restore`` brings back exactly that pool,
    whatever was written after it. Not thread-safe: call it where training runs.
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
        self._entries: dict[str, Entry] = {}  # by key, in the order in which keys first came
        self._held: OrderedDict[str, PackedView] = OrderedDict()  # in memory, least recently used first
        self._unsaved: set[str] = set()  # keys whose file could not be written
        self._noticed = False
        self._store = Store(folder) if folder is not None else None
        self._needed: set[int] = set()  # generations checkpoints need
        self._generation = -1
        if self._store:
            self._store.prepare()
            self._needed = _generations(self._store.kept().values())
            self._generation = max([-1, *self._store.generations(), *self._needed])  # never reuse a file's name

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys, in the order in which they first came."""
        return iter(list(self._entries))

    def put(self, view: TrainView) -> None:
        """Take a view, in the place of one with its key; else a full pool gives one up first.

        Raises:
            ValueError: picture, maps and camera differ in size.
        """
        packed = pack(view)
        gone = self._entries.get(view.key)
        if gone is None and self.capacity is not None and len(self) >= self.capacity:
            gone = self._forget(self._evict(self.entries()))
        self._take(packed)
        if self._store and gone and gone.generation not in self._needed and view.key not in self._unsaved:
            self._store.delete_view(gone.generation)

    def get(self, key: str) -> TrainView:
        """Return a view, float32 on the CPU.

        Raises:
            KeyError: no such view.
            ValueError: its file has become unreadable; the message names it.
        """
        entry = self._entries[key]
        packed = self._held.get(key)
        if packed is None:
            assert self._store is not None
            packed = self._store.read_view(key, entry.generation)
        self._hold(packed)
        return packed.unpack()

    def sample(self, generator: torch.Generator | None = None) -> TrainView:
        """Draw a view uniformly; unreadable ones are dropped with a notice.

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

    def state(self, checkpoint: int) -> PoolState:
        """Return what a checkpoint has to hold: key and generation of each view, in order.

        Call it where the checkpoint is made; the files it names stay until a ``prune`` without this checkpoint.

        Args:
            checkpoint: the number under which ``prune`` will know it, the training step.
        """
        for key in sorted(self._unsaved):
            self._save(key)
        state = [(key, entry.generation) for key, entry in self._entries.items() if key not in self._unsaved]
        if self._store:
            try:
                self._store.keep(state, checkpoint)
            except OSError as error:
                self._notice_unsaved(error)
            self._needed |= _generations([state])
        return state

    def prune(self, keep: Iterable[int]) -> None:
        """Delete the views that neither the pool nor a kept checkpoint needs. Call it after checkpoints were deleted.

        Where the folder has no list for a kept checkpoint (say, the disk was full), nothing is deleted.

        Args:
            keep: numbers of all checkpoints that are still there, as given to ``state``.
        """
        if not self._store:
            return
        numbers = set(keep)
        kept = self._store.kept()
        if not numbers <= kept.keys():
            return
        self._store.forget(but=numbers)
        self._needed = _generations(kept[number] for number in numbers)
        self._store.delete_views(self._needed | {entry.generation for entry in self._entries.values()})

    def restore(self, folder: Path, state: PoolState) -> None:
        """Hold the views of a checkpoint instead of the present ones.

        Damaged or missing views are named in a notice and left out. If the capacity is smaller than it was, views are
        given up by the guidance's rule.

        Args:
            folder: of the pool the checkpoint belongs to. Views of another folder than this pool's are written to its
                own, so that the other run may be deleted.
            state: from the checkpoint.
        """
        source = Store(folder)
        own = self._store is not None and source.folder.resolve() == self._store.folder.resolve()
        self._entries, self._held, self._unsaved = {}, OrderedDict(), set()
        lost = []
        for key, generation in sorted(state, key=lambda listed: listed[1]):  # what was oldest stays oldest
            try:
                packed = source.read_view(key, generation)
            except ValueError as error:
                lost.append(str(error))
                continue
            if own:
                self._entries[key] = Entry(key, packed.camera, generation)
                self._hold(packed)
            else:
                self._take(packed)
        self._entries = {key: self._entries[key] for key, _ in state if key in self._entries}
        if lost:
            _notice(
                f"{len(lost)} of {len(state)} training views cannot be read and are left out; training goes on with "
                "the others:\n  " + "\n  ".join(lost)
            )
        while self.capacity is not None and len(self) > self.capacity:
            self._forget(self._evict(self.entries()))

    def _take(self, packed: PackedView) -> None:
        self._generation += 1
        self._entries[packed.key] = Entry(packed.key, packed.camera, self._generation)
        self._hold(packed)
        self._save(packed.key)

    def _save(self, key: str) -> None:
        if not self._store:
            return
        try:
            self._store.write_view(self._held[key], self._entries[key].generation)  # unsaved, it never leaves memory
            self._unsaved.discard(key)
        except OSError as error:
            self._unsaved.add(key)
            self._notice_unsaved(error)

    def _forget(self, key: str) -> Entry:
        self._held.pop(key, None)
        self._unsaved.discard(key)
        return self._entries.pop(key)

    def _hold(self, packed: PackedView) -> None:
        """Keep a view in memory, and let the least recently used ones go; those without a file stay."""
        self._held[packed.key] = packed
        self._held.move_to_end(packed.key)
        if not self._store:
            return
        total = sum(view.nbytes for view in self._held.values())
        staying = self._unsaved | {packed.key}
        for key in [key for key in self._held if key not in staying]:
            if total <= self._ram_bytes:
                return
            total -= self._held.pop(key).nbytes

    def _notice_unsaved(self, error: OSError) -> None:
        if not self._noticed:
            self._noticed = True
            assert self._store is not None
            _notice(
                f"{self._store.folder}: training views cannot be saved ({error.strerror or error}); they stay in "
                "memory and training goes on, but a resumed run will miss them: make room on the disk"
            )


def _generations(states: Iterable[PoolState]) -> set[int]:
    return {generation for state in states for _, generation in state}


def _notice(text: str) -> None:
    rich.get_console().print(f"Notice: {text}", markup=False, highlight=False, soft_wrap=True)
