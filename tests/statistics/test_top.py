"""Strongest and weakest examples are those that a search finds."""

from itertools import pairwise

import numpy as np
import pytest

from extractkit.core.statistics import Block, Merging
from extractkit.core.values import Dense
from tests.statistics.examples import WIDTH, many, one, over


@pytest.mark.parametrize("sign", [1, -1])
def test_top_is_what_a_search_finds(sign: int) -> None:
    rows = [np.round(sample, 1) for sample in many(4)]
    found = over(one({"top": {"k": 5, "smallest": True}}), rows, [7, 19])
    prefix = "" if sign > 0 else "smallest_"
    for feature in range(WIDTH):
        every = [
            (-sign * value, sample, position)
            for sample, tokens in enumerate(rows)
            for position, value in enumerate(tokens[:, feature])
        ]
        best = sorted(every)[:5]
        np.testing.assert_array_equal(
            found[f"{prefix}values"][feature], [-sign * key for key, _, _ in best]
        )
        assert found[f"{prefix}samples"][feature].tolist() == [at for _, at, _ in best]
        assert found[f"{prefix}positions"][feature].tolist() == [at for _, _, at in best]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_top_among_many_rows_with_ties_and_without_numbers(dtype: str) -> None:
    draw = np.random.default_rng(11)
    rows = draw.integers(-40, 40, size=(3000, 5)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        rows[draw.random(rows.shape) < 0.3] = np.nan
        rows[draw.random(rows.shape) < 0.1] = -np.inf
        rows[:, 4] = np.nan
        rows[[7, 2000], 4] = 1, np.inf
    asked = one({"top": {"k": 4, "smallest": True}})
    found = asked.finish(asked.of(Block(Dense(rows), np.arange(3000), 5)))
    for feature in range(5):
        wide = [float(value) for value in rows[:, feature]]
        largest = sorted((-value, at) for at, value in enumerate(wide) if value > -np.inf)[:4]
        smallest = sorted((value, at) for at, value in enumerate(wide) if value < np.inf)[:4]
        for prefix, sign, best in (("", -1, largest), ("smallest_", 1, smallest)):
            empty = 4 - len(best)
            np.testing.assert_array_equal(
                found[f"{prefix}values"][feature], [*(sign * v for v, _ in best), *[np.nan] * empty]
            )
            assert found[f"{prefix}samples"][feature].tolist() == [
                *(at for _, at in best),
                *[-1] * empty,
            ]


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_top_tells_all_integers_of_64_bits_apart(dtype: str) -> None:
    """Neighbours beyond 2**53 are one number in float64."""
    limits = np.iinfo(dtype)
    columns = [
        [2**53, 2**53 + 1, 2**53 + 2, 2**53 + 1, 5],
        [limits.max - 1, limits.max, limits.max - 2, limits.min, limits.min + 1],
        [limits.min, limits.min, limits.min + 1, limits.max - 1, limits.max],
    ]
    rows = np.array(columns, dtype).T
    for k in (1, 2, 4, 7):
        statistic = one({"top": {"k": k, "smallest": True}})
        for cuts in ([], [1], [2, 4], [1, 2, 3, 4]):
            merging = Merging(statistic)
            for start, stop in pairwise([0, *cuts, 5]):
                part = Block(Dense(rows[start:stop]), np.arange(start, stop), 3)
                merging.add(statistic.of(part))
            found = merging.finish()
            for prefix, sign in (("", -1), ("smallest_", 1)):
                for feature, column in enumerate(columns):
                    best = sorted(range(5), key=lambda at: (sign * column[at], at))[:k]
                    empty = k - len(best)
                    samples = found[f"{prefix}samples"][feature].tolist()
                    assert samples == [*best, *[-1] * empty]
                    np.testing.assert_array_equal(
                        found[f"{prefix}values"][feature],
                        [*(float(column[at]) for at in best), *[np.nan] * empty],
                    )


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_top_among_many_integers_of_64_bits(dtype: str) -> None:
    draw = np.random.default_rng(12)
    rows = (2**60 + draw.integers(0, 3000, size=(3000, 2))).astype(dtype)
    found = one({"top": {"k": 4, "smallest": True}})
    result = found.finish(found.of(Block(Dense(rows), np.arange(3000), 2)))
    for feature in range(2):
        column = rows[:, feature].tolist()
        largest = sorted(range(3000), key=lambda at: (-column[at], at))[:4]
        smallest = sorted(range(3000), key=lambda at: (column[at], at))[:4]
        assert result["samples"][feature].tolist() == largest
        assert result["smallest_samples"][feature].tolist() == smallest


def test_one_number_a_sample_is_one_feature() -> None:
    single = Block(Dense(np.array([3.0, 1.0])), np.array([4, 9]), 1)
    top = one({"top": {"k": 1}})
    assert top.finish(top.of(single))["samples"].tolist() == [[4]]
