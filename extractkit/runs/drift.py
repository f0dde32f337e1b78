"""How tensors move over a run's checkpoints: relative norm, cosine and linear CKA. NumPy only.

Everything is summed up in float64, block by block, so that no tensor has to be in memory whole.
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

WIDEST = 2048
"""Most features of which linear CKA is computed: it needs squares of that size."""

Matrix = npt.NDArray[np.float64]

_ROUNDING = (8 * np.finfo(np.float64).eps) ** 2
"""What of ‖x‖² rounding may leave of examples that do not differ at all."""

_UNTOLD = np.errstate(over="ignore", invalid="ignore")
"""Infinities and NaN are no news here: what they lead to has no meaning, and is None."""


@dataclass(eq=False)
class Block:
    """Some of a tensor's values.

    Attributes:
        values: numbers of any type.
        examples: whether its first axis counts examples, the others their features.
        keeps: whether what was made of them once is kept, for the next time.
    """

    values: Array
    examples: bool
    keeps: bool = False
    _numbers: Matrix | None = None
    _centred: Matrix | None = None

    @property
    def numbers(self) -> Matrix:
        """The values, float64 (examples, features); of a single number (1, 1)."""
        if self._numbers is not None:
            return self._numbers
        examples, *features = self.values.shape or (1,)
        made = np.asarray(self.values, np.float64).reshape(examples, prod(features))
        self._numbers = made if self.keeps else None
        return made

    @property
    def made_bytes(self) -> int:
        """Size in memory of what is made of them."""
        return 2 * self.values.size * np.dtype(np.float64).itemsize

    def centred(self, shift: Matrix) -> Matrix:
        """The numbers less what is to be subtracted from each example, which is always the same."""
        if self._centred is not None:
            return self._centred
        made = self.numbers - shift
        self._centred = made if self.keeps else None
        return made

    @property
    def aligns(self) -> bool:
        """Whether linear CKA can be computed of it."""
        return self.examples and self.values[:1].size <= WIDEST


def joined(blocks: Sequence[Block]) -> Block:
    """Blocks of one tensor as one: products of many rows at once cost least."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(np.concatenate([block.values for block in blocks]), blocks[0].examples)


@dataclass(frozen=True, eq=False)
class Own:
    """Sums over the values of one side.

    Attributes:
        norm: ‖x‖².
        count, total, square: of the examples their number, their sum, and XᵀX; no square where
            there is no CKA. Both are of examples less `shift`, the mean of the first block, which
            is near their own mean: otherwise sums would cancel each other.
    """

    norm: float
    count: int
    total: Matrix
    square: Matrix | None
    shift: Matrix

    @classmethod
    @_UNTOLD
    def of(cls, blocks: Iterable[Block]) -> "Own":
        """The sums over blocks."""
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
        """‖XᵀX‖ of centred columns: 0, but for rounding, where examples do not differ."""
        assert self.square is not None
        return _norm(self.square - np.outer(self.total, self.total) / self.count)


@dataclass(frozen=True)
class Likeness:
    """How like a reference something is; None for what has no meaning.

    Attributes:
        relative_norm: ‖x − reference‖ / ‖reference‖; None where the reference is zero.
        cosine: of the angle between the two as vectors; None where one of them is zero.
        cka: linear centred kernel alignment over the examples, from 0 to 1; None where there are
            no examples, more than `WIDEST` features, or nothing in which examples differ.
            Source: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019.

    All are None where NaN or an infinity is in the values.
    """

    relative_norm: float | None
    cosine: float | None
    cka: float | None


UNLIKE = Likeness(None, None, None)
"""Of two things of different shapes."""


@_UNTOLD
def likeness(reference: Iterable[Block], other: Iterable[Block], own: tuple[Own, Own]) -> Likeness:
    """How like the reference something is.

    Args:
        reference, other: blocks of equal sizes, in the same order; where they have other shapes,
            the two are unlike.
        own: the sums over each of them.
    """
    a, b = own
    difference = product = 0.0
    crossed: Matrix | None = None
    for one, two in zip(reference, other, strict=True):
        if one.values.shape != two.values.shape:
            return UNLIKE
        x, y = one.numbers, two.numbers
        moved = y - x
        difference += _dot(moved, moved)
        product += _dot(x, y)
        if a.square is not None and b.square is not None and len(x):
            here = one.centred(a.shift).T @ two.centred(b.shift)
            crossed = here if crossed is None else crossed + here
    if difference == 0.0:
        return to_itself(a)  # without what rounding would leave
    return Likeness(
        _ratio(sqrt(difference), sqrt(a.norm)),
        _bounded(_ratio(product, sqrt(a.norm) * sqrt(b.norm)), -1.0),
        _bounded(_cka(a, b, crossed), 0.0),
    )


@_UNTOLD
def to_itself(own: Own) -> Likeness:
    """How like itself something is: entirely, where that has a meaning."""
    return Likeness(
        _ratio(0.0, sqrt(own.norm)), _ratio(own.norm, own.norm), _cka(own, own, own.square)
    )


def _cka(a: Own, b: Own, crossed: Matrix | None) -> float | None:
    """‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), columns centred."""
    if a.square is None or b.square is None or crossed is None or a.count < 2:
        return None

    if a.spread <= _ROUNDING * a.norm or b.spread <= _ROUNDING * b.norm:
        return None
    both = _norm(crossed - np.outer(a.total, b.total) / a.count)
    return _ratio(both * both, a.spread * b.spread)


def _norm(matrix: Matrix) -> float:
    return sqrt(_dot(matrix, matrix))


