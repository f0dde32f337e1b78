"""Measures of the difference between two blocks of elements, in float64. NumPy only."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.statistics import Arrays
from extractkit.core.statistics.products import PairSums, correlation, cosine, relative_norm
from extractkit.core.values import Array, Values
from extractkit.errors import counted
from extractkit.runs.comparing.pairing import Pairs
from extractkit.runs.comparing.result import Counts, Errors, Tolerance

Mask = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]

_FAMILIES = {"f": "real", "c": "complex", "i": "integer", "u": "integer", "b": "boolean"}
_TEXT = "text"


@dataclass(frozen=True, eq=False)
class Numbers:
    """The numbers of both arrays and their differences, 0 where a pair is not finite.

    Attributes:
        a, b: the numbers, float64 or complex128.
        finite: where both are finite.
        nan: where both are NaN.
        lone: where only one is NaN or infinite, or the infinities have opposite signs.
        error: |a − b|.
        scale: max(|a|, |b|).
    """

    a: Array
    b: Array
    finite: Mask
    nan: Mask
    lone: Mask
    error: Reals
    scale: Reals


@dataclass(frozen=True, eq=False)
class Elements:
    """For each element, whether its bits differ and whether it is beyond the tolerance.

    `numbers` is None for texts.
    """

    unequal: Mask
    beyond: Mask
    numbers: Numbers | None


def family(dtype: np.dtype[Any]) -> str:
    """Return the kind of values of a type. Only values of one kind can be compared."""
    return _FAMILIES.get(dtype.kind, _TEXT)


def compare(a: Array, b: Array, tolerance: Tolerance) -> Elements:
    """Compare two arrays of one shape and one family."""
    sort = family(a.dtype)
    if sort == _TEXT:
        unequal = np.asarray(a != b, bool)
        return Elements(unequal, unequal, None)
    numbers = _numbers(a, b)
    unequal = _unequal_bits(a, b) if a.dtype == b.dtype else _unequal_values(a, b)
    if sort == "boolean":
        return Elements(unequal, unequal, numbers)
    rtol = 0.0 if sort == "integer" else tolerance.rtol
    beyond = (numbers.error > tolerance.atol + rtol * numbers.scale) | numbers.lone
    return Elements(unequal, beyond, numbers)


def _numbers(a: Array, b: Array) -> Numbers:
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    finite = np.isfinite(x) & np.isfinite(y)
    nan = np.isnan(x) & np.isnan(y)
    lone = ~finite & ~nan & (x != y)
    x, y = np.where(finite, x, 0), np.where(finite, y, 0)
    with np.errstate(over="ignore"):  # the difference of the largest numbers may overflow
        error = np.abs(x - y)
    if a.dtype.kind in "iu":
        # Above 2**53, two integers that differ by one may be equal as floats.
        error = np.maximum(error, a != b)
    return Numbers(x, y, finite, nan, lone, error, np.maximum(np.abs(x), np.abs(y)))


def _unequal_values(a: Array, b: Array) -> Mask:
    return np.asarray((a != b) & ~(_nan(a) & _nan(b)))


def _nan(array: Array) -> Mask:
    return np.asarray(array != array)


def _unequal_bits(a: Array, b: Array) -> Mask:
    """Return which elements of two arrays of one type differ in any bit, as 0.0 and −0.0 do."""
    word = min(a.dtype.itemsize, 8)
    shape = (*a.shape, a.dtype.itemsize // word)
    words = (np.ascontiguousarray(one).view(f"u{word}").reshape(shape) for one in (a, b))
    return np.asarray(np.not_equal(*words).any(axis=-1))


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts, errors and notable pairs of samples of some elements.

    Attributes:
        counts: numbers of elements.
        finite: number of pairs of finite numbers.
        max_abs, sum_abs, max_rel, sum_rel: of their absolute and relative differences.
        first_unequal, first_beyond: the first pair of samples with such an element, or None.
        worst: the pair with the largest error, the first of several; None if all are equal.
        worst_error: its error; infinite if it has a lone NaN or infinity.
        sums: sums over x and x, y and y, and x and y, the finite numbers of both sides; None for
            texts. Complex numbers count as two numbers.
    """

    counts: Counts
    finite: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    max_rel: float = 0.0
    sum_rel: float = 0.0
    first_unequal: int | None = None
    first_beyond: int | None = None
    worst: int | None = None
    worst_error: float = 0.0
    sums: tuple[Arrays, Arrays, Arrays] | None = None

    def errors(self) -> Errors | None:
        """Return the differences of the numbers, or None if no pair of numbers was finite."""
        if not self.finite or self.sums is None:
            return None
        return Errors(
            max_abs=self.max_abs,
            mean_abs=self.sum_abs / self.finite,
            max_rel=self.max_rel,
            mean_rel=self.sum_rel / self.finite,
            relative_l2=relative_norm(self.sums[0], self.sums[2]),
            cosine=cosine(*self.sums),
            correlation=correlation(*self.sums),
        )


