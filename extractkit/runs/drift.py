"""Drift of tensors over a run's checkpoints: relative norm, cosine and linear CKA. NumPy only.

Sums are accumulated in float64, block by block, so that no tensor has to be in memory whole. They
do not depend on the number of cores.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from extractkit.core.shards import OuterAxis, Position
from extractkit.core.statistics import Arrays, Merging
from extractkit.core.statistics.products import (
    Matrix,
    PairSums,
    alignment,
    cosine,
    relative_norm,
)
from extractkit.core.values import Array, Dense, Values
from extractkit.errors import RunDirectoryError
from extractkit.runs.files import StoredFile, content_of
from extractkit.runs.schema import canonical, parse
from extractkit.runs.trajectory import TrajectoryView
from extractkit.runs.views import TensorView

DRIFT = "drift.json"
"""Name of the file in the run directory."""

HELD_BYTES = 256 * 1024 * 1024
_TOGETHER_BYTES = 16 * 1024 * 1024
_NUMBERS = "biuf"  # kinds of NumPy's types

Series = tuple[float | None, ...]


@dataclass(frozen=True)
class Moved:
    """One tensor at every checkpoint against a reference; null where a measure is not defined.

    Attributes:
        relative_norm, cosine, cka: see `Measures`. The examples are the samples. If the first
            axis varies from sample to sample, they are its elements (tokens). For weights, they
            run along all axes but the last.
    """

    relative_norm: Series
    cosine: Series
    cka: Series


@dataclass(frozen=True)
class TensorDrift:
    """Drift of one tensor from the first checkpoint and from the previous one."""

    from_first: Moved
    from_previous: Moved


@dataclass(frozen=True)
class Drift:
    """Drift of all numeric tensors, by key. Every series has an entry for each checkpoint."""

    checkpoints: tuple[str, ...]
    tensors: Mapping[str, TensorDrift]


def drift_of(views: Mapping[str, TensorView], axis: OuterAxis, missing: Collection[int]) -> Drift:
    """Read the tensors one after the other, and measure their drift.

    Values at the positions of other outer axes are further examples of a tensor at a checkpoint.

    Args:
        axis: the axis of the checkpoints.
        missing: samples without a value at some checkpoint, which are not measured at any.
    """
    lost = frozenset(missing)
    tensors = {
        key: _measured([tuple(_inner(view, at)) for at in axis.positions], lost)
        for key, view in views.items()
        if view.dtype.kind in _NUMBERS
    }
    return Drift(axis.labels, tensors)


def _inner(view: TensorView, chosen: Position) -> Iterator[TensorView]:
    """Yield a tensor at a position of one outer axis, and at every position of all others."""
    if not isinstance(view, TrajectoryView):
        yield view
        return
    along = view.axis.name == chosen.axis
    for one in [view.each[chosen.at]] if along else view.each:
        yield from _inner(one, chosen)


def to_bytes(drift: Drift) -> bytes:
    """Serialise drift as the content of the file."""
    return f"{canonical(drift)}\n".encode()


def read_drift(directory: Path, recorded: Sequence[StoredFile]) -> Drift | None:
    """Read the drift of a run; None if it has none.

    Args:
        recorded: the files that the manifest records.

    Raises:
        RunDirectoryError: the file is missing or damaged.
    """
    file = next((one for one in recorded if one.name == DRIFT), None)
    if file is None:
        return None
    file.check(directory)
    try:
        content = content_of(directory / DRIFT)
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{directory / DRIFT} is missing from its run") from error
    return parse(Drift, content, str(directory / DRIFT))


WIDEST = 2048
"""Most features for linear CKA, which needs square matrices of that size."""


def examples_of(values: Array) -> Matrix:
    """Return numbers of any type as float64 (examples, features); (1, 1) for a single number."""
    examples, *features = values.shape or (1,)
    return np.asarray(values, np.float64).reshape(examples, prod(features))


def sums(blocks: Iterable[tuple[Matrix, Matrix]], aligns: bool) -> Arrays:
    """Return the sums over pairs of blocks, each with the same examples on both sides.

    Args:
        aligns: whether linear CKA is measured, if there are not too many features.
    """
    merging: Merging[Arrays, Arrays] | None = None
    for one, other in blocks:
        if merging is None:
            accumulator = PairSums(aligns and one.shape[1] <= WIDEST)
            merging = Merging(accumulator)
        merging.add(accumulator.of((one, other)))
    return PairSums(False).of((_NOTHING, _NOTHING)) if merging is None else merging.finish()


def sums_of(blocks: Iterable[Matrix], aligns: bool) -> Arrays:
    """Return the sums over one tensor and itself."""
    return sums(((block, block) for block in blocks), aligns)


_NOTHING = np.zeros((0, 0))


@dataclass(frozen=True)
class Measures:
    """Similarity to a reference. Measures that are not defined are None.

    Attributes:
        relative_norm: ‖x − reference‖ / ‖reference‖; None if the reference is zero.
        cosine: cosine of the angle between the two as vectors; None if one of them is zero.
        cka: linear centred kernel alignment over the examples, from 0 to 1; None if there are no
            examples, more than `WIDEST` features, or no differences between the examples.
            Source: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019.

    All are None if the values contain NaN or an infinity.
    """

    relative_norm: float | None
    cosine: float | None
    cka: float | None


UNDEFINED = Measures(None, None, None)
"""Similarity of values of different shapes."""


class _ShapesDifferError(Exception):
    """Two tensors have no corresponding elements."""


def measures(
    reference: Iterable[Matrix], other: Iterable[Matrix], own: tuple[Arrays, Arrays]
) -> Measures:
    """Measure the similarity to a reference.

    Args:
        reference, other: blocks in the same order. Where shapes differ, the result is `UNDEFINED`.
        own: the sums over each of them and itself.
    """
    try:
        both = sums(_corresponding(reference, other), "products" in own[0])
    except _ShapesDifferError:
        return UNDEFINED
    if both["difference"] == 0:
        return to_itself(own[0])  # exact, without rounding
    return _measures(*own, both)


def _corresponding(
    reference: Iterable[Matrix], other: Iterable[Matrix]
) -> Iterator[tuple[Matrix, Matrix]]:
    for one, two in zip(reference, other, strict=True):
        if one.shape != two.shape:
            raise _ShapesDifferError
        yield one, two


def to_itself(own: Arrays) -> Measures:
    """Return the similarity of a tensor to itself, where it is defined."""
    return _measures(own, own, own)


def _measures(x: Arrays, y: Arrays, both: Arrays) -> Measures:
    return Measures(relative_norm(x, both), cosine(x, y, both), alignment(x, y, both))


def _measured(each: Sequence[tuple[TensorView, ...]], missing: frozenset[int]) -> TensorDrift:
    found: list[tuple[Measures, Measures]] = []
    blocks = _blocks_of(each[0][0])
    first = before = _Values(each[0], missing, *blocks)
    found.append((first.to_itself, first.to_itself))
    for own in each[1:]:
        values = _Values(own, missing, *blocks)
        if values.same_as(before):
            # An unchanged tensor (of a frozen layer, for example) is not measured again.
            found.append((found[-1][0], before.to_itself))
            continue
        found.append((_between(first, values), _between(before, values)))
        before = values
    from_first, from_previous = zip(*found, strict=True)
    return TensorDrift(_moved(from_first), _moved(from_previous))


def _blocks_of(view: TensorView) -> tuple[int, bool]:
    """Return how to measure a tensor, at every checkpoint alike.

    Returns:
        How many samples of small shards to measure at once, and whether the first axis of the
        values counts examples, as linear CKA needs.
    """
    if view.constant:
        return 1, view.ndim > 1
    for _, values in view.by_shard():
        if len(values):
            together = _TOGETHER_BYTES * len(values) // max(1, values.values.nbytes)
            # If several axes vary, each sample is flattened, so its numbers are not examples.
            return max(1, together), isinstance(values, Dense) or values.shapes is None
    return 1, True


def _moved(found: Sequence[Measures]) -> Moved:
    return Moved(
        tuple(one.relative_norm for one in found),
        tuple(one.cosine for one in found),
        tuple(one.cka for one in found),
    )


def _between(reference: "_Values", other: "_Values") -> Measures:
    return measures(reference, other, (reference.sums, other.sums))


class _Values:
    """A tensor at one checkpoint, block by block, kept in memory if it is small.

    Args:
        views: the tensor at every position of the other outer axes.
    """

    def __init__(
        self, views: Sequence[TensorView], missing: frozenset[int], together: int, aligns: bool
    ) -> None:
        self._views = views
        self._missing = missing
        self._together = together
        self._aligns = aligns
        self._kept: list[Matrix] | None = None

    @cached_property
    def sums(self) -> Arrays:
        """The sums over the values."""
        return sums_of(self, self._aligns)

    @cached_property
    def to_itself(self) -> Measures:
        """The similarity of the values to themselves."""
        return to_itself(self.sums)

    def same_as(self, other: "_Values") -> bool:
        """Return True if all values are equal."""
        same = self.sums["dot"] == other.sums["dot"]
        return bool(same) and all(
            np.array_equal(one, two) for one, two in zip(self, other, strict=True)
        )

    def __iter__(self) -> Iterator[Matrix]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Matrix] = []
        size = 0
        for values in self._read():
            block = examples_of(values)
            size += block.nbytes
            if size <= HELD_BYTES:
                kept.append(block)
            else:
                kept.clear()
            yield block
        self._kept = kept if size <= HELD_BYTES else None

    def _read(self) -> Iterator[Array]:
        for view in self._views:
            yield from self._read_one(view)

    def _read_one(self, view: TensorView) -> Iterator[Array]:
        if view.constant:
            value = np.asarray(view)
            yield value.reshape(prod(value.shape[:-1]), *value.shape[-1:])
            return
        gathered: list[Array] = []
        samples = 0
        for start, values in view.by_shard():
            gathered.append(present(start, values, self._missing))
            samples += len(values)
            if samples >= self._together:
                yield np.concatenate(gathered)
                gathered, samples = [], 0
        if gathered:
            yield np.concatenate(gathered)


def present(start: int, values: Values, missing: Collection[int]) -> Array:
    """Return the values of a shard without those of missing samples, in stored form.

    Args:
        start: the index of the shard's first sample.
        missing: the indices of missing samples, of any shard.
    """
    lost = [at for at in range(len(values)) if start + at in missing]
    if isinstance(values, Dense):
        return np.delete(values.values, lost, axis=0) if lost else values.values
    kept = np.ones(len(values), bool)
    kept[lost] = False
    return values.values[np.repeat(kept, np.diff(values.offsets))] if lost else values.values
