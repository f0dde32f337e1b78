"""What is kept of samples that several sets of weights are computed with, and in which order."""

from collections.abc import Callable
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.checkpoints import AXIS
from extractkit.core.shards import Position, Shard
from extractkit.engine.batches import ReadAlready, in_blocks

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=8)


def shards(count: int, checkpoints: int, constant: bool) -> list[Shard]:
    """A shard a sample, as they stand in a run."""
    ranges = [Shard(0, 0)] * constant + [Shard(at, at + 1) for at in range(count)]
    return [
        Shard(one.start, one.stop, (Position(AXIS, c),))
        for c in range(checkpoints)
        for one in ranges
    ]


def size_of(sizes: list[int]) -> Callable[[Shard], int]:
    return lambda shard: sizes[shard.start] if len(shard) else 0


def loads(order: list[Shard]) -> int:
    """How often weights are loaded for shards in this order."""
    return len(list(groupby(shard.along(AXIS) for shard in order)))


def fewest_blocks(sizes: list[int], memory: int) -> int:
    """By trying every way to cut them: how few blocks of ranges, each fitting into memory."""
    best = {0: 0}
    for stop in range(1, len(sizes) + 1):
        best[stop] = min(
            best[start] + 1
            for start in range(stop)
            if start == stop - 1 or sum(sizes[start:stop]) <= memory
        )
    return best[len(sizes)]


@given(SIZES, st.integers(1, 4), st.booleans(), st.integers(0, 40), st.data())
def test_it_is_the_same_shards_and_weights_are_loaded_as_seldom_as_memory_allows(
    sizes: list[int], checkpoints: int, constant: bool, memory: int, data: st.DataObject
) -> None:
    every = shards(len(sizes), checkpoints, constant)
    order = list(in_blocks(every, size_of(sizes), memory))
    assert sorted(order, key=lambda shard: shard.order) == every
    assert loads(order) <= checkpoints * fewest_blocks(sizes, memory)
    if memory >= sum(sizes):
        assert order == every
    # Of a run that is resumed some are missing; the rest stands in an order by the same rule.
    some = [shard for shard in every if data.draw(st.booleans())]
    assert sorted(in_blocks(some, size_of(sizes), memory), key=lambda one: one.order) == some


@given(SIZES, st.integers(2, 4), st.integers(0, 40))
def test_in_that_order_nothing_that_fits_into_memory_is_read_twice(
    sizes: list[int], checkpoints: int, memory: int
) -> None:
    read: list[int] = []
    kept: ReadAlready[int] = ReadAlready(memory)
    for shard in in_blocks(shards(len(sizes), checkpoints, False), size_of(sizes), memory):
        place = (shard.start, shard.stop)
        if kept.get(place) is None:
            read.append(shard.start)
            kept.keep(place, shard.start, sizes[shard.start])
        else:
            assert kept.get(place) == shard.start
    for at, size in enumerate(sizes):
        assert read.count(at) == (1 if size <= memory else checkpoints)


@given(
    st.lists(st.tuples(st.sampled_from("gk"), st.integers(0, 5), st.integers(0, 12)), max_size=40),
    st.integers(0, 20),
)
def test_what_is_kept_fits_and_is_what_was_used_last(
    steps: list[tuple[str, int, int]], memory: int
) -> None:
    kept: ReadAlready[tuple[int, int]] = ReadAlready(memory)
    model: dict[int, int] = {}  # in the order of use, the oldest first
    for step, at, size in steps:
        if step == "k" and at not in model:
            kept.keep((at, at + 1), (at, size), size)
            if size <= memory:
                while sum(model.values()) + size > memory:
                    del model[next(iter(model))]
                model[at] = size
        else:
            found = kept.get((at, at + 1))
            assert found == ((at, model[at]) if at in model else None)
            if at in model:
                model[at] = model.pop(at)
    for at in range(6):
        assert (kept.get((at, at + 1)) is not None) == (at in model)


def test_what_is_larger_than_memory_drives_nothing_out() -> None:
    kept: ReadAlready[str] = ReadAlready(10)
    kept.keep((0, 1), "a", 10)
    kept.keep((1, 2), "b", 11)
    assert (kept.get((0, 1)), kept.get((1, 2))) == ("a", None)


@pytest.mark.parametrize("memory", [0, 5])
def test_nothing_to_do_is_nothing(memory: int) -> None:
    assert list(in_blocks([], lambda shard: 1, memory)) == []
