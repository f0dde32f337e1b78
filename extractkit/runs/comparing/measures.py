"""Measures of the difference between two tensors, block by block in float64. NumPy only."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.values import Array, Values
from extractkit.runs.checking import counted
from extractkit.runs.comparing.pairing import Alignment, Pairs
from extractkit.runs.comparing.result import Counts, Errors, Tolerance
from extractkit.runs.views import TensorView

Mask = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]

_FAMILIES = {"f": "real", "c": "complex", "i": "integer", "u": "integer", "b": "boolean"}
_TEXT = "text"


ELEMENTS = 1 << 16
"""Most elements in a block: 0.5 MB as 64-bit floats, so that a few fit a processor's cache."""


class IncomparableError(Exception):
    """Two tensors have no corresponding elements; the message gives the reason."""


@dataclass(frozen=True, eq=False)
class Block:
    """Corresponding elements of both runs.

    Attributes:
        pairs: int64 (samples,), the pairs of samples that they belong to. A sample larger than a
            block is split over several.
        a, b: (samples, elements), each in its run's own dtype.
    """

    pairs: Pairs
    a: Array
    b: Array


_Pair = tuple[int, Array, Array]


def blocks(a: TensorView, b: TensorView, aligned: Alignment) -> Iterator[Block]:
    """Yield all corresponding elements in the order of the pairs. A constant is one pair, number 0.

    Raises:
        IncomparableError: the shapes of a sample differ.
        RunDirectoryError: a shard is missing or damaged.
    """
    pairs = _constants(a, b) if a.constant else _samples(a, b, aligned)
    waiting: list[_Pair] = []
    size = 0
    for pair in pairs:
        alike = not waiting or pair[1].size == waiting[0][1].size
        if not alike or size + pair[1].size > ELEMENTS:
            yield from _joined(waiting)
            waiting, size = [], 0
        waiting.append(pair)
        size += pair[1].size
    yield from _joined(waiting)


def _joined(pairs: Sequence[_Pair]) -> Iterator[Block]:
    """Yield samples of one size side by side, and a sample that is too large in several blocks."""
    if not pairs:
        return
    numbers = np.array([number for number, _, _ in pairs], np.int64)
    a = np.stack([one.reshape(-1) for _, one, _ in pairs])
    b = np.stack([other.reshape(-1) for _, _, other in pairs])
    for start in range(0, max(a.shape[1], 1), ELEMENTS):
        yield Block(numbers, a[:, start : start + ELEMENTS], b[:, start : start + ELEMENTS])


def _constants(a: TensorView, b: TensorView) -> Iterator[_Pair]:
    one, other = np.asarray(a), np.asarray(b)
    _check(one, other, "")
    yield 0, one, other


def _samples(a: TensorView, b: TensorView, aligned: Alignment) -> Iterator[_Pair]:
    both = zip(_picked(a, aligned.a), _picked(b, aligned.b), strict=True)
    for pair, (one, other) in enumerate(both):
        if one.shape != other.shape:
            _check(one, other, f"sample {aligned.sample(pair).id!r}: ")
        yield pair, one, other


def _check(one: Array, other: Array, of: str) -> None:
    if one.shape != other.shape:
        raise IncomparableError(f"{of}shape {list(one.shape)} against {list(other.shape)}")


def _picked(view: TensorView, numbers: Pairs) -> Iterable[Array]:
    """Return some samples, unpadded. In ascending order, every shard is read once."""
    if np.any(np.diff(numbers) <= 0):
        return (view.sample(int(number)) for number in numbers)
    return _ascending(view, numbers)


def _ascending(view: TensorView, numbers: Pairs) -> Iterator[Array]:
    wanted = iter(numbers.tolist())
    following = next(wanted, None)
    if following is None:
        return
    for number, value in enumerate(view):
        if number == following:
            yield value
            following = next(wanted, None)
            if following is None:
                return


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


