"""Two arrays held against each other element by element. NumPy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.runs.comparison.result import Tolerance
from extractkit.values import Array

Mask = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]

_FAMILIES = {"f": "real", "c": "complex", "i": "integer", "u": "integer", "b": "boolean"}
_TEXT = "text"


@dataclass(frozen=True, eq=False)
class Numbers:
    """The numbers of both arrays, and how far apart they are; 0 wherever a pair is not finite.

    Attributes:
        a, b: float64 or complex128.
        finite: where both are finite.
        nan: where both are NaN.
        lone: where one alone is NaN or infinite, or the infinities have opposite signs.
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
    """Of each element, whether its bits differ and whether it is beyond the tolerance.

    `numbers` is None for texts.
    """

    unequal: Mask
    beyond: Mask
    numbers: Numbers | None


def family(dtype: np.dtype[Any]) -> str:
    """What sort of thing an array of this type holds; only those of one sort can be compared."""
    return _FAMILIES.get(dtype.kind, _TEXT)


def compare(a: Array, b: Array, tolerance: Tolerance) -> Elements:
    """Hold two arrays of one shape and one family against each other."""
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
    with np.errstate(over="ignore"):  # the largest numbers may be infinitely far apart
        error = np.abs(x - y)
    if a.dtype.kind in "iu":
        # Beyond 2**53 two integers may be the same number as floats, and still differ by one.
        error = np.maximum(error, a != b)
    return Numbers(x, y, finite, nan, lone, error, np.maximum(np.abs(x), np.abs(y)))


def _unequal_values(a: Array, b: Array) -> Mask:
    return np.asarray((a != b) & ~(_nan(a) & _nan(b)))


def _nan(array: Array) -> Mask:
    return np.asarray(array != array)


def _unequal_bits(a: Array, b: Array) -> Mask:
    """Which elements of two arrays of one type differ in any bit: 0.0 and −0.0 do."""
    word = min(a.dtype.itemsize, 8)
    shape = (*a.shape, a.dtype.itemsize // word)
    words = (np.ascontiguousarray(one).view(f"u{word}").reshape(shape) for one in (a, b))
    return np.asarray(np.not_equal(*words).any(axis=-1))
