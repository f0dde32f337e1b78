"""Which samples share a batch, against brute force over every way to cut them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from extractkit.engine import batching
from extractkit.engine.batching import BatchRules, plan_batches
from extractkit.plan import Lengths

SIZES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=9)
RULES = st.builds(BatchRules, st.integers(1, 5), st.none() | st.integers(1, 120), st.booleans())


def lengths(sizes: Sequence[tuple[int, int]]) -> Lengths:
    columns = np.array(sizes, np.int64).reshape(-1, 2).T
    return Lengths(len(sizes), {"token": columns[0], "picture": columns[1]})


def padded(sizes: Sequence[tuple[int, int]]) -> int:
    """Elements of a batch of samples of these sizes."""
    return len(sizes) * max(a for a, _ in sizes) * max(b for _, b in sizes)


def allowed(sizes: Sequence[tuple[int, int]], rules: BatchRules) -> bool:
    if len(sizes) == 1:
        return True
    return (
        len(sizes) <= rules.batch_size
        and (rules.batch_tokens is None or padded(sizes) <= rules.batch_tokens)
        and (rules.padded or len(set(sizes)) == 1)
    )


def cost(batches: Sequence[Sequence[tuple[int, int]]]) -> int:
    return sum(padded(batch) + batching._CALL_COST for batch in batches)


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
    cuts = [cut for cut in every_cut(sorted(sizes)) if all(allowed(b, rules) for b in cut)]
    assert cost(chosen) == min(map(cost, cuts))


@given(st.lists(st.integers(1, 512), min_size=1, max_size=100), st.integers(1, 32))
def test_it_never_costs_more_than_sorted_chunks(sizes: list[int], batch_size: int) -> None:
    samples = Lengths(len(sizes), {"token": np.array(sizes)})
    batches = plan_batches(samples, BatchRules(batch_size, None, padded=True))
    chosen = [[(sizes[position], 1) for position in batch] for batch in batches]
    ordered = [(size, 1) for size in sorted(sizes)]
    greedy = [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]
    assert cost(chosen) <= cost(greedy)


@given(SIZES, RULES)
def test_the_plan_is_always_the_same(sizes: list[tuple[int, int]], rules: BatchRules) -> None:
    assert plan_batches(lengths(sizes), rules) == plan_batches(lengths([*sizes]), rules)


@given(st.integers(0, 20), st.integers(1, 6))
def test_samples_of_one_fixed_shape_are_cut_in_order(count: int, size: int) -> None:
    batches = plan_batches(Lengths(count, {}), BatchRules(size, None, padded=False))
    assert [position for batch in batches for position in batch] == list(range(count))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)


def test_samples_of_equal_length_stay_in_order() -> None:
    samples = Lengths(4, {"token": np.array([7, 7, 7, 7])})
    assert plan_batches(samples, BatchRules(3, None, padded=False)) in ([[0, 1, 2], [3]], [[0], [1, 2, 3]])
    assert plan_batches(samples, BatchRules(4, None, padded=True)) == [[0, 1, 2, 3]]


def test_a_sample_larger_than_the_limit_has_a_batch_of_its_own() -> None:
    samples = Lengths(3, {"token": np.array([2, 900, 2])})
    batches = plan_batches(samples, BatchRules(8, 10, padded=True))
    assert batches == [[0, 2], [1]]
