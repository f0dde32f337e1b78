"""Batches: planned from lengths, read, encoded and padded; their values put in place. NumPy only.

Libraries prepare and keep kernels for every batch shape. So padded lengths are rounded up and
batches come in a few sizes: a little more padding gives many times fewer shapes.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from extractkit.core.picks import LABEL_FEATURE
from extractkit.core.plan import PlannedTensor, Room, SampleLengths
from extractkit.core.shards import Shard
from extractkit.core.spec import TEXT, numpy_dtype
from extractkit.core.values import Array
from extractkit.errors import JobError
from extractkit.inputs import InputSpec, Sample, Signature, Source
from extractkit.models import ConvertsArguments, Encoded, Encoder, Model

LENGTH_STEP = 8
"""Padded lengths are multiples of this, up to the longest that the model takes."""

_SIZE_STEP = 8
"""Batches hold a multiple of this many samples, or a power of two below it."""

CALL_COST = 128
"""Cost of one more call of the model, in elements of padding."""


@dataclass(frozen=True)
class BatchRules:
    """Rules by which the samples of a shard are divided into batches.

    Attributes:
        batch_size: most samples in a batch.
        batch_tokens: most elements along the free axes of a batch, padding included; None: any.
        padded: whether samples of different lengths may share a batch (if padding does not change
            values).
        in_order: whether batches follow the order of the samples, each with `batch_size` samples.
    """

    batch_size: int
    batch_tokens: int | None
    padded: bool
    in_order: bool = False

    @property
    def length_step(self) -> int:
        """Return the number of which padded lengths are a multiple."""
        return LENGTH_STEP if self.padded else 1


def plan_batches(shard: SampleLengths, rules: BatchRules) -> list[list[int]]:
    """Return the positions in the shard, batch by batch.

    If lengths differ, samples are sorted by padded length (ties in order). Dynamic programming
    finds the cuts with the lowest cost of padding and calls.
    """
    if not shard.axes or rules.in_order:
        ends = range(0, shard.samples, rules.batch_size)
        return [list(range(a, min(a + rules.batch_size, shard.samples))) for a in ends]
    step = rules.length_step
    lengths = -(-np.stack(list(shard.axes.values())) // step) * step
    order = np.lexsort(lengths[::-1])
    return [order[a:b].tolist() for a, b in _cuts(lengths[:, order], rules)]


def _cuts(lengths: npt.NDArray[np.int64], rules: BatchRules) -> list[tuple[int, int]]:
    """Return where to cut sorted samples, int64 (axes, samples), into batches."""
    count = lengths.shape[1]
    cost = np.zeros(count + 1)
    begins = np.zeros(count + 1, np.int64)
    for end in range(1, count + 1):
        first = max(0, end - rules.batch_size)
        # Candidates from the largest batch to a single sample, which is always allowed.
        window = lengths[:, first:end][:, ::-1]
        longest = np.maximum.accumulate(window, axis=1).prod(axis=0)[::-1]
        padded = longest * np.arange(end - first, 0, -1)
        total = cost[first:end] + padded + CALL_COST
        total[:-1][~_allowed(window, padded, rules)[:-1]] = np.inf
        best = int(total.argmin())
        cost[end], begins[end] = total[best], first + best
    cuts = []
    end = count
    while end:
        cuts.append((int(begins[end]), end))
        end = int(begins[end])
    return cuts[::-1]


def _allowed(
    window: npt.NDArray[np.int64], padded: npt.NDArray[np.int64], rules: BatchRules
) -> npt.NDArray[np.bool_]:
    sizes = np.arange(len(padded), 0, -1)
    allowed: npt.NDArray[np.bool_]
    allowed = (sizes % _SIZE_STEP == 0) | ((sizes < _SIZE_STEP) & (sizes & (sizes - 1) == 0))
    if not rules.padded:
        allowed &= (window == window[:, :1]).all(axis=0)[::-1]
    if rules.batch_tokens is not None:
        allowed &= padded <= rules.batch_tokens
    return allowed


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays for a program.

    Attributes:
        features: (samples, *padded) for each input, and labels under `LABEL_FEATURE`.
        lengths: int32 (samples,) for each free axis, the samples' own lengths.
        tensors: both, converted by the model for cheap calls; None: not converted.
    """

    features: Mapping[str, Array]
    lengths: Mapping[str, Array]
    tensors: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))

    @property
    def arguments(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The arguments for a call of a program."""
        return self.tensors or (self.features, self.lengths)

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes, with their texts."""
        return sum(map(_bytes, (*self.features.values(), *self.lengths.values())))

    def sizes(self, signature: Signature) -> dict[str, int]:
        """Return the padded length of each free axis."""
        return {
            dim: size
            for spec in signature.specs
            for dim, size in zip(spec.dims, self.features[spec.name].shape[1:], strict=True)
            if dim is not None
        }

    def padded(self, signature: Signature) -> npt.NDArray[np.bool_]:
        """Return for each sample whether it is padded: bool (samples,)."""
        sizes = self.sizes(signature)
        found = np.zeros(len(self), bool)
        for axis, own in self.lengths.items():
            found |= own < sizes[axis]
        return found

    def take(self, rows: Sequence[int]) -> "Batch":
        """Return some of the samples with their present padding."""
        return Batch(
            {name: array[list(rows)] for name, array in self.features.items()},
            {axis: sizes[list(rows)] for axis, sizes in self.lengths.items()},
        )

    def trimmed(self, signature: Signature) -> "Batch":
        """Return the batch padded to the longest of its own samples and no further."""
        longest = {axis: int(sizes.max()) for axis, sizes in self.lengths.items()}
        parts = {
            spec.name: [slice(None if dim is None else longest[dim]) for dim in spec.dims]
            for spec in signature.specs
        }
        features = {
            name: array[(slice(None), *parts.get(name, ()))]
            for name, array in self.features.items()
        }
        if all(array.shape == self.features[name].shape for name, array in features.items()):
            return self
        return Batch(features, self.lengths)


def read_batch(
    model: Encoder,
    source: Source,
    positions: Sequence[int],
    length_step: int = 1,
    limits: Mapping[str, int] | None = None,
) -> Batch:
    """Return the samples at these positions of the source as one batch; see `collate`."""
    encoded = dict(zip(sorted(positions), _encoded(model, source, sorted(positions)), strict=True))
    ordered = [encoded[position] for position in positions]
    return collate(model.signature, ordered, length_step, limits)


def elements(encoded: Encoded) -> int:
    """Return the number of elements in a sample, counting the characters of texts."""
    arrays = encoded.features.values()
    return sum(
        array.size + (sum(map(len, array.flat)) if array.dtype.hasobject else 0) for array in arrays
    )


def _bytes(array: Array) -> int:
    return array.nbytes + (sum(map(len, array.flat)) if array.dtype.hasobject else 0)


def converted(model: Model, batch: Batch) -> Batch:
    """Return the batch with its arguments as tensors, if the model can convert them."""
    if not isinstance(model, ConvertsArguments):
        return batch
    return replace(batch, tensors=model.to_tensors(batch.features, batch.lengths))


def _encoded(model: Encoder, source: Source, ordered: Sequence[int]) -> Sequence[Encoded]:
    samples: list[Sample] = []
    start = 0
    for end in range(1, len(ordered) + 1):
        # Neighbours are read together.
        if end == len(ordered) or ordered[end] != ordered[end - 1] + 1:
            samples += source.read(ordered[start], ordered[end - 1] + 1)
            start = end
    return encode(model, samples)


def encode(model: Encoder, samples: Sequence[Sample]) -> Sequence[Encoded]:
    """Return samples as the model takes them, with their labels under `LABEL_FEATURE`."""
    return [
        one
        if sample.label is None
        else replace(one, features={**one.features, LABEL_FEATURE: sample.label})
        for one, sample in zip(model.encode(samples), samples, strict=True)
    ]


def collate(
    signature: Signature,
    encoded: Sequence[Encoded],
    length_step: int = 1,
    limits: Mapping[str, int] | None = None,
    longest: Mapping[str, int] | None = None,
) -> Batch:
    """Stack encoded samples, padded along every free axis.

    Each axis gets the length of the longest sample, rounded up to a multiple of `length_step`, but
    not beyond the limit of the model.

    Args:
        limits: the longest padded length of each axis; None: the model's limits.
        longest: the exact length of each axis; None: as above.
    """
    lengths = {
        axis: np.array([one.sizes[axis] for one in encoded], dtype=np.int32)
        for axis in signature.free_axes
    }
    if longest is None:
        limits = limits if limits is not None else signature.longest or {}
        longest = {}
        for axis, sizes in lengths.items():
            rounded = -(-int(sizes.max()) // length_step) * length_step
            longest[axis] = min(rounded, limits.get(axis, rounded))
    features = {
        spec.name: _stacked(spec, [one.features[spec.name] for one in encoded], longest)
        for spec in signature.specs
    }
    if all(LABEL_FEATURE in one.features for one in encoded):
        features[LABEL_FEATURE] = np.stack([one.features[LABEL_FEATURE] for one in encoded])
    return Batch(features, lengths)


def _stacked(spec: InputSpec, arrays: Sequence[Array], longest: Mapping[str, int]) -> Array:
    shape = tuple(
        longest[dim] if dim is not None else size or 0
        for dim, size in zip(spec.dims, spec.shape, strict=True)
    )
    if all(array.shape == shape for array in arrays):
        return np.stack(arrays)
    fill = b"" if spec.dtype == TEXT else spec.pad
    stacked = np.full((len(arrays), *shape), fill, dtype=numpy_dtype(spec.dtype))
    for row, array in zip(stacked, arrays, strict=True):
        row[tuple(slice(size) for size in array.shape)] = array
    return stacked


def put(
    tensors: Sequence[PlannedTensor],
    assemblies: Sequence[Room],
    positions: Sequence[int],
    values: Sequence[Array],
    padded: bool = True,
) -> None:
    """Store the values that a program returned for a batch.

    Args:
        padded: whether some of its samples may be padded.

    Raises:
        JobError: a tensor does not have the planned shape; the message names its key.
    """
    for tensor, room, value in zip(tensors, assemblies, values, strict=True):
        try:
            room.put(positions, value, padded)
        except JobError as error:
            dims = list(tensor.spec.titles)
            raise JobError(f"{tensor.key!r} with dims {dims} cannot be stored: {error}") from error


MEMORY = 256 * 1024 * 1024
"""Bytes of encoded samples to keep. If the model also converts them, this doubles."""

Range = tuple[int, int]
"""The range of a shard, without its checkpoint."""

_T = TypeVar("_T")


@dataclass(eq=False)
class ReadAlready(Generic[_T]):
    """Encoded samples by range. Drops the least recently used ones first."""

    memory: int = MEMORY
    _kept: OrderedDict[Range, tuple[_T, int]] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def get(self, extent: Range) -> _T | None:
        """Return the encoded samples of a range; None if they are not in the cache."""
        if extent not in self._kept:
            return None
        self._kept.move_to_end(extent)
        return self._kept[extent][0]

    def keep(self, extent: Range, value: _T, size: int) -> None:
        """Keep the encoded samples of a range, unless they alone exceed the limit."""
        if size > self.memory:
            return
        while self._bytes + size > self.memory:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
        self._kept[extent] = (value, size)
        self._bytes += size


def in_blocks(
    shards: Sequence[Shard], size: Callable[[Shard], int], memory: int = MEMORY
) -> Iterator[Shard]:
    """Return the same shards in the order in which they are computed fastest.

    Args:
        shards: in the order of a run: by outer axes, then by range.
        size: returns the approximate bytes of a range's encoded samples.
    """
    block: dict[Shard, int] = {}
    number = used = 0
    for extent in dict.fromkeys(shard.extent for shard in shards):
        own = size(extent)
        if used and used + own > memory:
            number, used = number + 1, 0
        block[extent] = number
        used += own
    yield from sorted(shards, key=lambda shard: (block[shard.extent], *shard.order))


def encoded_bytes(signature: Signature, lengths: SampleLengths) -> Callable[[Shard], int]:
    """Return a function that estimates the bytes of a range's encoded samples.

    A text counts as eight.
    """

    def of_spec(spec: InputSpec, shard: Shard) -> int:
        own = lengths.part(shard.start, shard.stop)
        sizes = [
            int(own.axes[dim].max(initial=0)) if dim is not None else size or 1
            for dim, size in zip(spec.dims, spec.shape, strict=True)
        ]
        return len(shard) * prod(sizes) * numpy_dtype(spec.dtype).itemsize

    return lambda shard: sum(of_spec(spec, shard) for spec in signature.specs)
