"""Moments, covariance and components are those of NumPy and scikit-learn."""

from itertools import pairwise

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from extractkit.core.spec import SAMPLES, Dim, TensorSpec
from extractkit.core.statistics import Array, Block, Merging, moments
from extractkit.core.transforms.pipeline import Pipeline
from extractkit.core.values import Dense
from tests.statistics.examples import many, one, operand, over


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


def test_features_that_do_not_vary_have_no_covariance() -> None:
    """A mean that is rounded leaves products of 1e-26 or so."""
    rows = np.full((4097, 3), 0.1)
    rows[:, 1] = np.arange(4097)
    asked = one("covariance")
    found = asked.finish(asked.of(Block(Dense(rows), np.arange(4097), 3)))["covariance"]
    assert np.abs(np.delete(found, 1, axis=1)[[0, 2]]).max() < 1e-32
    np.testing.assert_allclose(found[1, 1], np.arange(4097.0).var(), rtol=1e-13)


@pytest.mark.parametrize(("width", "count"), [(1, 1), (3, 3), (16, 16), (20, 16)])
def test_components_without_options_are_at_most_the_features(width: int, count: int) -> None:
    pca = one("pca")
    pca.check(operand("float32", Dim(size=width)))
    rows = np.random.default_rng(1).normal(size=(40, width))
    found = pca.finish(pca.of(Block(Dense(rows), np.arange(40), width)))
    assert found["components"].shape == (count, width)
    variance = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2 / 40
    np.testing.assert_allclose(found["explained_variance"], variance[:count], rtol=1e-9)


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
