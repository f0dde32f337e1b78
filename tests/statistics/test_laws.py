"""Every statistic: any division into shards gives the results of one block, which are NumPy's."""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from extractkit.core.spec import SAMPLES, Dim, TensorSpec
from extractkit.core.statistics import Array, Arrays, Block, Merging, Statistic, moments
from extractkit.core.statistics.registry import Asked, names
from extractkit.core.transforms import Axis, Operand
from extractkit.core.transforms.pipeline import Pipeline
from extractkit.core.values import Dense, Ragged
from extractkit.errors import ConfigError, SelectionError
from extractkit.runs.statistics import parsed, serialized

ASKED: Mapping[str, Any] = {
    "moments": [None, {"per": "all"}],
    "histogram": [
        None,
        {"bins": 2, "per": "all"},
        {"bins": 4, "range": [-2, 2]},
        {"edges": [-1, 0, 3], "per": "all"},
    ],
    "quantiles": [{"q": [0.0, 0.3, 1.0]}, {"q": [0.5], "per": "feature"}],
    "covariance": [None],
    "pca": [{"components": 2}],
    "top": [{"k": 3}, {"k": 2, "smallest": True}],
    "coactivation": [None],
    "sparsity": [None],
}
WIDTH = 3
TOKENS = Operand("float32", (Axis(SAMPLES), Axis(Dim.along("token")), Axis(Dim(size=WIDTH))), "a:b")


def statistics() -> list[Any]:
    return [
        pytest.param(Asked.parse([{name: options} if options else name], "s").single[0])
        for name, several in ASKED.items()
        for options in several
    ]


def test_every_statistic_is_tested() -> None:
    assert {*ASKED, "similarity"} == set(names())


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


def block(rows: list[Array], start: int) -> Block:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in rows])]).astype(np.int64)
    values = np.concatenate([*rows, np.zeros((0, WIDTH), np.float32)])
    return Block(Ragged(values, offsets), np.arange(start, start + len(rows)), WIDTH)


def over(statistic: Statistic, rows: list[Array], cuts: list[int]) -> Arrays:
    """The results over shards that end at these samples."""
    merging = Merging(statistic)
    ends = [0, *sorted({min(cut, len(rows)) for cut in cuts}), len(rows)]
    for start, stop in pairwise(ends):
        merging.add(statistic.of(block(rows[start:stop], start)))
    return merging.finish()


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


def many(seed: int) -> list[Array]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(n, WIDTH)) for n in draw.integers(1, 30, 40)]


def one(options: object) -> Statistic:
    return Asked.parse([options], "s").single[0]


def test_moments_are_those_of_numpy() -> None:
    rows = many(1)
    whole = np.concatenate(rows)
    found = over(one("moments"), rows, [3, 8, 20, 21])
    assert found["count"] == len(whole)
    np.testing.assert_allclose(found["mean"], whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["variance"], whole.var(0), rtol=1e-12)
    np.testing.assert_array_equal(found["min"], whole.min(0))
    np.testing.assert_array_equal(found["max"], whole.max(0))


@pytest.mark.parametrize("cuts", [[], [1, 2, 3, 4, 5], [3]])
@pytest.mark.parametrize("rows_of_block", [1, 2, 100])
def test_moments_of_numbers_that_are_not_finite_are_those_of_numpy(
    cuts: list[int], rows_of_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inf, nan = np.inf, np.nan
    columns = [
        *([1, 2, inf, 4, 5, 6], [inf] * 6, [1, -inf, 3, 4, 5, -inf], [inf, 1, 2, 3, 4, -inf]),
        *(
            [1, nan, 3, 4, 5, 6],
            [inf, 1, nan, 3, 4, 5],
            [nan, -inf, inf, 3, 4, 5],
            [1, 2, 3, 4, 5, 6],
        ),
    ]
    monkeypatch.setattr(moments, "BLOCK_ELEMENTS", rows_of_block * len(columns))
    whole = np.array(columns, np.float64).T
    merging = Merging(one("moments"))
    for start, stop in pairwise([0, *cuts, 6]):
        rows = whole[start:stop]
        merging.add(one("moments").of(Block(Dense(rows), np.arange(start, stop), len(columns))))
    found = merging.finish()
    with np.errstate(invalid="ignore"):
        expected = {"mean": whole.mean(0), "variance": whole.var(0)}
    expected |= {"min": whole.min(0), "max": whole.max(0)}
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["covariance", "pca"])
def test_products_of_numbers_that_are_not_finite_are_nan(name: str) -> None:
    rows = many(5)
    rows[3][0, 1] = np.inf
    found = over(one(name), rows, [2, 9])
    assert np.isnan(found["mean"]).tolist() == [False, True, False]
    matrix = found["covariance" if name == "covariance" else "components"]
    assert np.isnan(matrix[:, 1]).all()
    if name == "covariance":
        expected = np.cov(np.concatenate(rows).T[::2], bias=True)
        np.testing.assert_allclose(matrix[::2, ::2], expected, rtol=1e-12)


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