class Tallying:
    """The accumulator of tallies. Blocks may be merged in any order."""

    _sums = PairSums()

    def of(self, block: tuple[Pairs, Elements]) -> Tally:
        """Return the tally of a block: the pairs of its rows, and its compared elements."""
        pairs, found = block
        numbers = found.numbers
        unequal, beyond = map(int, map(np.count_nonzero, (found.unequal, found.beyond)))
        nan = 0 if numbers is None else int(np.count_nonzero(numbers.nan))
        lone = 0 if numbers is None else int(np.count_nonzero(numbers.lone))
        tally = Tally(
            Counts(found.unequal.size, unequal, beyond, nan, lone),
            first_unequal=_first(pairs, found.unequal),
            first_beyond=_first(pairs, found.beyond),
        )
        return tally if numbers is None else self._with_errors(tally, pairs, numbers)

    def _with_errors(self, tally: Tally, pairs: Pairs, numbers: Numbers) -> Tally:
        error, scale = numbers.error, numbers.scale
        # Halved, so that the difference of two numbers of opposite sign cannot overflow.
        half = np.abs(numbers.a / 2 - numbers.b / 2)
        relative = 2 * np.divide(half, scale, out=np.zeros_like(error), where=scale > 0)
        by_pair = np.where(numbers.lone, np.inf, error).max(axis=1, initial=0)
        row = int(by_pair.argmax())
        x, y = (_real(side, numbers.finite) for side in (numbers.a, numbers.b))
        with np.errstate(over="ignore"):  # a sum may overflow
            return replace(
                tally,
                finite=int(np.count_nonzero(numbers.finite)),
                max_abs=float(error.max(initial=0)),
                sum_abs=float(error.sum()),
                max_rel=float(relative.max(initial=0)),
                sum_rel=float(relative.sum()),
                worst=int(pairs[row]) if by_pair[row] else None,
                worst_error=float(by_pair[row]),
                sums=(self._sums.of((x, x)), self._sums.of((y, y)), self._sums.of((x, y))),
            )

    def merge(self, one: Tally, other: Tally) -> Tally:
        """Add counts and sums, and keep the extremes."""
        worst = max((one, other), key=_badness)
        sums = one.sums
        if one.sums is not None and other.sums is not None:
            x, y, both = map(self._sums.merge, one.sums, other.sums)
            sums = (x, y, both)
        return Tally(
            Counts(*map(add, astuple(one.counts), astuple(other.counts))),
            one.finite + other.finite,
            max(one.max_abs, other.max_abs),
            one.sum_abs + other.sum_abs,
            max(one.max_rel, other.max_rel),
            one.sum_rel + other.sum_rel,
            _earlier(one.first_unequal, other.first_unequal),
            _earlier(one.first_beyond, other.first_beyond),
            worst.worst,
            worst.worst_error,
            sums,
        )

    def finish(self, partial: Tally) -> Tally:
        """Return the tally as it is."""
        return partial


def _badness(tally: Tally) -> tuple[float, int]:
    """Return the error of the worst pair, and a larger number for an earlier pair."""
    return tally.worst_error, 0 if tally.worst is None else -tally.worst


def _first(pairs: Pairs, mask: Mask) -> int | None:
    found = pairs[mask.any(axis=1)]
    return int(found[0]) if len(found) else None


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((pair for pair in (one, other) if pair is not None), default=None)


def _real(array: Array, finite: Mask) -> Reals:
    """Return the finite numbers as (numbers, 1), complex numbers as their two parts."""
    return np.ascontiguousarray(array[finite]).view(np.float64).reshape(-1, 1)


