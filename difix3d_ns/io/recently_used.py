"""Things held in one memory, such as packed views. Those used least recently leave first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Something that is known by a key, and takes memory."""

    @property
    def key(self) -> str:
        """Name, unique among those that are held."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        ...


Item = TypeVar("Item", bound=Sized)


class RecentlyUsed(Generic[Item]):
    """Items by key, in the order in which they were used."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, Item] = OrderedDict()  # least recently used first
        self.nbytes = 0
        """of all items"""

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> Item | None:
        """Return an item, which is now the most recently used one; None if it is not here."""
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def add(self, item: Item, limit: int, stay: Collection[str] = ()) -> None:
        """Take an item, in the place of one with its key, and let others go until all take ``limit`` bytes.

        Args:
            item: stays, whatever it takes.
            limit: bytes.
            stay: keys of further items that do not go.
        """
        self.drop(item.key)
        self._items[item.key] = item
        self.nbytes += item.nbytes
        for key in list(self._items)[:-1]:
            if self.nbytes <= limit:
                return
            if key not in stay:
                self.drop(key)

    def drop(self, key: str) -> None:
        """Let an item go, if it is here."""
        if key in self._items:
            self.nbytes -= self._items.pop(key).nbytes

    def clear(self) -> None:
        """Let all items go."""
        self._items.clear()
        self.nbytes = 0
