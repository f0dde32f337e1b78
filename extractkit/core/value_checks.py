"""Checks of stored values: NaN, infinities, extremes, values that never change.

Most values are finite and differ between samples, which two passes (minimum, maximum) and one
comparison confirm. Slower checks run only where these fail.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from extractkit.core.digests import Algorithm, digest
from extractkit.core.values import Array, Dense, Values, sample_shapes

_FIRST = 5
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ValueChecks:
    """Findings in one tensor's stored values, for a shard or for a whole run.

    Samples without a value (`absent`) are not counted.

    Attributes:
        nan, inf: number of NaN and of infinite elements.
        samples: number of samples with such elements.
        first: the first few of these samples: by index, their numbers of NaN and infinite elements.
        minimum, maximum: of the finite elements, exact for whole numbers; None if there are none,
            or no numbers.
        same: SHA-256 of a sample's value if all samples are bitwise identical, else None.
        examined: number of samples checked; 0 for a tensor that does not depend on them.
        elements: number of elements of these samples.
    """

    nan: int = 0
    inf: int = 0
    samples: int = 0
    first: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    minimum: int | float | None = None
    maximum: int | float | None = None
    same: str | None = None
    examined: int = 0
    elements: int = 0

    @property
    def finite(self) -> bool:
        """Whether no element is NaN or infinite."""
        return not self.nan and not self.inf

    @property
    def constant(self) -> bool:
        """Whether there are several elements, and all finite ones are equal."""
        return self.elements > 1 and self.minimum is not None and self.minimum == self.maximum

    @property
    def never_changes(self) -> bool:
        """Whether there are several samples, and all have the same value."""
        return self.same is not None and self.examined > 1


class Examination:
    """The accumulator of `ValueChecks`. Shards may be merged in any order."""

    def of(self, block: tuple[Values, int | None]) -> ValueChecks:
        """Check one tensor's values.

        Args:
            block: the values of a shard, or of a tensor that does not depend on the samples, and
                the index of the shard's first sample; None if there are no samples.
        """
        values, first_sample = block
        if first_sample is None:
            return _examined_as_one(values.values)
        present = _present(values)
        array = _elements(values, present)
        finite, extremes = _extremes(array)
        found = {} if finite else non_finite_samples(values)
        return ValueChecks(
            nan=sum(nan for nan, _ in found.values()),
            inf=sum(inf for _, inf in found.values()),
            samples=len(found),
            first={str(first_sample + at): found[at] for at in sorted(found)[:_FIRST]},
            minimum=extremes[0],
            maximum=extremes[1],
            same=_same(values, present, array),
            examined=len(present),
            elements=array.size,
        )

    def merge(self, one: ValueChecks, other: ValueChecks) -> ValueChecks:
        """Add the counts, and keep the extremes and the first samples."""
        first = {**one.first, **other.first}
        lowest = [part.minimum for part in (one, other) if part.minimum is not None]
        highest = [part.maximum for part in (one, other) if part.maximum is not None]
        same = {part.same for part in (one, other) if part.examined}
        return ValueChecks(
            nan=one.nan + other.nan,
            inf=one.inf + other.inf,
            samples=one.samples + other.samples,
            first={index: first[index] for index in sorted(first, key=int)[:_FIRST]},
            minimum=min(lowest, default=None),
            maximum=max(highest, default=None),
            same=same.pop() if len(same) == 1 else None,
            examined=one.examined + other.examined,
            elements=one.elements + other.elements,
        )

    def finish(self, partial: ValueChecks) -> ValueChecks:
        """Return the checks as they are."""
        return partial


EXAMINATION = Examination()
"""The only instance, since there are no options."""


def non_finite_samples(values: Values) -> dict[int, tuple[int, int]]:
    """Return the samples with NaN or infinite elements: by position, the numbers of each."""
    array = values.values
    if array.dtype.kind not in "fc" or not array.size:
        return {}
    counts = []
    for marks in (np.isnan(array), np.isinf(array)):
        if isinstance(values, Dense):
            counts.append(np.count_nonzero(marks.reshape(len(array), -1), axis=1))
        else:
            by_row = np.count_nonzero(marks.reshape(len(array), -1), axis=1)
            before = np.concatenate([np.zeros(1, np.int64), np.cumsum(by_row)])
            counts.append(np.diff(before[values.offsets]))
    absent = set(values.absent)
    return {
        int(at): (int(counts[0][at]), int(counts[1][at]))
        for at in np.flatnonzero(counts[0] + counts[1])
        if int(at) not in absent
    }


def _examined_as_one(array: Array) -> ValueChecks:
    finite, extremes = _extremes(array)
    return ValueChecks(
        nan=0 if finite else int(np.count_nonzero(np.isnan(array))),
        inf=0 if finite else int(np.count_nonzero(np.isinf(array))),
        minimum=extremes[0],
        maximum=extremes[1],
        elements=array.size,
    )


def _present(values: Values) -> npt.NDArray[np.int64]:
    return np.delete(np.arange(len(values)), list(values.absent))


def _elements(values: Values, present: npt.NDArray[np.int64]) -> Array:
    """Return all elements of the samples that have a value, in order."""
    # An absent sample of varying shape has no elements.
    partly = isinstance(values, Dense) and len(present) < len(values)
    return values.values[present] if partly else values.values


def _extremes(array: Array) -> tuple[bool, tuple[int | float | None, int | float | None]]:
    """Return whether all elements are finite, and the extremes of those that are."""
    kind = array.dtype.kind
    if kind == "c":
        return bool(np.isfinite(array).all()), (None, None)
    if kind not in "fiub" or not array.size:
        return True, (None, None)
    # Both are NaN if any element is, so these two passes cover all elements.
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()
    if kind != "f":  # integers, exact even where floats could not distinguish them
        return True, (int(low), int(high))
    if np.isfinite(low) and np.isfinite(high):
        return True, (float(low), float(high))
    finite = array[np.isfinite(array)]
    if not finite.size:
        return False, (None, None)
    return False, (float(finite.min()), float(finite.max()))


def _same(values: Values, present: npt.NDArray[np.int64], elements: Array) -> str | None:
    """Return the digest of a value if all samples are bitwise identical to it, else None."""
    if not len(present):
        return None
    shapes = sample_shapes(values)[present]
    if (shapes != shapes[0]).any():
        return None
    samples = elements.reshape(len(present), *shapes[0])
    if not _repeats(samples):
        return None
    return digest([("", Dense(samples[:1]))], Algorithm.SHA256).hexadecimal


def _repeats(samples: Array) -> bool:
    """Return True if every sample, along the first axis, equals the first."""
    rows = samples.reshape(len(samples), int(np.prod(samples.shape[1:], dtype=np.int64)))
    if samples.dtype.kind not in "OSU" and rows.size:
        # As bytes, so that NaN equals itself and -0 differs from 0.
        rows = np.ascontiguousarray(rows).view(np.uint8)
    if len(rows) > 1 and not np.array_equal(rows[0], rows[1]):
        return False
    step = max(1, _BLOCK_BYTES // max(1, rows.shape[1]))
    blocks = (rows[start : start + step] for start in range(2, len(rows), step))
    return all(bool((block == rows[0]).all()) for block in blocks)
