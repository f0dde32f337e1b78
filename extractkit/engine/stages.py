"""One primitive for overlap: iterate ahead in a thread, with a bounded queue in between."""

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class _Ended:
    """Marks the end of the items."""


def ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """The same items, in order, made by a thread that is at most `depth` items ahead.

    An error in the thread is raised here in its turn. Leaving the iteration early, by an error or
    by closing it, stops the thread before this returns.
    """
    ready: queue.Queue[Item | _Failed | type[_Ended]] = queue.Queue(depth)
    stopped = threading.Event()

    def hand_over(item: Item | _Failed | type[_Ended]) -> bool:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not hand_over(item):
                    break
            hand_over(_Ended)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            hand_over(_Failed(error))
        finally:
            if (close := getattr(iterator, "close", None)) is not None:
                close()

    thread = threading.Thread(target=work, name="extractkit-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _Ended:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
