"""Drift of tensors over a run's checkpoints: relative norm, cosine and linear CKA. NumPy only.

Sums are accumulated in float64, block by block, so that no tensor has to be in memory whole.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extractkit.core.values import Array, Dense, Values
from extractkit.errors import RunDirectoryError
from extractkit.runs.files import StoredFile, content_of
from extractkit.runs.schema import canonical, parse
from extractkit.runs.trajectory import TrajectoryView
from extractkit.runs.views import TensorView

DRIFT = "drift.json"
"""Name of the file in the run directory."""

_HELD_BYTES = 128 * 1024 * 1024
_TOGETHER_BYTES = 16 * 1024 * 1024
_NUMBERS = "biuf"  # kinds of NumPy's types

Series = tuple[float | None, ...]


@dataclass(frozen=True)
class Moved:
    """One tensor at every checkpoint against a reference; null where a measure is not defined.

    Attributes:
        relative_norm, cosine, cka: see `Similarity`. The examples are the samples. If the first
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


def drift_of(views: Mapping[str, TrajectoryView], missing: Collection[int]) -> Drift:
    """Read the tensors one after the other, and measure their drift.

    Args:
        missing: samples without a value at some checkpoint, which are not measured at any.
    """
    labels: tuple[str, ...] = ()
    tensors = {}
    for key, view in views.items():
        labels = tuple(one.label for one in view.checkpoints)
        if view.dtype.kind in _NUMBERS:
            tensors[key] = _measured(view, frozenset(missing))
    return Drift(labels, tensors)


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

Matrix = npt.NDArray[np.float64]

_ROUNDING = (8 * np.finfo(np.float64).eps) ** 2
"""The share of ‖x‖² that rounding may leave when the examples do not differ at all."""

_NON_FINITE_IS_NONE = np.errstate(over="ignore", invalid="ignore")
"""Infinities and NaN need no warning: measures of such values are None."""


@dataclass(eq=False)
class Chunk:
    """Some of a tensor's values.

    Attributes:
        values: numbers of any type.
        examples: whether the first axis counts examples and the others their features.
        keeps: whether derived arrays are kept for the next use.
    """

    values: Array
    examples: bool
    keeps: bool = False
    _numbers: Matrix | None = None
    _centred: Matrix | None = None

    @property
    def numbers(self) -> Matrix:
        """The values, float64 (examples, features); (1, 1) for a single number."""
        if self._numbers is not None:
            return self._numbers
        examples, *features = self.values.shape or (1,)
        made = np.asarray(self.values, np.float64).reshape(examples, prod(features))
        self._numbers = made if self.keeps else None
        return made

    @property
    def made_bytes(self) -> int:
        """Size in memory of the derived arrays."""
        return 2 * self.values.size * np.dtype(np.float64).itemsize

    def centred(self, shift: Matrix) -> Matrix:
        """Return the numbers less `shift`, which is the same in every call."""
        if self._centred is not None:
            return self._centred
        made = self.numbers - shift
        self._centred = made if self.keeps else None
        return made

    @property
    def aligns(self) -> bool:
        """Whether linear CKA can be computed for the block."""
        return self.examples and self.values[:1].size <= WIDEST


