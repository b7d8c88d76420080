"""Messages and curves about views that are made, and a record of each."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import torch

from difix3d_ns.guidance.fixing import MIN_CONFIDENCE, FixedView
from difix3d_ns.io.run import Tracker
from difix3d_ns.views.records import LATEST, FixRecord, FixRecords, record_fix

_PANELS = "before, after, reference, confidence of target"


class FixTracker:
    """Follower of rounds of repaired views.

    Args:
        tracker: of the training.
        records: where a record of each view is kept.
        names: of the photographs.
    """

    def __init__(self, tracker: Tracker, records: FixRecords, names: list[str]) -> None:
        self._tracker = tracker
        self._records = records
        self._names = names
        self.latest: deque[FixRecord] = deque(maxlen=LATEST)
        self.references: dict[str, tuple[str, ...]] = {}  # by key of the view
        self._seconds, self._views, self._change, self._teach_nothing = 0.0, 0, 0.0, 0

    def begin(self, message: str) -> None:
        """Announce a round."""
        self._seconds, self._views, self._change, self._teach_nothing = 0.0, 0, 0.0, 0
        self._tracker.log(message)

    def made(self, number: int, target: int, step: int, view: FixedView) -> None:
        """Record a view that was made in round ``number``."""
        request, result = view.request, view.result
        record = record_fix(
            *(number, target, step, tuple(self._names[index] for index in view.references), view.seconds),
            *(request.image, result.image, result.confidence),
            request.references[0].image if request.references else None,
        )
        self._seconds += view.seconds
        self._views += 1
        self._change += record.change
        self._teach_nothing += record.mean_confidence < MIN_CONFIDENCE
        self._records.write(record)
        self.latest.append(record)
        self.references[record.key] = record.references
        panels = torch.from_numpy(record.panels[::2, ::2].copy()).float() / 255  # the whole one is in the records
        self._tracker.image(f"Pseudo-views/{_PANELS} {target:03d}", panels, step)

    def progress(self, label: str, left: int) -> None:
        """Report how many views are left."""
        self._tracker.log(f"{label}: {self._views} fixed, {left} to go, {self._seconds / self._views:.2f} s per view")

    def end(self, label: str, step: int, pool: int) -> None:
        """Report the end of a round."""
        self._tracker.scalar("Pseudo-views/pool", pool, step)
        self._tracker.scalar("Pseudo-views/mean change", self._change / max(1, self._views), step)
        self._tracker.log(f"{label} done in {self._seconds:.0f} s: pool of {pool}")
        if self._teach_nothing:
            self._tracker.log(
                f"[yellow]{label}: {self._teach_nothing} of {self._views} pseudo-views teach nothing, since the fixer "
                "has no confidence in them: no reference photo shows what they show."
            )

    def recall(self, folder: Path, step: int) -> None:
        """Continue the records of the training this one goes on from."""
        self._records.adopt(folder, step)
        self.references |= self._records.references()
        self.latest.extend(self._records.latest(LATEST))
