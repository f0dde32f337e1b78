"""Laws of the measures, for arrays of every kind of number, cut anywhere."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from extractkit.core.statistics import Merging
from extractkit.core.values import Array
from extractkit.runs.comparing.measures import Tally, Tallying, compare
from extractkit.runs.comparing.result import Errors, Tolerance

DTYPES = ("float16", "float32", "float64", "int8", "uint64", "int64", "bool", "complex64")
SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5)


@st.composite
def two_arrays(draw: st.DrawFn) -> tuple[Array, Array]:
    """Two arrays of one shape and one type, some elements of them the same."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(SHAPES)
    one, other = (draw(arrays.arrays(dtype, shape)) for _ in "ab")
    same = draw(arrays.arrays(bool, shape))
    return one, np.where(same, one, other)


def tally(a: Array, b: Array, tolerance: Tolerance | None = None) -> Tally:
    return Tallying().of((np.arange(len(a)), compare(a, b, tolerance or Tolerance())))


@given(two_arrays())
def test_an_array_equals_itself(pair: tuple[Array, Array]) -> None:
    one, _ = pair
    found = tally(one, one.copy(), Tolerance(0, 0))
    counts = found.counts
    assert (counts.elements, counts.unequal, counts.beyond, counts.lone) == (one.size, 0, 0, 0)
    assert (found.first_unequal, found.first_beyond, found.worst) == (None, None, None)
    errors = found.errors()
    if errors is not None:
        assert (errors.max_abs, errors.max_rel, errors.relative_l2 or 0) == (0, 0, 0)
        assert errors.cosine is None or errors.cosine == pytest.approx(1)


@given(two_arrays(), st.sampled_from([0.0, 1e-5, 0.5]), st.sampled_from([0.0, 1e-6, 3.0]))
def test_all_but_the_norm_is_the_same_whichever_comes_first(
    pair: tuple[Array, Array], rtol: float, atol: float
) -> None:
    a, b = pair
    one, other = tally(a, b, Tolerance(rtol, atol)), tally(b, a, Tolerance(rtol, atol))
    assert one.counts == other.counts
    assert (one.first_unequal, one.first_beyond) == (other.first_unequal, other.first_beyond)
    assert one.worst == other.worst
    assert measures(one.errors()) == pytest.approx(measures(other.errors()), nan_ok=True)


@given(two_arrays())
def test_bits_and_tolerance_are_those_of_plain_numpy(pair: tuple[Array, Array]) -> None:
    a, b = pair
    found = tally(a, b).counts
    flat_a, flat_b = np.ravel(a), np.ravel(b)
    bits = [one.tobytes() != other.tobytes() for one, other in zip(flat_a, flat_b, strict=True)]
    assert found.unequal == sum(bits)
    beyond = 0
    for one, other in zip(flat_a.tolist(), flat_b.tolist(), strict=True):
        if a.dtype.kind in "iub":
            beyond += one != other
        else:
            beyond += not _close(complex(one), complex(other))
    assert found.beyond == beyond


def _close(one: complex, other: complex) -> bool:
    if np.isnan(one) or np.isnan(other):
        return bool(np.isnan(one) and np.isnan(other))
    if np.isinf(one) or np.isinf(other):
        return one == other
    try:
        apart = abs(one - other)
    except OverflowError:
        return False
    return apart <= 1e-6 + 1e-5 * max(abs(one), abs(other))


@given(two_arrays(), st.integers(1, 4), st.integers(1, 4))
@example((np.full((2, 5), 1.5e113), np.full((2, 5), 1.2e194)), 1, 1)  # sums beyond float64
def test_nothing_depends_on_how_the_elements_are_cut(
    pair: tuple[Array, Array], rows: int, columns: int
) -> None:
    a, b = pair
    whole, tallying = tally(a, b), Tallying()
    merging = Merging(tallying)
    for row in range(0, len(a), rows):
        for column in range(0, a.shape[1], columns):
            part = (slice(row, row + rows), slice(column, column + columns))
            numbers = np.arange(len(a))[part[0]]
            merging.add(tallying.of((numbers, compare(a[part], b[part], Tolerance()))))
    cut = merging.finish()
    assert cut.counts == whole.counts
    assert cut.worst == whole.worst
    assert (cut.first_unequal, cut.first_beyond) == (whole.first_unequal, whole.first_beyond)
    one, other = cut.errors(), whole.errors()
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert (one.max_abs, one.max_rel) == (other.max_abs, other.max_rel)
        assert one.mean_abs == pytest.approx(other.mean_abs)


def measures(errors: Errors | None) -> list[float]:
    """All that does not take one side as the reference; NaN for what is not defined."""
    if errors is None:
        return []
    found = {key: value for key, value in asdict(errors).items() if key != "relative_l2"}
    return [np.nan if value is None else value for value in found.values()]