def joined(blocks: Sequence[Chunk]) -> Chunk:
    """Join blocks of one tensor, because products over many rows at once are fastest."""
    if len(blocks) == 1:
        return blocks[0]
    return Chunk(np.concatenate([block.values for block in blocks]), blocks[0].examples)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the values of one tensor at one checkpoint.

    Attributes:
        norm: ‖x‖².
        count, total, square: number of examples, their sum, and XᵀX; no square if CKA is not
            computed. Sum and square are of the examples less `shift`, the mean of the first block.
            It is near the overall mean, which avoids cancellation.
    """

    norm: float
    count: int
    total: Matrix
    square: Matrix | None
    shift: Matrix

    @classmethod
    @_NON_FINITE_IS_NONE
    def of(cls, blocks: Iterable[Chunk]) -> "Sums":
        """Sum up blocks."""
        norm, count = 0.0, 0
        shift: Matrix | None = None
        total: Matrix | None = None
        square: Matrix | None = None
        aligns = True
        for block in blocks:
            numbers = block.numbers
            norm += _dot(numbers, numbers)
            aligns = aligns and block.aligns
            if not aligns or not len(numbers):
                continue
            if shift is None:
                shift = numbers.mean(axis=0)
            rows = block.centred(shift)
            count += len(rows)
            total = rows.sum(axis=0) + (0.0 if total is None else total)
            square = rows.T @ rows + (0.0 if square is None else square)
        empty = np.zeros(0)
        return cls(
            norm,
            count,
            empty if total is None else total,
            square if aligns else None,
            empty if shift is None else shift,
        )

    @cached_property
    def spread(self) -> float:
        """‖XᵀX‖ of centred columns: 0, except for rounding, if the examples do not differ."""
        assert self.square is not None
        return _norm(self.square - np.outer(self.total, self.total) / self.count)


@dataclass(frozen=True)
class Similarity:
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


UNDEFINED = Similarity(None, None, None)
"""Similarity of values of different shapes."""


@_NON_FINITE_IS_NONE
def similarity(
    reference: Iterable[Chunk], other: Iterable[Chunk], sums: tuple[Sums, Sums]
) -> Similarity:
    """Measure the similarity to a reference.

    Args:
        reference, other: blocks in the same order. Where shapes differ, the result is `UNDEFINED`.
        sums: the sums over each of them.
    """
    a, b = sums
    difference = product = 0.0
    crossed: Matrix | None = None
    for one, two in zip(reference, other, strict=True):
        if one.values.shape != two.values.shape:
            return UNDEFINED
        x, y = one.numbers, two.numbers
        moved = y - x
        difference += _dot(moved, moved)
        product += _dot(x, y)
        if a.square is not None and b.square is not None and len(x):
            here = one.centred(a.shift).T @ two.centred(b.shift)
            crossed = here if crossed is None else crossed + here
    if difference == 0.0:
        return to_itself(a)  # exact, without rounding
    return Similarity(
        _ratio(sqrt(difference), sqrt(a.norm)),
        _bounded(_ratio(product, sqrt(a.norm) * sqrt(b.norm)), -1.0),
        _bounded(_cka(a, b, crossed), 0.0),
    )


@_NON_FINITE_IS_NONE
def to_itself(sums: Sums) -> Similarity:
    """Return the similarity of a tensor to itself, where it is defined."""
    return Similarity(
        _ratio(0.0, sqrt(sums.norm)), _ratio(sums.norm, sums.norm), _cka(sums, sums, sums.square)
    )


def _cka(a: Sums, b: Sums, crossed: Matrix | None) -> float | None:
    """Return ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), columns centred."""
    if a.square is None or b.square is None or crossed is None or a.count < 2:
        return None

    if a.spread <= _ROUNDING * a.norm or b.spread <= _ROUNDING * b.norm:
        return None
    both = _norm(crossed - np.outer(a.total, b.total) / a.count)
    return _ratio(both * both, a.spread * b.spread)


def _norm(matrix: Matrix) -> float:
    return sqrt(_dot(matrix, matrix))


def _dot(a: Matrix, b: Matrix) -> float:
    # Without BLAS, whose threads take longer to start than such a sum takes.
    return float(np.einsum("i,i->", a.reshape(-1), b.reshape(-1)))


def _ratio(above: float, below: float) -> float | None:
    if not np.isfinite(above) or not np.isfinite(below) or below <= 0.0:
        return None
    return above / below


def _bounded(value: float | None, least: float) -> float | None:
    """Clip a value to the bounds, which rounding may exceed."""
    return None if value is None else min(1.0, max(least, value))


def _measured(view: TrajectoryView, missing: frozenset[int]) -> TensorDrift:
    found: list[tuple[Similarity, Similarity]] = []
    together = _samples_together(view.each[0])
    first = before = _Values(view.each[0], missing, together)
    found.append((first.to_itself, first.to_itself))
    for own in view.each[1:]:
        values = _Values(own, missing, together)
        if values.same_as(before):
            # An unchanged tensor (of a frozen layer, for example) is not measured again.
            found.append((found[-1][0], before.to_itself))
            continue
        found.append((_similarity(first, values), _similarity(before, values)))
        before = values
    from_first, from_previous = zip(*found, strict=True)
    return TensorDrift(_moved(from_first), _moved(from_previous))


def _samples_together(view: TensorView) -> int:
    """Return how many samples of small shards to measure at once, at every checkpoint alike."""
    if view.constant:
        return 1
    for _, values in view.by_shard():
        if len(values):
            return max(1, _TOGETHER_BYTES * len(values) // max(1, values.values.nbytes))
    return 1


def _moved(found: Sequence[Similarity]) -> Moved:
    return Moved(
        tuple(one.relative_norm for one in found),
        tuple(one.cosine for one in found),
        tuple(one.cka for one in found),
    )


def _similarity(reference: "_Values", other: "_Values") -> Similarity:
    return similarity(reference, other, (reference.sums, other.sums))


class _Values:
    """A tensor at one checkpoint, shard by shard, kept in memory if it is small."""

    def __init__(self, view: TensorView, missing: frozenset[int], together: int) -> None:
        self._view = view
        self._missing = missing
        self._together = together
        self._kept: list[Chunk] | None = None

    @cached_property
    def sums(self) -> Sums:
        """The sums over the values."""
        return Sums.of(self)

    @cached_property
    def to_itself(self) -> Similarity:
        """The similarity of the values to themselves."""
        return to_itself(self.sums)

    def same_as(self, other: "_Values") -> bool:
        """Return True if all values are equal."""
        return self.sums.norm == other.sums.norm and all(
            np.array_equal(one.values, two.values) for one, two in zip(self, other, strict=True)
        )

    def __iter__(self) -> Iterator[Chunk]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Chunk] = []
        size = made = 0
        for block in self._read():
            size += block.values.nbytes
            made += block.made_bytes
            block.keeps = size <= _HELD_BYTES and made <= _HELD_BYTES
            if size <= _HELD_BYTES:
                kept.append(block)
            else:
                kept.clear()
            yield block
        self._kept = kept if size <= _HELD_BYTES else None

    def _read(self) -> Iterator[Chunk]:
        if self._view.constant:
            value = np.asarray(self._view)
            rows = prod(value.shape[:-1])
            yield Chunk(value.reshape(rows, *value.shape[-1:]), value.ndim > 1)
            return
        gathered: list[Chunk] = []
        samples = 0
        for start, values in self._view.by_shard():
            gathered.append(self._block(start, values))
            samples += len(values)
            if samples >= self._together:
                yield joined(gathered)
                gathered, samples = [], 0
        if gathered:
            yield joined(gathered)

    def _block(self, start: int, values: Values) -> Chunk:
        missing = [at for at in range(len(values)) if start + at in self._missing]
        if isinstance(values, Dense):
            kept_rows = np.delete(values.values, missing, axis=0) if missing else values.values
            return Chunk(kept_rows, True)
        kept = np.ones(len(values), bool)
        kept[missing] = False
        rows = values.values[np.repeat(kept, np.diff(values.offsets))] if missing else values.values
        # If several axes vary, each sample is flattened, so its numbers are not examples.
        return Chunk(rows, values.shapes is None)
