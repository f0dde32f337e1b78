"""What is still coming, as something to iterate over."""

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Items that arrive one by one from another thread; the iteration ends with `close`."""

    def __init__(self) -> None:
        self._arrived: SimpleQueue[Item | type[_Closed]] = SimpleQueue()

    def put(self, item: Item) -> None:
        """Add an item at the end."""
        self._arrived.put(item)

    def close(self) -> None:
        """Nothing more will come; may be said more than once."""
        self._arrived.put(_Closed)

    def __iter__(self) -> Iterator[Item]:
        while (item := self._arrived.get()) is not _Closed:
            yield item  # type: ignore[misc]


class _Closed:
    """Marks the end of the items."""
