"""Messages, curves and records of views that are made."""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path

import torch

from difix3d_ns.guidance.status import ShownView
from difix3d_ns.io.run import Tracker
from difix3d_ns.views.pool import Entry, Pool
from difix3d_ns.views.records import LATEST, RecordHead, ViewRecord, ViewRecords, mean_numbers, newest


class ViewTracker:
    """Follower of rounds of made views, whatever makes them.

    Args:
        tracker: of the training.
        records: where a record of each view is kept.
        prefix: of the names of curves and pictures, "Pseudo-views".
        verb: what is done to a view, in the past.
    """

    def __init__(self, tracker: Tracker, records: ViewRecords, prefix: str, verb: str = "made") -> None:
        self._tracker = tracker
        self._records = records
        self._prefix = prefix
        self._verb = verb
        self.latest: deque[ViewRecord] = deque(maxlen=LATEST)
        self.heads: dict[str, RecordHead] = {}  # what was made last, by key of the view
        self.round: list[RecordHead] = []  # what was made in this round

    def begin(self, message: str) -> None:
        """Announce a round."""
        self.round = []
        self._tracker.log(message)

    def made(self, record: ViewRecord) -> None:
        """Keep the record of a view that was made."""
        self._records.write(record)
        self.latest.append(record)
        self.heads[record.key] = record.head
        self.round.append(record.head)
        sheet = torch.from_numpy(record.sheet[::2, ::2].copy()).float() / 255  # the whole one is in the records
        self._tracker.image(f"{self._prefix}/{', '.join(record.panels)}: {record.title}", sheet, record.step)

    def progress(self, label: str, left: int) -> None:
        """Report how many views are left, after one was made."""
        pace = self._seconds / len(self.round)
        self._tracker.log(f"{label}: {len(self.round)} {self._verb}, {left} to go, {pace:.2f} s per view")

    def end(self, label: str, step: int, pool: int) -> None:
        """Report the end of a round with the number of views in the pool, and the means of the round's numbers."""
        self._tracker.scalar(f"{self._prefix}/pool", pool, step)
        for name, value in mean_numbers(self.round).items():
            self._tracker.scalar(f"{self._prefix}/mean {name}", value, step)
        self._tracker.log(f"{label} done in {self._seconds:.0f} s: pool of {pool}")

    def recall(self, folder: Path, step: int) -> None:
        """Continue the records of the training this one goes on from."""
        self._records.adopt(folder, step)
        self.heads |= newest(self._records.heads())
        self.latest.extend(self._records.latest(LATEST))

    def shown(self, entry: Entry, pool: Pool) -> ShownView:
        """Return a view of the pool as people see it, with what its record says."""
        head = self.heads.get(entry.key)
        names, group = ((), "") if head is None else (head.references, head.group)
        return ShownView(entry.key, entry.generation, entry.camera, partial(pool.thumbnail, entry.key), names, group)

    @property
    def _seconds(self) -> float:
        """Return what the views of this round took."""
        return sum(head.seconds for head in self.round)
