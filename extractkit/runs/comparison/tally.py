"""What is counted and summed over the blocks of one tensor, in 64-bit floats. NumPy only."""

import math

import numpy as np

from extractkit.runs.comparison.alignment import Pairs
from extractkit.runs.comparison.elements import Elements, Mask, Numbers, Reals
from extractkit.runs.comparison.result import Counts, Errors
from extractkit.values import Array


class Tally:
    """Counts, errors, and which pairs of samples stand out; nothing of it depends on the blocks.

    Attributes:
        first_unequal, first_beyond: the first pair with such an element; None where there is none.
        worst: the pair with the largest error, the first of several; None where all are equal.
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
        """Add a block: `pairs` are those of its rows."""
        self.first_unequal = _first(self.first_unequal, pairs, found.unequal)
        self.first_beyond = _first(self.first_beyond, pairs, found.beyond)
        numbers = found.numbers
        masks = [found.unequal, found.beyond]
        if numbers is not None:
            masks += [numbers.nan, numbers.lone]
            self._add_errors(pairs, numbers)
        for place, mask in enumerate(masks, start=1):
            self._counts[place] += np.count_nonzero(mask)
        self._counts[0] += found.unequal.size

    def counts(self) -> Counts:
        """How many elements there were, and of which sort."""
        return Counts(*map(int, self._counts))

    def errors(self) -> Errors | None:
        """How far apart the numbers are; None where no pair of numbers was finite."""
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
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite has no `_normed`
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
    """The finite numbers end to end, complex ones as their two parts."""
    return np.ascontiguousarray(array[finite]).view(np.float64)


class _Moments:
    """Sums of products of two series, about zero and about their means.

    Those about the means are merged block by block (Chan, Golub and LeVeque, 1979): nothing cancels
    where a mean is large beside the spread.
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
    """xy / √(xx · yy), within −1 … 1; None where it is not defined, or not in 64 bits."""
    if not (0 < xx < math.inf and 0 < yy < math.inf and math.isfinite(xy)):
        return None
    return min(1.0, max(-1.0, xy / (math.sqrt(xx) * math.sqrt(yy))))
