"""What is found out about values in passing, against plain loops over every element."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.statistics import Merging
from extractkit.core.value_checks import (
    EXAMINATION,
    ValueChecks,
    non_finite_samples,
)
from extractkit.core.values import Array, Assembly, Dense, Ragged, Values, without
from extractkit.runs.schema import canonical, decode

FEW = {
    "float32": [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.0, 3e38],
    "float16": [math.nan, -math.inf, 0.0, 1.5, -2.0],
    "float64": [math.nan, math.inf, 0.0, 1e300, -2.0],
    "complex64": [complex(math.nan, 1), complex(0, -math.inf), 1j, 0j],
    "int64": [0, 7, -(2**40)],
    "uint8": [0, 255],
    "bool": [False, True],
    "object": [b"", b"a", b"a\0"],
}
"""Few values of each type, so that whole samples are often equal."""


def examine(values: Values, first_sample: int | None) -> ValueChecks:
    return EXAMINATION.of((values, first_sample))


def merged(parts: Sequence[ValueChecks]) -> ValueChecks:
    merging = Merging(EXAMINATION)
    for one in parts:
        merging.add(one)
    return merging.finish()


@st.composite
def samples(draw: st.DrawFn, dtype: str) -> list[Array]:
    """Values of samples, of one shape or not, whose first axis may vary."""
    few = st.sampled_from(FEW[dtype][: draw(st.integers(1, len(FEW[dtype])))])
    width = draw(st.integers(0, 2))
    longest = draw(st.integers(0, 2))
    rows = draw(st.lists(st.integers(longest and draw(st.integers(0, 1)), longest), max_size=6))
    return [
        np.array(
            [[draw(few) for _ in range(width)] for _ in range(row)], dtype=np.dtype(dtype)
        ).reshape(row, width)
        for row in rows
    ]


def stored(found: Sequence[Array], dtype: str, ragged: bool, absent: Sequence[int]) -> Values:
    """The samples as a shard holds them; where they differ in shape they must be ragged."""
    shape = (None, found[0].shape[1]) if ragged else found[0].shape
    name = "string" if dtype == "object" else dtype
    room = Assembly(shape, name, [one.shape for one in found], len(found))
    for position, one in enumerate(found):
        if position not in absent:
            room.put([position], one[np.newaxis])
    return room.finish(absent)


def by_hand(found: Sequence[Array], absent: Sequence[int], start: int) -> ValueChecks:
    """The same in the plainest way."""
    counts: dict[int, tuple[int, int]] = {}
    numbers: list[float] = []
    present = [one for position, one in enumerate(found) if position not in absent]
    for position, one in enumerate(found):
        nan = inf = 0
        for element in one.flat if position not in absent else []:
            if one.dtype.kind == "c":
                nan += math.isnan(element.real) or math.isnan(element.imag)
                inf += math.isinf(element.real) or math.isinf(element.imag)
            elif one.dtype.kind != "O":
                nan += math.isnan(element)
                inf += math.isinf(element)
                numbers += [float(element)] if math.isfinite(element) else []
        if nan or inf:
            counts[start + position] = (nan, inf)
    contents = {(one.shape, tuple(map(repr, one.ravel().tolist()))) for one in present}
    return ValueChecks(
        nan=sum(nan for nan, _ in counts.values()),
        inf=sum(inf for _, inf in counts.values()),
        samples=len(counts),
        first={str(index): counts[index] for index in sorted(counts)[:5]},
        minimum=min(numbers, default=None),
        maximum=max(numbers, default=None),
        same="any" if len(contents) == 1 else None,
        examined=len(present),
        elements=sum(one.size for one in present),
    )


def unnamed(stats: ValueChecks) -> ValueChecks:
    """With the digest of a value that stays replaced by whether there is one."""
    return replace(stats, same=stats.same and "any")


@given(data=st.data(), dtype=st.sampled_from(list(FEW)), ragged=st.booleans())
def test_what_is_found_is_what_loops_over_every_element_find(
    data: st.DataObject, dtype: str, ragged: bool
) -> None:
    found = data.draw(samples(dtype).filter(bool))
    ragged = ragged or len({one.shape for one in found}) > 1
    absent = data.draw(st.lists(st.sampled_from(range(len(found))), unique=True))
    start = data.draw(st.integers(0, 1000))
    stats = examine(stored(found, dtype, ragged, absent), start)
    assert unnamed(stats) == by_hand(found, absent, start)


@given(data=st.data(), dtype=st.sampled_from(list(FEW)))
def test_shards_together_are_what_one_shard_of_all_is(data: st.DataObject, dtype: str) -> None:
    found = data.draw(samples(dtype).filter(bool))
    absent = data.draw(st.lists(st.sampled_from(range(len(found))), unique=True))
    ragged = len({one.shape for one in found}) > 1
    marks = data.draw(st.sets(st.integers(1, max(1, len(found) - 1))))
    cuts = sorted({0, len(found), *(mark for mark in marks if mark < len(found))})
    parts = [
        examine(stored(found[a:b], dtype, ragged, [at - a for at in absent if a <= at < b]), 7 + a)
        for a, b in pairwise(cuts)
    ]
    together = merged(data.draw(st.permutations(parts)))
    assert together == examine(stored(found, dtype, ragged, absent), 7)
    assert list(together.first) == sorted(together.first, key=int)


def test_an_element_is_constant_or_a_tensor_never_changes() -> None:
    ramp = np.arange(3, dtype="float32")
    every, again = examine(Dense(np.full((4, 2), 7.0)), 0), examine(Dense(np.stack([ramp] * 2)), 0)
    assert (every.constant, every.never_changes) == (True, True)
    assert (again.constant, again.never_changes) == (False, True)
    assert not examine(Dense(np.array([7.0])), 0).constant
    alone = examine(Dense(ramp[np.newaxis]), 0)
    assert (alone.constant, alone.never_changes) == (False, False)
    assert merged([alone, alone]).never_changes
    assert not merged([alone, examine(Dense(ramp[np.newaxis] + 1), 1)]).never_changes
    with_nan = examine(Dense(np.array([[np.nan, 1], [1, 1]])), 0)
    assert (with_nan.constant, with_nan.never_changes, with_nan.finite) == (True, False, False)
    assert not ValueChecks().constant
    assert not ValueChecks().never_changes


def test_whole_numbers_that_no_float_tells_apart_differ() -> None:
    near = np.array([[2**53], [2**53 + 1]])
    both, (one, other) = (
        examine(Dense(near), 0),
        (examine(Dense(near[at : at + 1]), at) for at in range(2)),
    )
    assert (both.minimum, both.maximum) == (2**53, 2**53 + 1)
    assert not both.constant
    assert merged([one, other]) == both
    line = canonical(both)
    assert decode(ValueChecks, json.loads(line), "stats") == both
    assert canonical(decode(ValueChecks, json.loads(line), "stats")) == line
    assert examine(Dense(np.array([[True], [False]])), 0).maximum == 1


def test_equal_bits_are_the_same_and_equal_numbers_are_not() -> None:
    nan = np.full((3, 2), np.nan, "float32")
    assert examine(Dense(nan), 0).never_changes
    assert not examine(Dense(np.array([[0.0], [-0.0]])), 0).never_changes


@pytest.mark.parametrize("late", [2, 5000, 9999])
def test_a_late_change_is_found(late: int) -> None:
    values = np.zeros((10_000, 64), "float32")
    assert examine(Dense(values), 0).never_changes
    values[late, 63] = 1
    assert not examine(Dense(values), 0).never_changes
    offsets = np.arange(10_001) * 64
    assert not examine(Ragged(values.reshape(-1), offsets), 0).never_changes


def test_samples_of_different_shapes_with_equal_elements_differ() -> None:
    shapes = np.array([[1, 4], [2, 2]])
    values = Ragged(np.zeros(8, "float32"), np.array([0, 4, 8]), shapes)
    assert not examine(values, 0).never_changes
    assert examine(values, 0).constant


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array(2.5), ValueChecks(minimum=2.5, maximum=2.5, elements=1)),
        (np.array([[1.0, np.nan], [-np.inf, 3.0]]), ValueChecks(1, 1, 0, {}, 1.0, 3.0, elements=4)),
        (np.array(b"text", object), ValueChecks(elements=1)),
        (np.zeros((0, 3)), ValueChecks()),
        (np.array([np.nan]), ValueChecks(nan=1, elements=1)),
    ],
)
def test_what_does_not_depend_on_samples_belongs_to_none(
    value: Array, expected: ValueChecks
) -> None:
    assert examine(Dense(value), None) == expected


def test_nothing_is_warned_of() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 1]], "float16")
    assert examine(Dense(values), 3).first == {"3": (1, 2)}


def test_all_samples_that_are_not_finite_are_reported_and_absent_ones_are_not() -> None:
    values = np.zeros((20, 3), "float32")
    values[4:14, 1] = np.nan
    values[6, 0] = np.inf
    found = non_finite_samples(without(Dense(values), [5], (3,)))
    assert found == {at: (1, int(at == 6)) for at in range(4, 14) if at != 5}
    assert list(examine(Dense(values), 100).first) == ["104", "105", "106", "107", "108"]
