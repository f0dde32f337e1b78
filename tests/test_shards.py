"""Shards and outer axes: keys, order, and positions by label or step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.shards import (
    CONSTANTS_SHARD,
    OuterAxis,
    Position,
    Shard,
    over_axes,
    positions_in,
)
from extractkit.errors import UnknownTensorError

EPOCHS = OuterAxis("epoch", ("first", "last"), (0, 10))
SEEDS = OuterAxis("random_seed", ("a", "b", "c"), (None, None, None))

positions = st.builds(
    Position, st.from_regex(r"[a-z]+(_[a-z]+)?", fullmatch=True), st.integers(0, 10**9 - 1)
)


@given(st.lists(positions, max_size=3), st.integers(0, 10**9 - 2), st.integers(0, 5))
def test_positions_are_read_back_from_keys(outer: list[Position], start: int, size: int) -> None:
    shard = Shard(start, start + size, tuple(outer))
    assert positions_in(shard.key) == shard.outer


def test_keys_begin_with_the_positions() -> None:
    shard = Shard(8, 16, (Position("checkpoint", 1), Position("epoch", 12)))
    assert shard.key == "checkpoint-000001-epoch-000012-000000008-000000016"
    assert Shard(0, 0, (Position("checkpoint", 1),)).key == "checkpoint-000001-constants"
    assert (shard.along("epoch"), shard.along("checkpoint"), shard.along("seed")) == (12, 1, None)
    assert shard.extent == Shard(8, 16)


def test_the_first_axis_is_the_slowest_and_keys_sort_in_order_of_ranges() -> None:
    ranges = (CONSTANTS_SHARD, Shard(0, 4), Shard(4, 6))
    shards = over_axes(ranges, (EPOCHS, SEEDS))
    outer = [tuple(one.at for one in shard.outer) for shard in shards[::3]]
    assert outer == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert sorted(shards, key=lambda shard: shard.order) == list(shards)
    assert over_axes(ranges, ()) == ranges


def test_constants_have_no_first_sample() -> None:
    assert CONSTANTS_SHARD.first is None
    assert Shard(0, 4).first == 0


def test_a_position_is_found_by_label_or_step() -> None:
    assert EPOCHS.find("last", "run") == EPOCHS.find(10, "run") == Position("epoch", 1)
    assert EPOCHS.coordinates == [0, 10]
    assert SEEDS.coordinates == ["a", "b", "c"]
    with pytest.raises(
        UnknownTensorError, match=r"^11 is not the step of an epoch of run. Steps: 0, 10$"
    ):
        EPOCHS.find(11, "run")
    with pytest.raises(UnknownTensorError, match=r"^'d' is not a random_seed of run\. "):
        SEEDS.find("d", "run")
