"""State that is carried in the order of the samples.

A job that carries state is one stream: each batch starts from the state after the previous batch.
So each commit stores the state after its shard, and a shard that is computed on its own starts from
the stored state of the previous shard.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from extractkit.core.job import Runtime
from extractkit.core.plan import SampleLengths
from extractkit.core.shards import Shard
from extractkit.core.values import Array, State
from extractkit.engine.batches import Batch
from extractkit.errors import ConfigError, InputError, SampleError, counted
from extractkit.models import CarryingProgram

KEY = "model.state"
_CARRY = f"{KEY}=carry"


def check_runtime(runtime: Runtime, samples: int) -> None:
    """Check that a job computes all samples in one stream, in order.

    Args:
        samples: number of samples per call.

    Raises:
        ConfigError: a setting of the runtime forbids it.
    """
    one_stream = "each sample starts from the state that the samples before it left"
    if runtime.engine != "local":
        raise ConfigError(
            f"runtime.engine={runtime.engine} and {_CARRY}: {one_stream}, so one process computes "
            f"them all. Use runtime.engine=local"
        )
    if runtime.part is not None:
        raise ConfigError(
            f"runtime.part={runtime.part} and {_CARRY}: {one_stream}, so the job has no parts. "
            f"Leave runtime.part out"
        )
    for name in ("bad_samples", "non_finite"):
        if getattr(runtime, name) == "skip":
            raise ConfigError(
                f"runtime.{name}=skip and {_CARRY}: {one_stream}, so none of them can be missing. "
                f"Use runtime.{name}=fail"
            )
    # A value equal to the default may not have been given.
    batch_size = None if runtime.batch_size == Runtime().batch_size else runtime.batch_size
    given = {"batch_size": batch_size, "batch_tokens": runtime.batch_tokens}
    for name, value in given.items():
        if value is not None and (name, value) != ("batch_size", samples):
            kept = f"states of batches of {samples} samples"
            if samples == 1:
                kept = "state of one stream and takes one sample per call"
            raise ConfigError(
                f"runtime.{name}={value} and {_CARRY}: the model keeps the {kept}. Leave "
                f"runtime.{name} out"
            )
    if (size := runtime.shard_size) is not None and size % samples:
        fitting = -(-size // samples) * samples
        raise ConfigError(
            f"runtime.shard_size={size} and {_CARRY}: a shard holds whole batches, and the model "
            f"keeps the states of batches of {samples} samples. Use runtime.shard_size={fitting}"
        )


def check_count(count: int, samples: int) -> None:
    """Check that the samples can be divided into whole batches.

    Raises:
        InputError: some are left over.
    """
    if left := count % samples:
        fewer = count - left
        way_out = f"inputs.limit={fewer}" if fewer else f"at least {samples} samples"
        raise InputError(
            f"inputs holds {counted(count, 'sample')}, and with {_CARRY} each call takes "
            f"exactly {samples}: {left} would be left over. Give {way_out}"
        )


def check_lengths(lengths: SampleLengths, samples: int) -> None:
    """Check that the samples of each batch have equal lengths: padding would change the state.

    Raises:
        InputError: two samples of a batch differ; the message names them.
    """
    for axis, own in lengths.axes.items():
        first = np.repeat(own[::samples], samples)[: len(own)]
        if len(other := np.flatnonzero(own != first)):
            at = int(other[0])
            start = at // samples * samples
            raise InputError(
                f"samples {start} and {at} share a batch with {_CARRY}, and their lengths along "
                f"{axis!r} are {own[start]} and {own[at]}: padding would change the state. Give "
                f"samples of equal lengths to each batch of {samples}"
            )


@dataclass(eq=False)
class Carried:
    """The state of one stream, and the program that updates it.

    Attributes:
        program: computes the tensors of the stream.
        before: Reads the stored state that a shard other than the first starts from.
        from_stored: Whether every shard starts from the stored state, even if the previous shard
            has just been computed.
    """

    program: CarryingProgram
    before: Callable[[Shard], State]
    from_stored: bool = False
    _state: State = field(default=(), init=False)
    _at: int | None = field(default=None, init=False)

    @property
    def state(self) -> State:
        """The state after the last batch."""
        return self._state

    def run(self, shard: Shard, positions: Sequence[int], batch: Batch) -> Sequence[Array]:
        """Run a batch of a shard from the state after the previous samples.

        Raises:
            SampleError: the model fails on it.
            RunDirectoryError: the state before the shard is not stored.
        """
        start = shard.start + positions[0]
        if start == 0:
            self._state = self.program.initial
        elif start != self._at or (self.from_stored and start == shard.start):
            self._state = self.before(shard)
        self._at = None
        try:
            values, state = self.program.call(*batch.arguments, self._state)
        except SampleError as error:
            last = start + len(positions) - 1
            raise SampleError(
                f"the model fails on samples {start} to {last}, which one call takes: {error}"
            ) from error
        self._state, self._at = state, start + len(positions)
        return values
