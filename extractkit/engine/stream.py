"""The stream of a job: read and encode, run the program, assemble shards.

Each of the three has a thread that works ahead of the next by a few batches or one shard, and
committing happens where the stream is used. So the slowest stage sets the pace, and memory holds a
few batches and a few shards, however many samples there are.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from extractkit.engine.batches import Batch, read_batch
from extractkit.engine.batching import BatchRules, plan_batches
from extractkit.engine.stages import ahead
from extractkit.errors import JobError
from extractkit.inputs.protocol import Source
from extractkit.models.protocol import Fetch, Model, Program
from extractkit.plan import Lengths, PlannedTensor, Shard
from extractkit.values import Array, Assembly, Values

_BATCHES_READ_AHEAD = 4
_BATCHES_COMPUTED_AHEAD = 2
_SHARDS_ASSEMBLED_AHEAD = 1


@dataclass(frozen=True, eq=False)
class ShardValues:
    """A computed shard: the values of each tensor by key, and seconds in the model."""

    shard: Shard
    values: dict[str, Values]
    compute_seconds: float


@dataclass(frozen=True, eq=False)
class _Work:
    shard: Shard
    positions: Sequence[int]
    batch: Batch


@dataclass(frozen=True, eq=False)
class _Computed:
    work: _Work
    values: Sequence[Array]
    seconds: float


@dataclass(frozen=True, eq=False)
class Stream:
    """Everything that decides the values of shards.

    A shard's values are a function of this and its range alone: which samples share a batch is
    decided inside the shard. `on_batch` is told how many samples each computed batch had.
    """

    model: Model
    source: Source
    program: Program
    tensors: Sequence[PlannedTensor]
    lengths: Lengths
    rules: BatchRules
    on_batch: Callable[[int], None] = lambda samples: None

    def shards(self, shards: Sequence[Shard]) -> Generator[ShardValues, None, None]:
        """The values of these shards, one after the other."""
        left = threading.Event()
        read = ahead(self._read(shards), _BATCHES_READ_AHEAD, left)
        computed = ahead(self._compute(read), _BATCHES_COMPUTED_AHEAD, left)
        assembled = ahead(self._assemble(shards, computed), _SHARDS_ASSEMBLED_AHEAD, left)
        with closing(assembled):
            for one in assembled:
                try:
                    yield one
                except GeneratorExit:
                    left.set()  # an interrupt waits for the batch at hand, not for a shard
                    raise
                del one

    def _read(self, shards: Sequence[Shard]) -> Iterator[_Work]:
        for shard in shards:
            for positions in self._batches(shard):
                at = [shard.start + position for position in positions]
                batch = read_batch(self.model, self.source, at, self.rules.length_step)
                yield _Work(shard, positions, batch)

    def _batches(self, shard: Shard) -> list[list[int]]:
        return plan_batches(self.lengths.part(shard.start, shard.stop), self.rules)

    def _compute(self, works: Generator[_Work, None, None]) -> Iterator[_Computed]:
        with closing(works):
            for work in works:
                began = time.perf_counter()
                values = self.program(work.batch.features, work.batch.lengths)
                yield _Computed(work, values, time.perf_counter() - began)

    def _assemble(
        self, shards: Sequence[Shard], computed: Generator[_Computed, None, None]
    ) -> Iterator[ShardValues]:
        with closing(computed):
            for shard in shards:
                yield self._assembled(shard, computed)

    def _assembled(self, shard: Shard, computed: Iterator[_Computed]) -> ShardValues:
        lengths = self.lengths.part(shard.start, shard.stop)
        assemblies = [assembly(tensor, lengths) for tensor in self.tensors]
        seconds = 0.0
        for _ in self._batches(shard):
            one = next(computed)
            seconds += one.seconds
            self.on_batch(len(one.work.positions))
            put(self.tensors, assemblies, one.work.positions, one.values)
        values = {
            tensor.key: room.finish() for tensor, room in zip(self.tensors, assemblies, strict=True)
        }
        return ShardValues(shard, values, seconds)


def assembly(tensor: PlannedTensor, lengths: Lengths) -> Assembly:
    """Room for a tensor's values of the samples with these lengths."""
    shapes = tensor.sample_shapes(lengths)
    return Assembly(tensor.sample_shape, tensor.dtype, shapes, lengths.samples)


def put(
    tensors: Sequence[PlannedTensor],
    assemblies: Sequence[Assembly],
    positions: Sequence[int],
    values: Sequence[Array],
) -> None:
    """Store what a program returned for a batch.

    Raises:
        JobError: a tensor has not the shape that was planned, named by its key.
    """
    for tensor, room, value in zip(tensors, assemblies, values, strict=True):
        try:
            room.put(positions, value)
        except JobError as error:
            dims = list(tensor.dims or ())
            raise JobError(f"{tensor.key!r} with dims {dims} cannot be stored: {error}") from error


def fetch(tensor: PlannedTensor) -> Fetch:
    """What a program must return for a planned tensor."""
    return Fetch(tensor.address, tensor.layout, tensor.axes)
