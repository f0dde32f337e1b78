"""Iterating ahead in a thread."""

import threading
import time
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.engine.threads import Pace, ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "extractkit-ahead"]


class Counted:
    """Whole numbers from 0; how many were begun, and whether the iteration was closed."""

    def __init__(self, count: int) -> None:
        self.begun = 0
        self.closed = threading.Event()
        self._count = count

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self._count):
                self.begun += 1
                yield number
        finally:
            self.closed.set()

    def settled(self) -> int:
        """How many were begun once nothing moves any more."""
        before = -1
        while before != self.begun:
            before = self.begun
            time.sleep(0.02)
        return before


@settings(max_examples=30)
@given(st.lists(st.none() | st.integers()), st.integers(1, 4))
def test_the_items_come_in_their_order(items: list[int | None], depth: int) -> None:
    assert list(ahead(items, depth)) == items
    assert not threads()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_it_never_is_further_ahead_than_it_may(depth: int) -> None:
    items = Counted(20)
    stage = ahead(items, depth)
    for taken in range(1, 4):
        next(stage)
        assert items.settled() == taken + depth
    stage.close()


def test_it_works_while_the_items_are_used() -> None:
    items = Counted(2)
    stage = ahead(items, 1)
    assert next(stage) == 0
    assert items.settled() == 2
    assert list(stage) == [1]


def test_an_error_is_raised_in_its_turn() -> None:
    def failing() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the third is broken")

    stage = ahead(failing(), 5)
    assert (next(stage), next(stage)) == (1, 2)
    with pytest.raises(OSError, match="the third is broken"):
        next(stage)
    assert not threads()


def test_an_error_where_the_items_are_used_stops_the_thread() -> None:
    items = Counted(10**9)

    def use() -> None:
        stage = ahead(items, 2)
        try:
            for number in stage:
                if number == 3:
                    raise KeyboardInterrupt
        finally:
            stage.close()

    with pytest.raises(KeyboardInterrupt):
        use()
    assert items.closed.is_set()
    assert not threads()


def test_closing_early_closes_what_is_inside_before_it_returns() -> None:
    items = Counted(10**9)
    stage = ahead(items, 3)
    next(stage)
    stage.close()
    assert items.closed.is_set()
    assert not threads()
    assert items.settled() <= 4


def test_closing_before_the_start_starts_nothing() -> None:
    items = Counted(3)
    ahead(items, 1).close()
    assert (items.begun, threads()) == (0, [])


def test_what_cannot_be_iterated_is_reported_at_once() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        next(ahead(7, 1))  # type: ignore[arg-type]
    assert not threads()


def nested(items: Counted) -> Generator[int, None, None]:
    """Three stages, each adding one."""

    def added(inner: Generator[int, None, None]) -> Iterator[int]:
        try:
            for number in inner:
                yield number + 1
        finally:
            inner.close()

    return ahead(added(ahead(added(ahead(items, 2)), 1)), 1)


def test_stages_may_be_nested() -> None:
    assert list(nested(Counted(50))) == list(range(2, 52))
    assert not threads()


def test_closing_the_last_of_several_stages_stops_them_all() -> None:
    items = Counted(10**9)
    stage = nested(items)
    assert next(stage) == 2
    assert len(threads()) == 3
    stage.close()
    assert items.closed.is_set()
    assert not threads()


def test_an_error_passes_through_all_stages() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("broken")

    stage = nested(failing())  # type: ignore[arg-type]
    assert next(stage) == 3
    with pytest.raises(OSError, match="broken"):
        next(stage)
    assert not threads()


_MOMENT_S = 0.01


def test_a_stage_that_is_waited_for_sets_the_pace() -> None:
    pace = Pace("reading", "computing", "storing")
    first, second = pace.between

    def read() -> Iterator[int]:
        for number in range(6):
            while pace.slowest() != "reading" or first.seconds("items") < _MOMENT_S:
                pass  # until the next stage has waited longest
            yield number

    assert list(ahead(ahead(read(), 2, waits=first), 2, waits=second)) == [*range(6)]
    assert pace.slowest() == "reading"


def test_a_user_of_the_items_sets_the_pace() -> None:
    pace = Pace("reading", "storing")
    (between,) = pace.between
    stage = ahead(range(8), 1, waits=between)
    next(stage)
    while between.seconds("room") <= between.seconds("items") + _MOMENT_S:
        pass  # storing, while the thread has no room
    assert pace.slowest() == "storing"  # while it still waits
    stage.close()
