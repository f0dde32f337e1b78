"""Which samples share a batch, against brute force over every way to cut them."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.plan import SampleLengths
from extractkit.engine import batches as batching
from extractkit.engine.batches import BatchRules, plan_batches

SIZES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=9)
RULES = st.builds(BatchRules, st.integers(1, 9), st.none() | st.integers(1, 400), st.booleans())


def lengths(sizes: Sequence[tuple[int, int]]) -> SampleLengths:
    columns = np.array(sizes, np.int64).reshape(-1, 2).T
    return SampleLengths(len(sizes), {"token": columns[0], "picture": columns[1]})


def padded(sizes: Sequence[tuple[int, int]], rules: BatchRules) -> int:
    """Elements of a batch of samples of these sizes, each length a multiple of the step."""
    step = rules.length_step
    return len(sizes) * prod(
        step * math.ceil(max(axis) / step) for axis in zip(*sizes, strict=True)
    )


def allowed(sizes: Sequence[tuple[int, int]], rules: BatchRules) -> bool:
    if len(sizes) == 1:
        return True
    return (
        len(sizes) <= rules.batch_size
        and len(sizes) in {2, 4, *range(8, 100, 8)}
        and (rules.batch_tokens is None or padded(sizes, rules) <= rules.batch_tokens)
        and (rules.padded or len(set(sizes)) == 1)
    )


def cost(batches: Sequence[Sequence[tuple[int, int]]], rules: BatchRules) -> int:
    return sum(padded(batch, rules) + batching.CALL_COST for batch in batches)


def every_cut(ordered: Sequence[tuple[int, int]]) -> Iterator[list[Sequence[tuple[int, int]]]]:
    for marks in product([False, True], repeat=max(len(ordered) - 1, 0)):
        at = [0, *(i for i, mark in enumerate(marks, 1) if mark), len(ordered)]
        yield [ordered[a:b] for a, b in pairwise(at)]


@given(SIZES, RULES)
def test_every_sample_is_in_one_batch_that_keeps_the_rules(
    sizes: list[tuple[int, int]], rules: BatchRules
) -> None:
    batches = plan_batches(lengths(sizes), rules)
    assert sorted(position for batch in batches for position in batch) == list(range(len(sizes)))
    assert all(allowed([sizes[position] for position in batch], rules) for batch in batches)


@given(SIZES.filter(bool), RULES)
def test_no_other_cut_of_the_sorted_samples_is_cheaper(
    sizes: list[tuple[int, int]], rules: BatchRules
) -> None:
    batches = plan_batches(lengths(sizes), rules)
    chosen = [[sizes[position] for position in batch] for batch in batches]
    step = rules.length_step
    ordered = sorted(sizes, key=lambda size: [math.ceil(length / step) for length in size])
    cuts = [cut for cut in every_cut(ordered) if all(allowed(batch, rules) for batch in cut)]
    assert cost(chosen, rules) == min(cost(cut, rules) for cut in cuts)


@given(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 5), st.data())
def test_it_never_costs_more_than_sorted_chunks(
    batch_size: int, chunks: int, data: st.DataObject
) -> None:
    count = batch_size * chunks
    sizes = data.draw(st.lists(st.integers(1, 512), min_size=count, max_size=count))
    rules = BatchRules(batch_size, None, padded=True)
    batches = plan_batches(SampleLengths(count, {"token": np.array(sizes)}), rules)
    chosen = [[(sizes[position], 1) for position in batch] for batch in batches]
    ordered = [(size, 1) for size in sorted(sizes)]
    greedy = [ordered[at : at + batch_size] for at in range(0, count, batch_size)]
    assert cost(chosen, rules) <= cost(greedy, rules)


@given(SIZES, RULES)
def test_the_plan_is_always_the_same(sizes: list[tuple[int, int]], rules: BatchRules) -> None:
    assert plan_batches(lengths(sizes), rules) == plan_batches(lengths([*sizes]), rules)


@given(st.integers(0, 20), st.integers(1, 6))
def test_samples_of_one_fixed_shape_are_cut_in_order(count: int, size: int) -> None:
    batches = plan_batches(SampleLengths(count, {}), BatchRules(size, None, padded=False))
    assert [position for batch in batches for position in batch] == list(range(count))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)


def test_samples_of_equal_length_stay_in_order() -> None:
    samples = SampleLengths(4, {"token": np.array([7, 7, 7, 7])})
    apart = plan_batches(samples, BatchRules(3, None, padded=False))
    assert [position for batch in apart for position in batch] == [0, 1, 2, 3]
    assert plan_batches(samples, BatchRules(4, None, padded=True)) == [[0, 1, 2, 3]]


def test_a_sample_larger_than_the_limit_has_a_batch_of_its_own() -> None:
    samples = SampleLengths(3, {"token": np.array([2, 900, 2])})
    batches = plan_batches(samples, BatchRules(8, 16, padded=True))
    assert batches == [[0, 2], [1]]