class Tally:
    """Counts, errors and notable pairs of samples, all independent of the division into blocks.

    Attributes:
        first_unequal, first_beyond: the first pair with such an element, or None.
        worst: the pair with the largest error, the first of several; None if all are equal.
    """

    def __init__(self) -> None:
        self.first_unequal: int | None = None
        self.first_beyond: int | None = None
        self.worst: int | None = None
        self._worst_error = 0.0
        self._counts = np.zeros(5, np.int64)
        self._finite = 0
        self._max_abs = self._sum_abs = self._max_rel = self._sum_rel = 0.0
        self._moments = _Moments()

    def add(self, pairs: Pairs, found: Elements) -> None:
        """Add a block. `pairs` are the pairs of its rows."""
        self.first_unequal = _first(self.first_unequal, pairs, found.unequal)
        self.first_beyond = _first(self.first_beyond, pairs, found.beyond)
        numbers = found.numbers
        masks = [found.unequal, found.beyond]
        if numbers is not None:
            masks += [numbers.nan, numbers.lone]
            self._add_errors(pairs, numbers)
        for position, mask in enumerate(masks, start=1):
            self._counts[position] += np.count_nonzero(mask)
        self._counts[0] += found.unequal.size

    def counts(self) -> Counts:
        """Return the number of elements of each kind."""
        return Counts(*map(int, self._counts))

    def errors(self) -> Errors | None:
        """Return the differences of the numbers, or None if no pair of numbers was finite."""
        if not self._finite:
            return None
        return Errors(
            max_abs=self._max_abs,
            mean_abs=self._sum_abs / self._finite,
            max_rel=self._max_rel,
            mean_rel=self._sum_rel / self._finite,
            relative_l2=self._moments.relative_l2(),
            cosine=self._moments.cosine(),
            correlation=self._moments.correlation(),
        )

    def _add_errors(self, pairs: Pairs, numbers: Numbers) -> None:
        error, scale = numbers.error, numbers.scale
        self._finite += int(np.count_nonzero(numbers.finite))
        # Halved, so that the difference of two numbers of opposite sign cannot overflow.
        half = np.abs(numbers.a / 2 - numbers.b / 2)
        relative = 2 * np.divide(half, scale, out=np.zeros_like(error), where=scale > 0)
        self._max_abs = max(self._max_abs, float(error.max(initial=0)))
        self._max_rel = max(self._max_rel, float(relative.max(initial=0)))
        with np.errstate(over="ignore", invalid="ignore"):  # `_normed` is None if not finite
            self._sum_abs += float(error.sum())
            self._sum_rel += float(relative.sum())
            self._moments.add(_real(numbers.a, numbers.finite), _real(numbers.b, numbers.finite))
        by_pair = np.where(numbers.lone, np.inf, error).max(axis=1, initial=0)
        row = int(by_pair.argmax())
        error_of, pair = float(by_pair[row]), int(pairs[row])
        earlier = self.worst is not None and pair < self.worst and error_of == self._worst_error
        if error_of > self._worst_error or earlier:
            self._worst_error, self.worst = error_of, pair


def _first(known: int | None, pairs: Pairs, mask: Mask) -> int | None:
    found = pairs[mask.any(axis=1)]
    return min((int(pair) for pair in (known, *found[:1]) if pair is not None), default=None)


def _real(array: Array, finite: Mask) -> Reals:
    """Return the finite numbers as one series, complex numbers as their two parts."""
    return np.ascontiguousarray(array[finite]).view(np.float64)


class _Moments:
    """Sums of products of two series, about zero and about their means.

    Those about the means are merged block by block (Chan, Golub and LeVeque, 1979), which avoids
    cancellation if a mean is large compared with the spread.
    """

    def __init__(self) -> None:
        self._count = 0
        self._means = np.zeros(2)
        self._about_means = np.zeros(3)  # xx, yy, xy
        self._about_zero = np.zeros(3)
        self._difference = 0.0  # sum of (x − y)²

    def add(self, x: Reals, y: Reals) -> None:
        if not x.size:
            return
        means = np.array([x.mean(), y.mean()])
        apart = means - self._means
        total = self._count + x.size
        between = np.array([apart[0] ** 2, apart[1] ** 2, apart[0] * apart[1]])
        self._about_means += _products(x - means[0], y - means[1])
        self._about_means += between * (self._count * (x.size / total))
        self._about_zero += _products(x, y)
        self._difference += float(np.square(x - y).sum())
        self._means += apart * (x.size / total)
        self._count = total

    def relative_l2(self) -> float | None:
        reference = float(self._about_zero[0])
        return math.sqrt(self._difference / reference) if 0 < reference < math.inf else None

    def cosine(self) -> float | None:
        return _normed(*map(float, self._about_zero))

    def correlation(self) -> float | None:
        return _normed(*map(float, self._about_means))


def _products(x: Reals, y: Reals) -> Reals:
    return np.array([(x * x).sum(), (y * y).sum(), (x * y).sum()])


def _normed(xx: float, yy: float, xy: float) -> float | None:
    """Return xy / √(xx · yy), within −1 … 1, or None if it is undefined or overflows."""
    if not (0 < xx < math.inf and 0 < yy < math.inf and math.isfinite(xy)):
        return None
    return min(1.0, max(-1.0, xy / (math.sqrt(xx) * math.sqrt(yy))))


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


def compare_values(value: Values, stored: Values) -> Deviation:
    """Compare two values of a tensor in one shard, including their lengths and shapes."""
    parts, others = value.parts(), stored.parts()
    if parts.keys() != others.keys():
        return Deviation(1, 1, form="one is ragged, the other is not")
    return _summed(compare_arrays(parts[name], others[name]) for name in parts)


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
