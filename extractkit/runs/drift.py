"""How a run's tensors move over its checkpoints: from the first one, and from the one before."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from extractkit.errors import RunDirectoryError
from extractkit.runs.files import StoredFile, content_of
from extractkit.runs.schema import canonical, parse
from extractkit.runs.similarity import Block, Likeness, Own, joined, likeness, to_itself
from extractkit.runs.trajectory import TrajectoryView
from extractkit.runs.views import TensorView
from extractkit.values import Dense, Values

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
