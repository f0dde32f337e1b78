"""One primitive for overlap: iterate ahead in a thread, by a bounded number of items."""

import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class _Ended:
    """Marks the end of the items."""


class _LeftError(Exception):
    """Raised inside a stage's thread when what it works for has been left."""


def nobody() -> None:
    """There is nobody to wake."""


def ahead(
    items: Iterable[Item],
    depth: int,
    left: threading.Event | None = None,
    wake: Callable[[], None] = nobody,
) -> Generator[Item, None, None]:
    """The same items, in order, made by a thread that is at most `depth` items ahead.

    An error in the thread is raised here in its turn. Leaving the iteration early, by an error or
    by closing it, stops the thread and closes its iterator before this returns.

    Args:
        left: shared by stages that feed each other. Whoever leaves the last one sets it first,
            and each stops after its own item at hand, which may be much smaller than the last's.
        wake: called once the iteration is left. Where items may be long in coming, it is to end
            that: the thread is waited for.
    """
    left = left or threading.Event()
    made: SimpleQueue[Item | _Failed | type[_Ended]] = SimpleQueue()
    # Room is taken before an item is begun, so that none waits beyond the `depth` allowed.
    room = threading.Semaphore(depth)
    stopped = threading.Event()
    iterator = iter(items)

    def work() -> None:
        try:
            room.acquire()
            for item in iterator:
                made.put(item)
                del item  # what is handed over is not held here
                room.acquire()
                if stopped.is_set():
                    break
            made.put(_Ended)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            made.put(_Failed(error))
        finally:
            if (close := getattr(iterator, "close", None)) is not None:
                close()

    thread = threading.Thread(target=work, name="extractkit-ahead", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not _Ended:
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