def _dot(a: Matrix, b: Matrix) -> float:
    # Not by BLAS, whose threads take longer to start than such a sum does.
    return float(np.einsum("i,i->", a.reshape(-1), b.reshape(-1)))


def _ratio(above: float, below: float) -> float | None:
    if not np.isfinite(above) or not np.isfinite(below) or below <= 0.0:
        return None
    return above / below


def _bounded(value: float | None, least: float) -> float | None:
    """Without what rounding adds beyond the bounds."""
    return None if value is None else min(1.0, max(least, value))


DRIFT = "drift.json"
"""Name of the file in the run directory."""

_HELD_BYTES = 128 * 1024 * 1024
_TOGETHER_BYTES = 16 * 1024 * 1024
_NUMBERS = "biuf"  # kinds of NumPy's types

Series = tuple[float | None, ...]


@dataclass(frozen=True)
class Moved:
    """One tensor at every checkpoint against a reference; null where that has no meaning.

    Attributes:
        relative_norm, cosine, cka: see `Likeness`. Examples are samples; for tensors whose first
            axis varies from sample to sample its elements (tokens); for weights all axes but the
            last.
    """

    relative_norm: Series
    cosine: Series
    cka: Series


@dataclass(frozen=True)
class TensorDrift:
    """One tensor: against the first checkpoint, and against the one before."""

    from_first: Moved
    from_previous: Moved


@dataclass(frozen=True)
class Drift:
    """All tensors of numbers, by key; every series has an entry for each checkpoint."""

    checkpoints: tuple[str, ...]
    tensors: Mapping[str, TensorDrift]


def drift_of(views: Mapping[str, TrajectoryView], skipped: Collection[int]) -> Drift:
    """Read the tensors and measure them, one after the other.

    Args:
        skipped: samples that have no value at some checkpoint, and are left out at all.
    """
    labels: tuple[str, ...] = ()
    tensors = {}
    for key, view in views.items():
        labels = tuple(one.label for one in view.checkpoints)
        if view.dtype.kind in _NUMBERS:
            tensors[key] = _measured(view, frozenset(skipped))
    return Drift(labels, tensors)


def to_bytes(drift: Drift) -> bytes:
    """The content of the file."""
    return f"{canonical(drift)}\n".encode()


def read_drift(directory: Path, recorded: Sequence[StoredFile]) -> Drift | None:
    """What the file says; None where a run has none.

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


def _measured(view: TrajectoryView, skipped: frozenset[int]) -> TensorDrift:
    found: list[tuple[Likeness, Likeness]] = []
    together = _samples_together(view.each[0])
    first = before = _Values(view.each[0], skipped, together)
    found.append((first.to_itself, first.to_itself))
    for own in view.each[1:]:
        values = _Values(own, skipped, together)
        if values.same_as(before):
            # What does not change (a frozen layer, say) need not be measured again.
            found.append((found[-1][0], before.to_itself))
            continue
        found.append((_likeness(first, values), _likeness(before, values)))
        before = values
    from_first, from_previous = zip(*found, strict=True)
    return TensorDrift(_moved(from_first), _moved(from_previous))


def _samples_together(view: TensorView) -> int:
    """How many samples of small shards are measured in one go, the same at every checkpoint."""
    if view.constant:
        return 1
    for _, values in view.by_shard():
        if len(values):
            return max(1, _TOGETHER_BYTES * len(values) // max(1, values.values.nbytes))
    return 1


def _moved(found: Sequence[Likeness]) -> Moved:
    return Moved(
        tuple(one.relative_norm for one in found),
        tuple(one.cosine for one in found),
        tuple(one.cka for one in found),
    )


def _likeness(reference: "_Values", other: "_Values") -> Likeness:
    return likeness(reference, other, (reference.own, other.own))


class _Values:
    """A tensor at one checkpoint, shard by shard; kept in memory where it is small."""

    def __init__(self, view: TensorView, skipped: frozenset[int], together: int) -> None:
        self._view = view
        self._skipped = skipped
        self._together = together
        self._kept: list[Block] | None = None

    @cached_property
    def own(self) -> Own:
        """The sums over it."""
        return Own.of(self)

    @cached_property
    def to_itself(self) -> Likeness:
        """How like itself it is."""
        return to_itself(self.own)

    def same_as(self, other: "_Values") -> bool:
        """Whether the values are equal, number for number."""
        return self.own.norm == other.own.norm and all(
            np.array_equal(one.values, two.values) for one, two in zip(self, other, strict=True)
        )

    def __iter__(self) -> Iterator[Block]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Block] = []
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

    def _read(self) -> Iterator[Block]:
        if self._view.constant:
            value = np.asarray(self._view)
            rows = prod(value.shape[:-1])
            yield Block(value.reshape(rows, *value.shape[-1:]), value.ndim > 1)
            return
        gathered: list[Block] = []
        samples = 0
        for start, values in self._view.by_shard():
            gathered.append(self._block(start, values))
            samples += len(values)
            if samples >= self._together:
                yield joined(gathered)
                gathered, samples = [], 0
        if gathered:
            yield joined(gathered)

    def _block(self, start: int, values: Values) -> Block:
        gone = [at for at in range(len(values)) if start + at in self._skipped]
        if isinstance(values, Dense):
            return Block(np.delete(values.values, gone, axis=0) if gone else values.values, True)
        kept = np.ones(len(values), bool)
        kept[gone] = False
        rows = values.values[np.repeat(kept, np.diff(values.offsets))] if gone else values.values
        # Where several axes vary each sample is flattened, and its numbers are no examples.
        return Block(rows, values.shapes is None)
