"""What is still coming, as something to iterate over."""

import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Items that arrive one by one from another thread.

    Every iteration begins with the first item and waits for the next one, until the inbox is
    closed: the stages of a stream each walk along all shards, in threads of their own.
    """

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Add an item at the end."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        position = 0
        while True:
            with self._changed:
                while position == len(self._items) and not self._closed:
                    self._changed.wait()
                if position == len(self._items):
                    return
                item = self._items[position]
            position += 1
            yield item