def test_covariance_is_that_of_numpy() -> None:
    rows = many(2)
    found = over(one("covariance"), rows, [5, 30])
    expected = np.cov(np.concatenate(rows).T, bias=True)
    np.testing.assert_allclose(found["covariance"], expected, rtol=1e-12)


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    draw = np.random.default_rng(3)
    rows = [draw.normal(size=(n, 3)) * [5.0, 2.0, 0.5] + 4 for n in (9, 20, 1, 70)]
    found = over(one({"pca": {"components": 2}}), rows, [1, 3])
    whole = np.concatenate(rows)
    _, singular, directions = np.linalg.svd(whole - whole.mean(0), full_matrices=False)
    signs = np.sign(directions[np.arange(3), np.abs(directions).argmax(1)])
    np.testing.assert_allclose(found["components"], (directions * signs[:, None])[:2], atol=1e-9)
    variance = singular**2 / len(whole)
    np.testing.assert_allclose(found["explained_variance"], variance[:2], rtol=1e-9)
    ratio = variance[:2] / variance.sum()
    np.testing.assert_allclose(found["explained_variance_ratio"], ratio, rtol=1e-9)


@pytest.mark.oracle
def test_components_are_those_of_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    draw = np.random.default_rng(7)
    mixing = draw.normal(size=(3, 3))
    rows = [draw.normal(size=(n, 3)) @ mixing - 3 for n in (40, 1, 11)]
    found = over(one({"pca": {"components": 2}}), rows, [1, 2])
    count = sum(map(len, rows))
    expected = decomposition.PCA(2).fit(np.concatenate(rows))
    signs = np.sign((expected.components_ * found["components"]).sum(1, keepdims=True))
    np.testing.assert_allclose(found["components"], expected.components_ * signs, atol=1e-9)
    np.testing.assert_allclose(found["mean"], expected.mean_, rtol=1e-12)
    # scikit-learn divides by one less than the number of rows.
    variance = expected.explained_variance_ * (count - 1) / count
    np.testing.assert_allclose(found["explained_variance"], variance, rtol=1e-9)
    np.testing.assert_allclose(
        found["explained_variance_ratio"], expected.explained_variance_ratio_, rtol=1e-9
    )


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


def test_features_that_do_not_vary_have_no_covariance() -> None:
    """A mean that is rounded leaves products of 1e-26 or so."""
    rows = np.full((4097, 3), 0.1)
    rows[:, 1] = np.arange(4097)
    asked = one("covariance")
    found = asked.finish(asked.of(Block(Dense(rows), np.arange(4097), 3)))["covariance"]
    assert np.abs(np.delete(found, 1, axis=1)[[0, 2]]).max() < 1e-32
    np.testing.assert_allclose(found[1, 1], np.arange(4097.0).var(), rtol=1e-13)