_RTOL, _ATOL = 1e-4, 1e-5
_RTOL_16, _ATOL_16 = 1e-2, 1e-3  # for 16-bit values

TOLERATED = f"{_ATOL:g} + {_RTOL:g} of a tensor's largest value"
"""How far values may differ where their last bits cannot be expected to agree (16-bit values: a
hundred times as far). Sums cancel in a layer, so a small value may be as far off as a large one.

Other tensors in the graph, other fused kernels and another number of threads move the outputs of
BERT by 5e-6, twenty times less."""

TOLERATED_16 = f"{_ATOL_16:g} + {_RTOL_16:g} of a tensor's largest value"
"""The same for values computed with the 8 to 11 significant bits of 16-bit numbers."""


@dataclass(frozen=True)
class Deviation:
    """The difference between two values of one tensor.

    Attributes:
        unequal, beyond: how many elements differ in any bit, and by more than the tolerance.
        error: the largest difference of two finite elements.
        form: how types or shapes differ. In that case no elements are compared.
        lone: how many elements are NaN or infinite in one value only, or infinite with opposite
            signs.
        largest: the largest element of the stored value.
    """

    unequal: int = 0
    beyond: int = 0
    error: float = 0.0
    form: str | None = None
    lone: int = 0
    largest: float = 0.0

    @property
    def relative(self) -> float:
        """The largest difference relative to the largest element."""
        return self.error / self.largest if self.largest else np.inf if self.error else 0.0

    def __str__(self) -> str:
        if self.form is not None:
            return self.form
        listed = []
        if self.lone:
            are = "is" if self.lone == 1 else "are"
            listed.append(
                f"{counted(self.lone, 'element')} {are} NaN or infinite in one of them alone"
            )
        if (rest := self.unequal - self.lone) > 0:
            listed.append(f"{counted(rest, 'element')} apart, by {self.error:.2g} at most")
        return ", ".join(listed)


def compare_values(value: Values, stored: Values, *, coarse: bool = False) -> Deviation:
    """Compare two values of a tensor in one shard, including their lengths and shapes.

    Args:
        coarse: see `compare_arrays`.
    """
    parts, others = value.parts(), stored.parts()
    if parts.keys() != others.keys():
        return Deviation(1, 1, form="one is ragged, the other is not")
    return _summed(compare_arrays(parts[name], others[name], coarse=coarse) for name in parts)


def compare_arrays(value: Array, stored: Array, *, coarse: bool = False) -> Deviation:
    """Compare two arrays of any shape.

    Args:
        coarse: whether the numbers were computed from 16-bit values.
    """
    if value.shape != stored.shape:
        return Deviation(1, 1, form=f"shape {list(value.shape)}, not {list(stored.shape)}")
    texts = family(value.dtype) == family(stored.dtype) == "text"
    if value.dtype != stored.dtype and not texts:
        return Deviation(1, 1, form=f"type {value.dtype}, not {stored.dtype}")
    found = compare(np.atleast_1d(value), np.atleast_1d(stored), _tolerance(stored, coarse))
    error, lone = 0.0, 0
    if found.numbers is not None:
        error, lone = float(found.numbers.error.max(initial=0)), int(found.numbers.lone.sum())
    beyond = int(found.beyond.sum())
    return Deviation(int(found.unequal.sum()), beyond, error, lone=lone, largest=_largest(stored))


def _tolerance(stored: Array, coarse: bool) -> Tolerance:
    """Return the tolerance for every element, based on the largest. Integers must be equal."""
    if stored.dtype.kind not in "fc":
        return Tolerance(0, 0)
    coarse = coarse or stored.dtype.itemsize == 2
    rtol, atol = (_RTOL_16, _ATOL_16) if coarse else (_RTOL, _ATOL)
    return Tolerance(0, atol + rtol * _largest(stored))


def _largest(array: Array) -> float:
    if array.dtype.kind not in "fciu":
        return 0.0
    return float(np.abs(array[np.isfinite(array)].astype(complex)).max(initial=0))


def _summed(parts: Iterable[Deviation]) -> Deviation:
    every = list(parts)
    return Deviation(
        sum(one.unequal for one in every),
        sum(one.beyond for one in every),
        max(one.error for one in every),
        next((one.form for one in every if one.form is not None), None),
        sum(one.lone for one in every),
        max(one.largest for one in every),
    )
