"""The stream of a job: read and encode, run the program, assemble shards.

Each of the three has a thread that works ahead of the next by a few batches or one shard, and the
caller of the stream commits. The slowest stage sets the pace, and memory holds a few batches and a
few shards, however many samples there are.

Missing samples keep their position in a shard and have no value. If a model has several
checkpoints, the program stays, and its weights are replaced between shards.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain

import numpy as np

from extractkit.core.checkpoints import AXIS
from extractkit.core.plan import PlannedTensor, SampleLengths, groups_of
from extractkit.core.requests import Value
from extractkit.core.shards import Shard
from extractkit.core.statistics.registry import Group
from extractkit.core.value_checks import EXAMINATION, ValueChecks
from extractkit.core.values import Array, State, Values, without
from extractkit.engine.batch_effects import SpotCheck
from extractkit.engine.batches import (
    Batch,
    BatchRules,
    ReadAlready,
    converted,
    plan_batches,
    put,
    read_batch,
)
from extractkit.engine.carrying import Carried
from extractkit.engine.failing_samples import (
    BatchResult,
    explained,
    failing_alone,
    non_finite_reasons,
    refuse_non_finite,
    run,
    run_isolated,
)
from extractkit.engine.samples import blamed, named
from extractkit.engine.shard_contents import partial_results, stored
from extractkit.engine.sizes import OwnSizes, SizeFaults, needed_addresses
from extractkit.engine.threads import Pace, ahead, no_wake
from extractkit.errors import BadSampleError, FinalError, InputError, JobError, SampleError, counted
from extractkit.inputs import Source
from extractkit.models import CheckpointAxis, ChecksSizes, Fetch, Model, Program
from extractkit.models.failures import out_of_memory
from extractkit.runs.shards import ShardValues

STAGES = ("reading", "computing", "assembling", "storing")
"""Stages of a stream in their order; storing is what its user does with each shard."""

_BATCHES_READ_AHEAD = 4
_BATCHES_COMPUTED_AHEAD = 2
_SHARDS_ASSEMBLED_AHEAD = 1


@dataclass(frozen=True, eq=False)
class _Work:
    """One batch of a shard, or none if there is nothing to run, as for the constants."""

    shard: Shard
    positions: Sequence[int]
    batch: Batch | None
    last: bool = True
    checked: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class _Computed:
    work: _Work
    outcome: BatchResult
    seconds: float
    state: State | None = None


@dataclass(frozen=True, eq=False)
class Stream:
    """Everything that decides the values of shards.

    A shard's values depend only on this, its checkpoint and its range: which samples share a batch
    is decided inside the shard.

    Attributes:
        program: computes `tensors`; None if there are none.
        tensors: the tensors that depend on the samples.
        constants: the others.
        axis: the model's checkpoints, if it has several.
        missing: samples known to be unusable: by index, the reason.
        bad_samples: if the model fails on a sample, "fail", or "skip" it.
        non_finite: if values are NaN or infinite, "warn", "fail", or "skip" the sample.
        on_batch: receives the number of samples in each finished batch.
        carried: the state carried from batch to batch; None: each starts from the initial state.
        any_size: returns the same program in the form that runs best at many sizes; None: as it is.
        spot_check: compares a few samples of each shard with their values alone; None: none are.
    """

    model: Model
    source: Source
    program: Program | None
    tensors: Sequence[PlannedTensor]
    lengths: SampleLengths
    rules: BatchRules
    constants: Sequence[PlannedTensor] = ()
    axis: CheckpointAxis | None = None
    on_batch: Callable[[int], None] = lambda samples: None
    missing: Mapping[int, str] = field(default_factory=dict)
    bad_samples: str = "fail"
    non_finite: str = "warn"
    carried: Carried | None = None
    any_size: Callable[[], Program] | None = None
    spot_check: SpotCheck | None = None
    _read_already: ReadAlready[list[_Work]] = field(default_factory=ReadAlready)

    def shards(
        self,
        shards: Iterable[Shard],
        wake: Callable[[], None] = no_wake,
        pace: Pace | None = None,
    ) -> Generator[ShardValues, None, None]:
        """Yield the values of these shards in turn. Shards are taken a few ahead.

        Args:
            wake: unblocks the source of shards; called when no more are wanted.
            pace: learns which of the `STAGES` is the slowest.
        """
        left = threading.Event()
        waits = (pace or Pace(*STAGES)).between
        read = ahead(self._read(shards), _BATCHES_READ_AHEAD, left, wake, waits[0])
        computed = ahead(self._compute(read), _BATCHES_COMPUTED_AHEAD, left, wake, waits[1])
        assembled = ahead(self._assemble(computed), _SHARDS_ASSEMBLED_AHEAD, left, wake, waits[2])
        with closing(assembled):
            for one in assembled:
                try:
                    yield one
                except GeneratorExit:
                    left.set()  # an interrupt waits for the current batch, not for a shard
                    raise
                del one

    def batches(self, shards: Iterable[Shard]) -> Iterator[tuple[Batch, Callable[[], BatchResult]]]:
        """Yield each batch of these shards, and a call that computes it in this thread.

        The model keeps its current weights. The call raises what the stream of shards would raise.
        """
        for shard in shards:
            for work in self._works(shard):
                if work.batch is not None:
                    yield work.batch, partial(self._run, work, work.batch)

    def _read(self, shards: Iterable[Shard]) -> Iterator[Sequence[_Work]]:
        """Yield each batch when it is read, or a shard's batches at once if they are in memory.

        Handing these over one by one would take as long as a small model takes to compute them.
        """
        for shard in shards:
            works = self._works(shard)
            # With one set of weights, nothing is read twice, so nothing is kept.
            if self.axis is None:
                yield from ([work] for work in works)
            elif (known := self._read_already.get((shard.start, shard.stop))) is not None:
                yield [replace(work, shard=shard) for work in known]
            else:
                yield from ([work] for work in self._kept(shard, works))

    def _kept(self, shard: Shard, works: Iterator[_Work]) -> Iterator[_Work]:
        """Yield the batches of a shard, and keep them for other weights if memory allows."""
        read: list[_Work] = []
        size = 0
        for work in works:
            if (batch := work.batch) is not None:
                work = replace(work, batch=converted(self.model, batch))
                size += batch.nbytes
            if size <= self._read_already.memory:
                read.append(work)
            else:
                read.clear()  # too large to keep: it is read again
            yield work
        self._read_already.keep((shard.start, shard.stop), read, size)

    def _works(self, shard: Shard) -> Iterator[_Work]:
        batches = self._batches(shard)
        if not batches:
            yield _Work(shard, (), None)
        spot_check, chosen = self.spot_check, {}
        if spot_check is not None:
            chosen = spot_check.chosen(self.lengths.part(shard.start, shard.stop), batches)
        for number, positions in enumerate(batches):
            at = [shard.start + position for position in positions]
            try:
                batch = self.read(at)
            except InputError as error:
                # Not a user's mistake any more, because the survey could read it.
                raise JobError(f"a sample can no longer be read: {error}") from error
            checked: Sequence[int] = ()
            if spot_check is not None and number in chosen:
                checked = spot_check.rows(batch, chosen[number])
            yield _Work(shard, positions, batch, number == len(batches) - 1, checked)

    def read(self, indices: Sequence[int]) -> Batch:
        """Return these samples as one batch, with the padding of the run.

        Raises:
            InputError: a sample cannot be read.
        """
        step = self.rules.length_step
        return read_batch(self.model, self.source, indices, step, self._limits)

    @cached_property
    def _limits(self) -> dict[str, int]:
        """Return the limit of padding for each axis: the model's, or else the longest sample."""
        longest = self.model.signature.longest or {}
        return {
            axis: longest.get(axis, int(lengths.max(initial=0)))
            for axis, lengths in self.lengths.axes.items()
        }

    def _batches(self, shard: Shard) -> list[list[int]]:
        left = [at for at in range(len(shard)) if shard.start + at not in self.missing]
        lengths = self.lengths.part(shard.start, shard.stop).take(left)
        return [[left[row] for row in batch] for batch in plan_batches(lengths, self.rules)]

    def _compute(self, read: Generator[Sequence[_Work], None, None]) -> Iterator[_Computed]:
        with closing(read):
            for work in chain.from_iterable(read):
                began = time.perf_counter()
                at = work.shard.along(AXIS)
                if self.axis is not None and at is not None:
                    self.axis.use(at)
                outcome = BatchResult(range(0), [])
                if work.batch is not None:
                    outcome = self._with_memory(work, work.batch)
                    self._check(work, outcome)
                elif work.shard.constant:
                    outcome = BatchResult(range(0), self.model.constants(fetches(self.constants)))
                seconds = time.perf_counter() - began
                state = self.carried.state if self.carried and work.batch else None
                yield _Computed(work, outcome, seconds, state)

    def _with_memory(self, work: _Work, batch: Batch) -> BatchResult:
        """Run a batch.

        Raises:
            JobError: it fails, or memory does not suffice for it, with advice in the message.
        """
        try:
            return self._run(work, batch)
        except (MemoryError, JobError) as error:
            if not out_of_memory(error):
                raise
            size = counted(len(batch), "sample")
            raise JobError(
                f"memory does not suffice for a batch of {size}, in shard {work.shard.key}. "
                f"Committed shards are intact. Free memory and resume the run, which keeps its "
                f"batches, or start a new one with a smaller runtime.batch_size"
            ) from error

    def _run(self, work: _Work, batch: Batch) -> BatchResult:
        assert self.program is not None
        program, signature = self.program, self.model.signature
        if self.carried is not None:
            values = self.carried.run(work.shard, work.positions, batch)
            return BatchResult(range(len(batch)), values, batch=batch)
        refused = self._own_sizes.refused(batch) if self.rules.padded else {}
        if self.bad_samples == "skip":
            return run_isolated(program, batch, signature, self._size_fault, refused)
        for row, failure in refused.items():
            raise self._bad(work, row, explained(failure, self._size_fault(batch.take([row]))))
        try:
            return run(program, batch, signature)
        except SampleError as error:
            for row, reason in failing_alone(program, batch, signature, error, self._size_fault):
                raise self._bad(work, row, reason) from error
            raise

    def _check(self, work: _Work, outcome: BatchResult) -> None:
        """Compare some samples of a batch with their values alone.

        Raises:
            FinalError: one has other values; the message names it.
        """
        rows = [at for at, row in enumerate(outcome.rows) if row in work.checked]
        if self.spot_check is None or outcome.batch is None or not rows:
            return
        found = self.spot_check.effect(
            self._any_size_program, self._alone_program, outcome.batch, outcome.values, rows
        )
        if found is not None:
            index = work.shard.start + work.positions[outcome.rows[found.row]]
            raise FinalError(
                f"runtime.self_check: sample {named(self._id(index), index)}: {found}. Shards that "
                f"are committed may hold such values, too. To compute each sample alone: "
                f"runtime.batch_size=1, in a new run, as this one keeps its settings. To store the "
                f"values all the same, resume it with runtime.self_check=false"
            )

    def _bad(self, work: _Work, row: int, reason: str) -> BadSampleError:
        index = work.shard.start + work.positions[row]
        return BadSampleError(blamed(self._id(index), index, reason))

    @cached_property
    def _own_sizes(self) -> OwnSizes:
        return OwnSizes(
            self.model.signature, lambda: self._alone_program, self.lengths, self._takes_between
        )

    def _takes_between(self) -> bool:
        """Return whether sizes between two that the program takes need not be tried."""
        if not isinstance(self.model, ChecksSizes):
            return False
        values = all(isinstance(one.request, Value) for one in self.tensors)
        return values and self.model.takes_sizes_between([one.address for one in self.tensors])

    @cached_property
    def _any_size_program(self) -> Program:
        program = self.program if self.any_size is None else self.any_size()
        assert program is not None
        return program

    @cached_property
    def _alone_program(self) -> Program:
        """Return the program of samples alone, which checks the shapes of what it returns."""
        program = self._any_size_program

        def run_alone(
            features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> Sequence[Array]:
            values = program(features, lengths)
            own = SampleLengths(
                1, {axis: sizes.astype(np.int64) for axis, sizes in lengths.items()}
            )
            rooms = [tensor.assembly(own) for tensor in self.tensors]
            put(self.tensors, rooms, [0], values, padded=False)
            return values

        return run_alone

    def _size_fault(self, batch: Batch) -> str | None:
        return self._size_faults.of(batch)

    @cached_property
    def _size_faults(self) -> SizeFaults:
        assert self.program is not None
        addresses = needed_addresses(self.tensors)
        return SizeFaults(self.model, addresses, self.program)

    def _assemble(self, computed: Generator[_Computed, None, None]) -> Iterator[ShardValues]:
        with closing(computed):
            for one in computed:
                yield self._assembled(one, computed)

    def _assembled(self, one: _Computed, computed: Iterator[_Computed]) -> ShardValues:
        """Assemble a shard, starting with its first batch."""
        shard = one.work.shard
        tensors = self._tensors_in(shard)
        lengths = self.lengths.part(shard.start, shard.stop)
        assemblies = [tensor.assembly(lengths) for tensor in tensors]
        every = range(shard.start, shard.stop)
        missing = {index: self.missing[index] for index in every if index in self.missing}
        self.on_batch(len(missing))
        seconds = 0.0
        while True:
            seconds += one.seconds
            positions, outcome = one.work.positions, one.outcome
            self.on_batch(len(positions))
            if len(outcome.values):
                kept = [positions[row] for row in outcome.rows]
                put(tensors, assemblies, kept, outcome.values, self._padded(outcome))
            failed = outcome.failed.items()
            missing |= {shard.start + positions[row]: reason for row, reason in failed}
            if one.work.last:
                break
            one = next(computed)
        absent = [index - shard.start for index in missing]
        values = {
            tensor.key: room.finish(absent)
            for tensor, room in zip(tensors, assemblies, strict=True)
        }
        return self._checked(ShardValues(shard, values, {}, missing, seconds, one.state))

    def _padded(self, outcome: BatchResult) -> bool:
        return outcome.batch is None or bool(outcome.batch.padded(self.model.signature).any())

    def _checked(self, computed: ShardValues) -> ShardValues:
        """Return the shard with the checks of its values, and apply the non-finite policy."""
        shard, values, missing = computed.shard, computed.values, computed.missing
        start = shard.first
        stats = self._examined(values, start)
        if self.non_finite == "fail":
            skippable = self.carried is None
            refuse_non_finite(
                stats, lambda index: named(self._id(index), index), skippable=skippable
            )
        elif (
            self.non_finite == "skip"
            and start is not None
            and not all(one.finite for one in stats.values())
        ):
            reasons = non_finite_reasons(values)
            values = {
                tensor.key: without(values[tensor.key], list(reasons), tensor.spec.sample_shape)
                for tensor in self.tensors
            }
            stats = self._examined(values, start)
            missing = {**missing, **{start + at: reason for at, reason in reasons.items()}}
        ordered = {index: missing[index] for index in sorted(missing)}
        tensors = self._tensors_in(shard)
        return replace(
            computed,
            values=stored(tensors, values),
            stats=stats,
            missing=ordered,
            statistics=partial_results(tensors, values, shard, ordered, self._groups),
        )

    def _examined(self, values: Mapping[str, Values], start: int | None) -> dict[str, ValueChecks]:
        """Check values. Those of whole calls belong to no sample."""
        of_calls = {tensor.key for tensor in self.tensors if tensor.per_call}
        return {
            key: EXAMINATION.of((value, None if key in of_calls else start))
            for key, value in values.items()
        }

    def _tensors_in(self, shard: Shard) -> Sequence[PlannedTensor]:
        return self.constants if shard.constant else self.tensors

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        return tuple(one.group for one in groups_of(self.tensors))

    def _id(self, index: int) -> str:
        (sample,) = self.source.read(index, index + 1)
        return sample.id


def fetches(tensors: Iterable[PlannedTensor]) -> list[Fetch]:
    """Return what a program has to return for planned tensors."""
    return [Fetch(tensor.request, tensor.layout, tensor.bound) for tensor in tensors]
