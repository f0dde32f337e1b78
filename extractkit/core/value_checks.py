"""What is found out about stored values in passing: NaN, infinities, extremes, values that stay.

Most values are finite and differ from sample to sample, and two passes (a minimum, a maximum) and
one comparison tell so. What takes longer is done for the others alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from extractkit.core.values import Array, Dense, Values, digest, sample_shapes

_FIRST = 5
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ValueStats:
    """What was found in one tensor's stored values, of one shard or of a whole run.

    Samples without a value (`absent`) have no part in it.

    Attributes:
        nan, inf: elements that are NaN, and infinite.
        samples: how many samples have any of them.
        first: the first few of those samples: by index, their elements that are NaN and infinite.
        minimum, maximum: of the finite elements, whole numbers exactly; None where there are none,
            or no numbers.
        same: SHA-256 of a sample's value where every sample has the same one, to the bit; None
            otherwise.
        examined: how many samples were looked at; 0 of a tensor that does not depend on them.
        elements: how many elements those have.
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
        """Whether there are two elements or more, and all finite ones are the same number."""
        return self.elements > 1 and self.minimum is not None and self.minimum == self.maximum

    @property
    def never_changes(self) -> bool:
        """Whether there are two samples or more, and all have the same value."""
        return self.same is not None and self.examined > 1


def examine(values: Values, first_sample: int | None) -> ValueStats:
    """What there is to know about one tensor's values.

    Args:
        values: of a shard, or the one value of a tensor that does not depend on the samples.
        first_sample: index of the shard's first sample; None where there are no samples.
    """
    if first_sample is None:
        return _examined_as_one(values.values)
    present = _present(values)
    array = _elements(values, present)
    finite, extremes = _extremes(array)
    found = {} if finite else non_finite_samples(values)
    return ValueStats(
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


def merged(stats: Sequence[ValueStats]) -> ValueStats:
    """What is known of several shards together, in whatever order they come."""
    first = {index: counts for one in stats for index, counts in one.first.items()}
    lowest = [one.minimum for one in stats if one.minimum is not None]
    highest = [one.maximum for one in stats if one.maximum is not None]
    same = {one.same for one in stats if one.examined}
    return ValueStats(
        nan=sum(one.nan for one in stats),
        inf=sum(one.inf for one in stats),
        samples=sum(one.samples for one in stats),
        first={index: first[index] for index in sorted(first, key=int)[:_FIRST]},
        minimum=min(lowest, default=None),
        maximum=max(highest, default=None),
        same=same.pop() if len(same) == 1 else None,
        examined=sum(one.examined for one in stats),
        elements=sum(one.elements for one in stats),
    )


def non_finite_samples(values: Values) -> dict[int, tuple[int, int]]:
    """The samples with NaN or infinite elements: by position, how many of either."""
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


def _examined_as_one(array: Array) -> ValueStats:
    finite, extremes = _extremes(array)
    return ValueStats(
        nan=0 if finite else int(np.count_nonzero(np.isnan(array))),
        inf=0 if finite else int(np.count_nonzero(np.isinf(array))),
        minimum=extremes[0],
        maximum=extremes[1],
        elements=array.size,
    )


def _present(values: Values) -> npt.NDArray[np.int64]:
    return np.delete(np.arange(len(values)), list(values.absent))


def _elements(values: Values, present: npt.NDArray[np.int64]) -> Array:
    """All elements of the samples that have a value, in order."""
    # An absent sample of varying shape has no elements anyway.
    partly = isinstance(values, Dense) and len(present) < len(values)
    return values.values[present] if partly else values.values


def _extremes(array: Array) -> tuple[bool, tuple[int | float | None, int | float | None]]:
    """Whether all elements are finite; and the extremes of those that are."""
    kind = array.dtype.kind
    if kind == "c":
        return bool(np.isfinite(array).all()), (None, None)
    if kind not in "fiub" or not array.size:
        return True, (None, None)
    # Either is NaN if any element is, so that these two passes answer for all.
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()
    if kind != "f":  # whole numbers that no float tells apart are not equal
        return True, (int(low), int(high))
    if np.isfinite(low) and np.isfinite(high):
        return True, (float(low), float(high))
    finite = array[np.isfinite(array)]
    if not finite.size:
        return False, (None, None)
    return False, (float(finite.min()), float(finite.max()))


def _same(values: Values, present: npt.NDArray[np.int64], elements: Array) -> str | None:
    """The digest of a value that all of these samples have, to the bit; None where they differ."""
    if not len(present):
        return None
    shapes = sample_shapes(values)[present]
    if (shapes != shapes[0]).any():
        return None
    samples = elements.reshape(len(present), *shapes[0])
    if not _repeats(samples):
        return None
    return digest([("", Dense(samples[:1]))])


def _repeats(samples: Array) -> bool:
    """Whether every sample, along the first axis, equals the first; mostly the second tells."""
    rows = samples.reshape(len(samples), int(np.prod(samples.shape[1:], dtype=np.int64)))
    if samples.dtype.kind not in "OSU" and rows.size:
        # As bytes: NaN equals itself then, and -0 is not 0.
        rows = np.ascontiguousarray(rows).view(np.uint8)
    if len(rows) > 1 and not np.array_equal(rows[0], rows[1]):
        return False
    step = max(1, _BLOCK_BYTES // max(1, rows.shape[1]))
    blocks = (rows[start : start + step] for start in range(2, len(rows), step))
    return all(bool((block == rows[0]).all()) for block in blocks)
