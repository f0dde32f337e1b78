"""Items from other threads: made ahead of their use, or put into an inbox one by one."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class _Ended:
    """Marks the end of the items."""


class _LeftError(Exception):
    """Raised in a stage's thread when the iteration that it works for has ended."""


class Waits:
    """How long the two ends of a queue have waited for each other, in seconds."""

    def __init__(self) -> None:
        self._ended = {"items": 0.0, "room": 0.0}
        self._since: dict[str, float | None] = dict.fromkeys(self._ended)

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Count the time in the block as waiting for "items", or for "room" for one more."""
        self._since[what] = began = time.perf_counter()
        try:
            yield
        finally:
            self._ended[what] += time.perf_counter() - began
            self._since[what] = None

    def seconds(self, what: str) -> float:
        """Return how long one end has waited, up to now."""
        since = self._since[what]
        return self._ended[what] + (0.0 if since is None else time.perf_counter() - since)


class Pace:
    """Which of several stages sets the pace: the one that waits least for those beside it."""

    def __init__(self, *stages: str) -> None:
        self._stages = stages
        self.between = [Waits() for _ in stages[1:]]

    def slowest(self) -> str:
        """Return the name of the stage that has waited least so far."""
        waited = dict.fromkeys(self._stages, 0.0)
        for before, after, waits in zip(self._stages, self._stages[1:], self.between, strict=False):
            waited[before] += waits.seconds("room")
            waited[after] += waits.seconds("items")
        return min(waited, key=lambda stage: waited[stage])


def no_wake() -> None:
    """Do nothing: items never take long to arrive."""


def ahead(
    items: Iterable[Item],
    depth: int,
    left: threading.Event | None = None,
    wake: Callable[[], None] = no_wake,
    waits: Waits | None = None,
) -> Generator[Item, None, None]:
    """Yield the same items, in order, made by a thread that is at most `depth` items ahead.

    An error in the thread is raised here in its turn. Ending the iteration early, by an error or
    by closing it, stops the thread and closes its iterator before this returns.

    Args:
        left: shared by stages that feed each other. It is set before the last stage is left, so
            that each stops after its current item, which may be much smaller than the last's.
        wake: called once the iteration is left. It must unblock the source of items, because the
            thread is waited for.
        waits: counts how long the thread and the user of the items wait for each other.
    """
    left = left or threading.Event()
    waits = waits or Waits()
    made: SimpleQueue[Item | _Failed | type[_Ended]] = SimpleQueue()
    # Room is acquired before an item is made, so that no more than `depth` are waiting.
    room = threading.Semaphore(depth)
    stopped = threading.Event()
    iterator = iter(items)

    def work() -> None:
        try:
            room.acquire()
            for item in iterator:
                made.put(item)
                del item  # do not hold what was handed over
                with waits.waiting_for("room"):
                    room.acquire()
                if stopped.is_set():
                    break
            made.put(_Ended)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            made.put(_Failed(error))
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    thread = threading.Thread(target=work, name="extractkit-ahead", daemon=True)
    thread.start()

    def get() -> Item | _Failed | type[_Ended]:
        with waits.waiting_for("items"):
            return made.get()

    try:
        while (item := get()) is not _Ended:
            if isinstance(item, _Failed):
                raise item.error
            if left.is_set():
                raise _LeftError
            room.release()
            yield item  # type: ignore[misc]
            del item
    finally:
        stopped.set()
        room.release()
        wake()
        thread.join()


class Inbox(Generic[Item]):
    """Items that arrive one by one from another thread. The iteration ends with `close`."""

    def __init__(self) -> None:
        self._arrived: SimpleQueue[Item | type[_Ended]] = SimpleQueue()

    def put(self, item: Item) -> None:
        """Add an item at the end."""
        self._arrived.put(item)

    def close(self) -> None:
        """Mark the end of the items. May be called more than once."""
        self._arrived.put(_Ended)

    def __iter__(self) -> Iterator[Item]:
        while (item := self._arrived.get()) is not _Ended:
            yield item  # type: ignore[misc]
