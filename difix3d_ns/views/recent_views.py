"""Packed views in one memory: the CPU's or a device's. Those used least recently leave first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from difix3d_ns.views.view import PackedView


class RecentViews:
    """Packed views by key, in the order in which they were used."""

    def __init__(self) -> None:
        self._views: OrderedDict[str, PackedView] = OrderedDict()  # least recently used first
        self.nbytes = 0
        """of all views"""

    def __len__(self) -> int:
        return len(self._views)

    def get(self, key: str) -> PackedView | None:
        """Return a view, which is now the most recently used one; None if it is not here."""
        if key in self._views:
            self._views.move_to_end(key)
        return self._views.get(key)

    def add(self, view: PackedView, limit: int, stay: Collection[str] = ()) -> None:
        """Take a view, in the place of one with its key, and let others go until all take ``limit`` bytes.

        Args:
            view: stays, whatever it takes.
            limit: bytes.
            stay: keys of further views that do not go.
        """
        self.drop(view.key)
        self._views[view.key] = view
        self.nbytes += view.nbytes
        for key in list(self._views)[:-1]:
            if self.nbytes <= limit:
                return
            if key not in stay:
                self.drop(key)

    def drop(self, key: str) -> None:
        """Let a view go, if it is here."""
        if key in self._views:
            self.nbytes -= self._views.pop(key).nbytes

    def clear(self) -> None:
        """Let all views go."""
        self._views.clear()
        self.nbytes = 0
