"""The pool: training views up to a bound, in memory and on disk, safe against interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rich
import torch
from torch import Tensor

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import camera_spacing, pose_distances, stack_poses
from difix3d_ns.io.device_memory import free_memory, return_unused_memory
from difix3d_ns.io.recently_used import RecentlyUsed
from difix3d_ns.views.records import thumbnail
from difix3d_ns.views.store import PoolState, Store, is_internal
from difix3d_ns.views.view import PackedView, TrainView, pack

_RAM_BYTES = {"cpu": 2**30, "cuda": 2**32}
"""By the device of training. 1 GiB is some 800 views of 480 x 320 pixels or 64 of 1920 x 1080, small beside what
training itself needs in the same memory. A GPU has splat and photographs in its own, and all 256 views fit 4 GiB."""
_DEVICE_SHARE = 0.25
"""of what the device has free, for views that lie there: the splat may still grow, and a round needs room"""


@dataclass(frozen=True)
class Entry:
    """A view's facts, known without reading its picture."""

    key: str
    camera: Pinhole
    generation: int  # number of its file, counted up with each view taken
    confidence: float  # mean over its pixels


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
    a counter of the views taken. What ``is_internal`` is kept and found like views, but not counted, listed, drawn or
    given up. ``state()`` goes into a checkpoint and ``restore`` brings back exactly that pool,
    whatever was written after it. Not thread-safe: call it where training runs.
    """

    def __init__(
        self,
        capacity: int | None,
        folder: Path | None = None,
        evict: Evict = most_redundant,
        ram_bytes: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Make an empty pool.

        Args:
            capacity: most views held; the bound of the disk too, beside views that kept checkpoints still need. None:
                no view is ever given up.
            folder: beside, never inside, ``nerfstudio_models``; None keeps everything in memory, without resume.
                What lies in it already stays until ``prune``; see ``restore``.
            evict: which view a full pool gives up before it takes another.
            ram_bytes: views beyond this are read from the disk again when drawn (least recently used leave first);
                None: 1 GiB, or 4 GiB where the device is CUDA's.
            device: where views are drawn to. In a CUDA device's memory they stay, packed, as far as a quarter of what
                is free holds them.

        Raises:
            ValueError: no capacity.
            OSError: the folder cannot be written; the message names it.
        """
        if capacity is not None and capacity < 1:
            raise ValueError(f"the pool of training views needs a capacity of at least 1, got {capacity}")
        self.capacity = capacity
        self._evict = evict
        self._device = torch.device(device)
        self._ram_bytes = _RAM_BYTES[self._device.type] if ram_bytes is None else ram_bytes
        self._entries: dict[str, Entry] = {}  # by key, in the order in which keys first came
        self._held: RecentlyUsed[PackedView] = RecentlyUsed()  # in the CPU's memory
        self._there: RecentlyUsed[PackedView] = RecentlyUsed()  # in the device's
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
        return sum(not is_internal(key) for key in self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys of views, in the order in which they first came."""
        return iter([key for key in self._entries if not is_internal(key)])

    def put(self, view: TrainView) -> None:
        """Take a view, in the place of one with its key; else a full pool gives one up first.

        Raises:
            ValueError: picture, maps and camera differ in size.
        """
        packed = pack(view)
        gone, full = self._entries.get(view.key), self.capacity is not None and len(self) >= self.capacity
        if gone is None and full and not is_internal(view.key):
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
        return self._packed(key).unpack()

    def put_state(self, key: str, state: Mapping[str, Tensor]) -> None:
        """Keep tensors exactly, as a view of one pixel: then they are written and found as views are.

        Raises:
            ValueError: the key is not ``is_internal``.
        """
        if not is_internal(key):
            raise ValueError(f"{key} is a key of views")
        camera = Pinhole(torch.eye(4), torch.eye(3), 1, 1)
        self.put(TrainView(key, camera, torch.zeros(1, 1, 3), extra=dict(state)))

    def stored(self, key: str) -> TrainView | None:
        """Return a view as ``get`` does; None if there is none, or if it has become unreadable."""
        try:
            return self.get(key)
        except (KeyError, ValueError):
            return None

    def stored_state(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of ``put_state``; None if there are none, or if they have become unreadable."""
        kept = self.stored(key)
        return None if kept is None else dict(kept.extra)

    def thumbnail(self, key: str) -> np.ndarray:
        """Return a view's picture for people, uint8 [h, w, 3]; a black pixel where ``stored`` finds none."""
        view = self.stored(key)
        return np.zeros((1, 1, 3), np.uint8) if view is None else thumbnail(view.image)

    def sample(self, generator: torch.Generator | None = None) -> TrainView:
        """Draw a view uniformly, float32 on the pool's device; unreadable ones are dropped with a notice.

        Args:
            generator: torch's on the CPU; None draws from torch's global one.

        Raises:
            LookupError: the pool is empty.
        """
        while keys := list(self):
            view = self.drawn(keys[int(torch.randint(len(keys), (), generator=generator))])
            if view is not None:
                return view
        raise LookupError("the pool of training views is empty")

    def drawn(self, key: str) -> TrainView | None:
        """Return a view, float32 on the pool's device; an unreadable one is dropped with a notice, and None."""
        try:
            return self._packed_there(key).unpack()
        except ValueError as error:
            self._forget(key)
            _notice(f"a training view became unreadable and is left out: {error}")
            return None

    def entry(self, key: str) -> Entry:
        """Return the facts of a view. Raises KeyError: no such view."""
        return self._entries[key]

    def entries(self) -> list[Entry]:
        """Facts of all views, in the order of their keys."""
        return [self._entries[key] for key in self]

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
        self._entries, self._held, self._unsaved = {}, RecentlyUsed(), set()
        self.leave_device()
        lost = []
        for key, generation in sorted(state, key=lambda listed: listed[1]):  # what was oldest stays oldest
            try:
                packed = source.read_view(key, generation)
            except ValueError as error:
                lost.append(str(error))
                continue
            if own:
                self._hold(packed, generation)
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

    def leave_device(self) -> None:
        """Give up the device's memory that views take; they are sent there again when they are drawn."""
        self._there.clear()

    def _packed(self, key: str) -> PackedView:
        """Return a view on the CPU; raises as ``get`` does."""
        packed = self._held.get(key)
        if packed is None:
            generation = self._entries[key].generation
            assert self._store is not None
            packed = self._store.read_view(key, generation)
            self._remember(packed)
        return packed

    def _packed_there(self, key: str) -> PackedView:
        """Return a view on the pool's device; raises as ``get`` does."""
        packed = self._there.get(key)
        known = packed is not None
        if packed is None:
            packed = self._sent(key)
        if (free := free_memory(self._device)) is not None:  # which the splat takes more of from step to step
            own = self._there.nbytes + (0 if known else packed.nbytes)
            self._there.add(packed, int(_DEVICE_SHARE * (free + own)))
        return packed

    def _sent(self, key: str) -> PackedView:
        """Send a view to the device, where need be in the place of all others; raises as ``get`` does."""
        try:
            return self._packed(key).to(self._device)
        except torch.cuda.OutOfMemoryError:
            self.leave_device()
        return_unused_memory()
        return self._packed(key).to(self._device)

    def _take(self, packed: PackedView) -> None:
        self._generation += 1
        self._hold(packed, self._generation)
        self._save(packed.key)

    def _save(self, key: str) -> None:
        if not self._store:
            return
        try:
            packed = self._held.get(key)
            assert packed is not None  # unsaved, it never leaves memory
            self._store.write_view(packed, self._entries[key].generation)
            self._unsaved.discard(key)
        except OSError as error:
            self._unsaved.add(key)
            self._notice_unsaved(error)

    def _forget(self, key: str) -> Entry:
        self._held.drop(key)
        self._there.drop(key)
        self._unsaved.discard(key)
        return self._entries.pop(key)

    def _hold(self, packed: PackedView, generation: int) -> None:
        """List a view, in the place of one with its key, and keep it in the CPU's memory."""
        self._entries[packed.key] = Entry(packed.key, packed.camera, generation, packed.mean_confidence)
        self._there.drop(packed.key)
        self._remember(packed)

    def _remember(self, packed: PackedView) -> None:
        """Keep a view in the CPU's memory, and let the least recently used ones go; those without a file stay."""
        self._held.add(packed, self._ram_bytes, self._unsaved if self._store else self._entries)

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
