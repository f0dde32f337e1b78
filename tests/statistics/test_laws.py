"""Every statistic: any division into shards gives the results of one block."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.core.spec import Dim
from extractkit.core.statistics import Array, Block, Merging, Statistic
from extractkit.core.statistics.registry import names
from extractkit.core.values import Dense
from extractkit.runs.statistics import parsed, serialized
from tests.statistics.examples import (
    ASKED,
    TOKENS,
    WIDTH,
    block,
    many,
    one,
    operand,
    over,
    statistics,
)


def test_every_statistic_is_tested() -> None:
    """`similarity` takes several tensors, and `total` samples of one shape: see below."""
    assert {*ASKED, "similarity", "total"} == set(names())


@st.composite
def samples(draw: st.DrawFn) -> list[Array]:
    """Samples of different lengths; few distinct values, so that there are ties."""
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=7))
    values = st.sampled_from([-1.5, -1.0, 0.0, 0.25, 2.0, 7.5])
    return [
        np.array(
            draw(st.lists(values, min_size=n * WIDTH, max_size=n * WIDTH)), np.float32
        ).reshape(n, WIDTH)
        for n in lengths
    ]


EXACT = ("histogram", "quantiles", "top", "coactivation", "sparsity")


@pytest.mark.parametrize("statistic", statistics())
def test_shards_do_not_matter(statistic: Statistic) -> None:
    @settings(max_examples=40, deadline=None)
    @given(samples(), st.lists(st.integers(0, 7), max_size=4))
    def law(rows: list[Array], cuts: list[int]) -> None:
        whole, apart = over(statistic, rows, []), over(statistic, rows, cuts)
        assert whole.keys() == apart.keys()
        for name, expected in whole.items():
            assert apart[name].dtype == expected.dtype
            if statistic.name in EXACT:
                np.testing.assert_array_equal(apart[name], expected, name)
            elif name == "components":
                pass  # signs and order are free where variances are equal
            else:
                np.testing.assert_allclose(apart[name], expected, rtol=1e-9, atol=1e-9)

    law()


@pytest.mark.parametrize("statistic", statistics())
def test_partial_results_are_stored_whole(statistic: Statistic) -> None:
    rows = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 3), np.float32)]
    partial = statistic.of(block(rows, 0))
    content = serialized({("a/b:c d", statistic.name): partial})
    stored = parsed(content, Path("partials.npz"))["a/b:c d", statistic.name]
    assert stored.keys() == partial.keys()
    for name, array in partial.items():
        assert stored[name].dtype == array.dtype
        np.testing.assert_array_equal(stored[name], array)
    assert sum(array.nbytes for array in partial.values()) == statistic.partial_bytes(TOKENS)


@pytest.mark.parametrize("statistic", statistics())
def test_an_empty_block_changes_nothing(statistic: Statistic) -> None:
    partial = statistic.of(block(many(9), 0))
    empty = statistic.of(block([], 40))
    for merged in (statistic.merge(partial, empty), statistic.merge(empty, partial)):
        assert merged.keys() == partial.keys()
        for name, array in partial.items():
            np.testing.assert_array_equal(merged[name], array, name)


@given(st.lists(st.integers(0, 6), max_size=4), st.sampled_from(["float32", "int8", "float16"]))
@settings(max_examples=40, deadline=None)
def test_totals_do_not_depend_on_shards(cuts: list[int], dtype: str) -> None:
    rows = np.arange(36).reshape(6, 2, 3).astype(dtype)
    total, merging = one("total"), Merging(one("total"))
    ends = [0, *sorted(cuts), len(rows)]
    for start, stop in pairwise(ends):
        partial = total.of(Block(Dense(rows[start:stop]), np.arange(start, stop), 3))
        content = serialized({("a:b", "total"): partial})
        stored = parsed(content, Path("partials.npz"))["a:b", "total"]
        np.testing.assert_array_equal(stored["sum"], partial["sum"], strict=True)
        assert sum(array.nbytes for array in stored.values()) == total.partial_bytes(
            operand(dtype, Dim(size=2), Dim(size=3))
        )
        merging.add(stored)
    found = merging.finish()
    assert found["count"] == len(rows)
    expected = rows.astype("float64").sum(0)
    np.testing.assert_array_equal(found["sum"], expected, strict=True)
    np.testing.assert_allclose(found["mean"], expected / 6, rtol=1e-15)