@pytest.mark.parametrize("statistic", statistics())
def test_an_empty_block_changes_nothing(statistic: Statistic) -> None:
    partial = statistic.of(block(many(9), 0))
    empty = statistic.of(block([], 40))
    for merged in (statistic.merge(partial, empty), statistic.merge(empty, partial)):
        assert merged.keys() == partial.keys()
        for name, array in partial.items():
            np.testing.assert_array_equal(merged[name], array, name)


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


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    """OpenBLAS divides products of this size, and its eigenvectors of 150 features, by thread."""
    rows = np.random.default_rng(8).normal(size=(3000, 300)).astype(np.float32)
    whole = Block(Dense(rows), np.arange(3000), 300)
    row = np.random.default_rng(9).normal(size=(7, 5000)).astype(np.float32)
    spec = TensorSpec("float32", (SAMPLES, Dim(size=7), Dim(size=5000)))
    project = Pipeline.parse({"do": [{"project": {"axis": 2, "to": 128}}]}, "s")
    found: list[list[Array]] = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            pca, covariance = one({"pca": {"components": 2}}), one("covariance")
            results = pca.finish(pca.of(whole))
            products = covariance.of(whole)["products"]
            narrow = project.bind("a:b", spec)[""].in_numpy(row)
        found.append([results["components"], products, narrow])
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_one_number_a_sample_is_one_feature() -> None:
    single = Block(Dense(np.array([3.0, 1.0])), np.array([4, 9]), 1)
    top = one({"top": {"k": 1}})
    assert top.finish(top.of(single))["samples"].tolist() == [[4]]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["momens"], "s.0: 'momens' is not a statistic. Nearest: 'moments'"),
        ([["moments"]], "s.0=['moments'] is not one statistic. Write its name, or a mapping"),
        ([], "s=[] is not a list of statistics, as in [moments]"),
        (["moments", {"moments": {"per": "all"}}], "s.1: 'moments' is given twice"),
        ([{"top": {"k": 0}}], "s.0.top.k=0 is not a whole number from 1 to"),
        ([{"top": {"smallest": 1}}], "s.0.top.smallest=1 is neither true nor false"),
        *(
            ([{name: options}], f"s.0.{name}={options!r} is not a mapping of options, as in")
            for name in ("moments", "quantiles", "pca", "top", "histogram")
            for options in (0, False, [], "")
        ),
        *(
            ([{name: options}], f"s.0.{name} takes no options, given {options!r}")
            for name in ("covariance", "sparsity", "coactivation")
            for options in (0, False, [], "")
        ),
        ([{"histogram": {"bins": 1}}], "s.0.histogram.bins=1 is not a whole number from 2 to"),
        (
            [{"histogram": {"edges": [0, 1], "bins": 2}}],
            "s.0.histogram takes edges, or bins and range. Write for example {bins",
        ),
        ([{"sparsity": 3}], "s.0.sparsity takes no options, given 3"),
        ([{"moments": {"per": "token"}}], "s.0.moments.per='token' is not known."),
        ([{"quantiles": {"q": 0.5}}], "s.0.quantiles.q=0.5 is not a list of quantiles"),
        ([{"pca": {"components": "all"}}], "s.0.pca.components='all' is not a whole number"),
    ],
)
def test_options_are_checked(asked: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Asked.parse(asked, "s")
    assert str(caught.value).startswith(message)


def operand(dtype: str, *dims: Dim) -> Operand:
    return Operand(dtype, tuple(map(Axis, (SAMPLES, *dims))), "a:b")


@pytest.mark.parametrize(
    ("options", "tensor", "message"),
    [
        ("moments", operand("string"), "s.0.moments needs numbers, but 'a:b' holds texts"),
        (
            "moments",
            operand("float32", Dim.along("token")),
            "s.0.moments treats the last axis as features, and that of 'a:b'",
        ),
        (
            "covariance",
            operand("float32", Dim(size=100_000)),
            "s.0.covariance of 'a:b' would hold 80,000,800,008 bytes for each shard",
        ),
        (
            {"pca": {"components": 9}},
            operand("float32", Dim(size=4)),
            "s.0.pca.components=9 is more than the 4 features of 'a:b'",
        ),
    ],
)
def test_what_is_not_defined_is_refused(options: object, tensor: Operand, message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        one(options).check(tensor)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("statistic", statistics())
def test_an_axis_without_elements_has_no_features(statistic: Statistic) -> None:
    for dims in [(0,), (3, 0), (0, 3)]:
        tensor = operand("float32", *(Dim(size=size) for size in dims))
        by_feature = any("feature" in axis for axes in statistic.dims.values() for axis in axes)
        if by_feature and dims[-1] == 0:
            with pytest.raises(SelectionError) as caught:
                statistic.check(tensor)
            assert str(caught.value) == (
                f"{statistic.at} treats the last axis as features, and that of 'a:b' with dims "
                f"{list(tensor.titles)} has size 0. Omit the tensor with not: {{path: 'a:b'}}"
            )
            continue
        statistic.check(tensor)
        nothing = Block(Dense(np.zeros((5, *dims), np.float32)), np.arange(5), dims[-1])
        assert statistic.summary(statistic.finish(statistic.of(nothing)))


@pytest.mark.parametrize(
    "dims",
    [
        ("sample", "token"),
        ("sample", "height", "width"),
        ("sample", None, "token", "token"),
        ("sample", "f(height,width)"),
    ],
)
def test_advice_for_a_last_axis_of_many_sizes_can_be_followed(dims: tuple[str | None, ...]) -> None:
    spec = TensorSpec.of("float32", dims, tuple(2 if dim is None else None for dim in dims))
    asked = one("moments")
    with pytest.raises(SelectionError) as caught:
        asked.check(Pipeline().bind("a:b", spec)[""].result)
    advised = re.search(r"do: (\[\{.*?\}\])", str(caught.value))
    assert advised is not None
    pipeline = Pipeline.parse({"do": yaml.safe_load(advised[1])}, "s")
    asked.check(pipeline.bind("a:b", spec)[""].result)


@pytest.mark.parametrize(("width", "count"), [(1, 1), (3, 3), (16, 16), (20, 16)])
def test_components_without_options_are_at_most_the_features(width: int, count: int) -> None:
    pca = one("pca")
    pca.check(operand("float32", Dim(size=width)))
    rows = np.random.default_rng(1).normal(size=(40, width))
    found = pca.finish(pca.of(Block(Dense(rows), np.arange(40), width)))
    assert found["components"].shape == (count, width)
    variance = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2 / 40
    np.testing.assert_allclose(found["explained_variance"], variance[:count], rtol=1e-9)
