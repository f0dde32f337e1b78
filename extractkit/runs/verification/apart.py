"""How far values that were computed again are from those that are stored. NumPy only."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from extractkit.runs.comparison.elements import compare, family
from extractkit.runs.comparison.result import Tolerance
from extractkit.runs.verification.result import counted
from extractkit.values import Array, Values

_RTOL, _ATOL = 1e-4, 1e-5
_RTOL_16, _ATOL_16 = 1e-2, 1e-3  # of values of 16 bits

TOLERATED = f"{_ATOL:g} + {_RTOL:g} of a tensor's largest value"
"""How far values may be apart where their last bits are not to be expected (values of 16 bits a
hundred times as far). Sums cancel in a layer, so a small value may be as far off as a large one.

What else a graph computes, which kernels are fused and how many threads share a sum moves the
outputs of BERT by 5e-6: twenty times less."""

TOLERATED_16 = f"{_ATOL_16:g} + {_RTOL_16:g} of a tensor's largest value"
"""The same of values that were computed with the 8 to 11 significant bits of 16-bit numbers."""


@dataclass(frozen=True)
class Apart:
    """How far two values of one tensor are apart.

    Attributes:
        unequal, beyond: how many elements differ in any bit, and by more than is tolerated.
        error: the largest difference of two finite elements.
        lone: elements that are NaN or infinite in one alone, or infinities of opposite signs.
        form: how their types or shapes differ; then no element is compared.
    """

    unequal: int = 0
    beyond: int = 0
    error: float = 0.0
    form: str | None = None
    lone: int = 0
    largest: float = 0.0

    @property
    def relative(self) -> float:
        """The largest difference in units of the largest element."""
        return self.error / self.largest if self.largest else np.inf if self.error else 0.0

    def __str__(self) -> str:
        if self.form is not None:
            return self.form
        told = []
        if self.lone:
            are = "is" if self.lone == 1 else "are"
            told.append(
                f"{counted(self.lone, 'element')} {are} NaN or infinite in one of them alone"
            )
        if (rest := self.unequal - self.lone) > 0:
            told.append(f"{counted(rest, 'element')} apart, by {self.error:.2g} at most")
        return ", ".join(told)


def values_apart(value: Values, stored: Values) -> Apart:
    """Two tensors of a shard. Their lengths and shapes are parts of them like their values."""
    parts, others = value.parts(), stored.parts()
    if parts.keys() != others.keys():
        return Apart(1, 1, form="one is ragged, the other is not")
    return _summed(arrays_apart(parts[name], others[name]) for name in parts)


def arrays_apart(value: Array, stored: Array, *, coarse: bool = False) -> Apart:
    """Two arrays of any shape.

    Args:
        coarse: whether real numbers have passed through values of 16 bits.
    """
    if value.shape != stored.shape:
        return Apart(1, 1, form=f"shape {list(value.shape)}, not {list(stored.shape)}")
    texts = family(value.dtype) == family(stored.dtype) == "text"
    if value.dtype != stored.dtype and not texts:
        return Apart(1, 1, form=f"type {value.dtype}, not {stored.dtype}")
    found = compare(np.atleast_1d(value), np.atleast_1d(stored), _tolerance(stored, coarse))
    error, lone = 0.0, 0
    if found.numbers is not None:
        error, lone = float(found.numbers.error.max(initial=0)), int(found.numbers.lone.sum())
    beyond = int(found.beyond.sum())
    return Apart(int(found.unequal.sum()), beyond, error, lone=lone, largest=_largest(stored))


def _tolerance(stored: Array, coarse: bool) -> Tolerance:
    """What is tolerated of every element, by the largest one; integers must be equal."""
    if stored.dtype.kind not in "fc":
        return Tolerance(0, 0)
    coarse = coarse or stored.dtype.itemsize == 2
    rtol, atol = (_RTOL_16, _ATOL_16) if coarse else (_RTOL, _ATOL)
    return Tolerance(0, atol + rtol * _largest(stored))


def _largest(array: Array) -> float:
    if array.dtype.kind not in "fciu":
        return 0.0
    return float(np.abs(array[np.isfinite(array)].astype(complex)).max(initial=0))


def _summed(parts: Iterable[Apart]) -> Apart:
    every = list(parts)
    return Apart(
        sum(one.unequal for one in every),
        sum(one.beyond for one in every),
        max(one.error for one in every),
        next((one.form for one in every if one.form is not None), None),
        sum(one.lone for one in every),
        max(one.largest for one in every),
    )
