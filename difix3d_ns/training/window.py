"""Prepared samples that a process draws from: all of them if they fit into memory, else a sliding window."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Generator
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from difix3d_ns.data.shards import Sample, keys_of, read_shards
from difix3d_ns.errors import UserError
from difix3d_ns.training.crops import integer

Prepare = Callable[[Sample], Any]


class Stream(IterableDataset):
    """This process' share of the samples, one epoch after the other without end, each in another order of the shards.

    Sample number n of process r of P is number n * P + r of all. The order does not depend on the number of workers.

    Args:
        shards: of the split.
        prepare: reduces a sample to what is kept of it.
        seed: of the orders.
        rank, processes: share number ``rank`` of so many.
    """

    def __init__(self, shards: Sequence[Path], prepare: Prepare, seed: int, rank: int = 0, processes: int = 1):
        self._shards, self._prepare, self._seed = list(shards), prepare, seed
        self._rank, self._processes = rank, processes
        self._counts = [len(keys_of(shard)) for shard in shards]
        self.total = sum(self._counts)
        """Samples of an epoch, of all processes."""
        self.start = 0
        if self.total < processes:
            raise UserError(f"{self.total} training samples are too few for {processes} processes: make more")

    @property
    def fingerprint(self) -> str:
        """Hash of the names and sizes of all shards."""
        names = [f"{shard.parent.name}/{shard.name} {n}" for shard, n in zip(self._shards, self._counts, strict=True)]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    @property
    def share(self) -> int:
        """Samples of the first epoch for this process."""
        return len(range(self._rank, self.total, self._processes))

    def from_sample(self, start: int, workers: int) -> Iterator[tuple[str, Any]]:
        """Keys and prepared samples from this process' sample number ``start`` on."""
        self.start = start
        loader = DataLoader(self, batch_size=None, num_workers=workers, collate_fn=_unchanged)
        for key, prepared in loader:
            # What another process prepared lies in shared memory, of which a system has few pieces.
            yield key, recursively_apply(torch.clone, prepared) if workers else prepared

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = (self.start + mine) * self._processes + self._rank
        step = workers * self._processes
        epoch, wanted = divmod(first, self.total)
        while True:
            for number, sample in self._epoch(epoch, wanted):
                if number == wanted:
                    yield sample.key, self._prepare(sample)
                    wanted += step
            epoch, wanted = epoch + 1, wanted - self.total

    def _epoch(self, epoch: int, skip: int) -> Iterator[tuple[int, Sample]]:
        """Numbered samples; whole shards before number ``skip`` are not read."""
        generator = Generator().manual_seed(self._seed * 1_000_003 + epoch)
        start = 0
        for index in torch.randperm(len(self._shards), generator=generator).tolist():
            if start + self._counts[index] > skip:
                yield from enumerate(read_shards([self._shards[index]]), start)
            start += self._counts[index]


class Window:
    """Consecutive samples of a stream.

    Args:
        stream: what it slides over.
        memory: GiB; the window ends before it is exceeded.
        workers: processes that prepare samples.
        on_sample: called after each that is prepared while filling.
    """

    def __init__(self, stream: Stream, memory: float, workers: int, on_sample: Callable[[], object] = lambda: None):
        self._stream, self._workers, self._on_sample = stream, workers, on_sample
        self._limit = memory * 2**30
        self._samples: deque[tuple[str, Any]] = deque()
        self._next: Iterator[tuple[str, Any]] = iter(())
        self.first = 0
        """Number of the first sample held."""

    def __len__(self) -> int:
        return len(self._samples)

    def fill(self, first: int = 0, count: int | None = None) -> bool:
        """Begin again at a sample.

        Args:
            first: its number.
            count: how many to hold; None for as many as fit.

        Returns:
            True if it holds all samples of this process.
        """
        self.first = first
        self._samples.clear()
        self._next = self._stream.from_sample(first, self._workers)
        size = 0
        for item in self._next:
            self._samples.append(item)
            self._on_sample()
            size += _bytes(item[1])
            enough = len(self) >= count if count else size + size / len(self) > self._limit
            if enough or len(self) == self._stream.share:
                break
        whole = first == 0 and len(self) == self._stream.share
        if whole:
            self._next = iter(())  # its workers end
        return whole

    def shrink(self, count: int) -> None:
        """Hold only the first ``count``: as many as every other process."""
        while len(self) > count:
            self._samples.pop()
        self._next = self._stream.from_sample(self.first + len(self), self._workers)

    def slide(self, first: int) -> None:
        """Drop the samples before one and take in as many new ones."""
        while self.first < first:
            self._samples.append(next(self._next))
            self._samples.popleft()
            self.first += 1

    def pick(self, count: int, generator: Generator) -> tuple[list[str], list[Any]]:
        """Keys and prepared samples, each drawn from all that are held."""
        chosen = [self._samples[integer(len(self), generator)] for _ in range(count)]
        return [key for key, _ in chosen], [prepared for _, prepared in chosen]


def _unchanged(item: Any) -> Any:
    return item


def _bytes(prepared: Any) -> int:
    sizes: list[int] = []
    recursively_apply(lambda tensor: sizes.append(tensor.nbytes), prepared)
    return sum(sizes)
