"""Histograms, quantiles and other counts are those of NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.core.statistics import Arrays, Block, Merging
from extractkit.core.values import Dense
from tests.statistics.examples import WIDTH, many, one, over


@pytest.mark.parametrize("elements", [1, 7, 1000])
def test_counts_of_a_few_rows_at_a_time_are_those_of_numpy(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractkit.core.statistics.COUNTED", elements)
    whole = np.random.default_rng(6).normal(size=(50, WIDTH)) * 5
    whole[3, 0], whole[4:6, 1], whole[49, 2] = np.nan, np.inf, -np.inf
    shard = Block(Dense(whole), np.arange(50), WIDTH)

    def found(options: object) -> Arrays:
        return one(options).finish(one(options).of(shard))

    columns = [column[np.isfinite(column)] for column in whole.T]
    own, given_edges = found("histogram"), found({"histogram": {"edges": [-4, 0, 3]}})
    for at, column in enumerate(columns):
        for edges, counts in (
            (own["edges"][at], own["counts"]),
            ([-4, 0, 3], given_edges["counts"]),
        ):
            np.testing.assert_array_equal(counts[at], np.histogram(column, edges)[0])
    assert [own[name].tolist() for name in ("nan", "above", "below")] == [
        [1, 0, 0],
        [0, 2, 0],
        [0, 0, 1],
    ]
    np.testing.assert_array_equal(given_edges["below"], (whole < -4).sum(0))
    quantiles = found({"quantiles": {"q": [0.25], "per": "feature"}})["values"][:, 0]
    expected = [np.quantile(x[~np.isnan(x)], 0.25, method="lower") for x in whole.T]
    np.testing.assert_allclose(quantiles, expected, rtol=0.011)
    active = (whole > 0).astype(int)
    np.testing.assert_array_equal(found("coactivation")["both"], active.T @ active)


def test_quantiles_are_within_one_percent() -> None:
    rows = [np.exp(3 * sample) * np.sign(sample) for sample in many(5)]
    q = [0.0, 0.01, 0.2, 0.5, 0.9, 1.0]
    found = over(one({"quantiles": {"q": q, "per": "feature"}}), rows, [2, 30])
    expected = np.quantile(np.concatenate(rows), q, axis=0, method="lower").T
    np.testing.assert_allclose(found["values"], expected, rtol=0.0101)


def test_histograms_are_those_of_numpy() -> None:
    rows = many(6)
    edges = [-1.0, 0.0, 0.5, 2.0]
    found = over(one({"histogram": {"edges": edges}}), rows, [9])
    whole = np.concatenate(rows)
    for feature in range(WIDTH):
        counts, _ = np.histogram(whole[:, feature], edges)
        np.testing.assert_array_equal(found["counts"][feature], counts)
    total = found["counts"].sum(1) + found["below"] + found["above"] + found["nan"]
    assert total.tolist() == [len(whole)] * WIDTH


WIDE = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(WIDE, min_size=0, max_size=5), min_size=1, max_size=5),
    st.integers(2, 7),
)
def test_edges_that_are_found_fit_and_count_as_numpy_does(
    shards: list[list[float]], bins: int
) -> None:
    statistic = one({"histogram": {"bins": bins, "per": "all"}})
    merging = Merging(statistic)
    for part in shards:
        rows = np.array(part).reshape(-1, 1)
        merging.add(statistic.of(Block(Dense(rows), np.arange(len(rows)), 1)))
    found = merging.finish()
    whole = np.array([value for part in shards for value in part])
    finite = whole[np.isfinite(whole)]
    edges, counts = found["edges"], found["counts"]
    assert edges.shape == (bins + 1,)
    assert counts.sum() == len(finite)
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        assert ((finite >= left) & (finite < right)).sum() == count
    outside = (whole == -np.inf).sum(), (whole == np.inf).sum(), np.isnan(whole).sum()
    assert (found["below"], found["above"], found["nan"]) == outside
    if np.isfinite(edges).all():
        expected, _ = np.histogram(finite, edges)
        np.testing.assert_array_equal(counts, expected)
    (together,) = [statistic.of(Block(Dense(whole.reshape(-1, 1)), np.arange(len(whole)), 1))]
    for name, array in statistic.finish(together).items():
        np.testing.assert_array_equal(found[name], array)


def test_edges_that_are_found_are_those_of_each_feature() -> None:
    draw = np.random.default_rng(7)
    rows = [draw.normal(size=(30, WIDTH)) * [1e-3, 1, 1e5] + [0, 50, 0] for _ in range(20)]
    found = over(one("histogram"), rows, [3, 4, 11])
    whole = np.concatenate(rows)
    assert found["edges"].shape == (WIDTH, 51)
    for feature in range(WIDTH):
        edges = found["edges"][feature]
        counts, _ = np.histogram(whole[:, feature], edges)
        np.testing.assert_array_equal(found["counts"][feature], counts)
        assert counts.sum() == len(whole)
        assert counts[0] > 0
        assert counts[25:].any()
        # Intervals half as wide would not be enough.
        half = np.diff(edges)[0] / 2
        ends = np.floor(whole[:, feature].min() / half), np.floor(whole[:, feature].max() / half)
        assert ends[1] - ends[0] + 1 > 50


@pytest.mark.parametrize(
    ("values", "first"),
    [([0.0, 0.0], [0, 1]), ([3.0], [3, 3.0625]), ([-3.0], [-3, -2.9375]), ([], [0, 1])],
)
def test_equal_elements_get_an_interval_that_can_be_drawn(
    values: list[float], first: list[float]
) -> None:
    statistic = one({"histogram": {"bins": 4, "per": "all"}})
    rows = np.array(values).reshape(-1, 1)
    found = statistic.finish(statistic.of(Block(Dense(rows), np.arange(len(rows)), 1)))
    assert found["edges"][:2].tolist() == first
    assert found["counts"].tolist() == [len(values), 0, 0, 0]


def test_nan_is_counted_and_never_among_the_largest() -> None:
    rows = [np.array([[1.0, np.nan, 0.0], [np.nan, np.nan, 2.0]], np.float32)]
    assert over(one({"histogram": {"edges": [0, 9]}}), rows, [])["nan"].tolist() == [1, 2, 0]
    top = over(one({"top": {"k": 2}}), rows, [])
    np.testing.assert_array_equal(top["values"], [[1, np.nan], [np.nan, np.nan], [2, 0]])
    assert top["samples"].tolist() == [[0, -1], [-1, -1], [0, 0]]
    assert top["positions"].tolist() == [[0, -1], [-1, -1], [1, 0]]
    zeros = over(one("sparsity"), rows, [])
    assert zeros["zeros"].tolist() == [0, 0, 0.5]
