"""The self-check: comparison of the model's outputs with the model's own call.

Addresses, trace and weights of everything extracted come from one loaded model. If that model is
wrong (with values that a layer derived from other weights, for example), so is every value. The
outputs of the first batch are therefore compared with those of the same artefact, loaded a second
time with the standard loader of its format.
"""

import gc
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice

import numpy as np

from extractkit.core.catalog import Layout, TensorRecord
from extractkit.core.job import GRAPH, OPENVINO
from extractkit.core.requests import Value
from extractkit.core.shards import Shard
from extractkit.core.values import Array
from extractkit.engine.batches import Batch
from extractkit.engine.failing_samples import run_isolated
from extractkit.engine.prepare import Prepared
from extractkit.engine.stream import Stream, fetches
from extractkit.errors import ExtractkitError, JobError, counted
from extractkit.models import (
    CarriesState,
    CarryingProgram,
    Fetch,
    HasOwnCall,
    NoOwnCallError,
    OtherOutputsError,
    OwnCall,
    Program,
)
from extractkit.models.failures import error_summary, out_of_memory
from extractkit.models.process import kernels_kept
from extractkit.runs.comparing.measures import TOLERATED, TOLERATED_16, Deviation, compare_arrays
from extractkit.runs.environment import SelfCheck

_OTHER_VALUES = (
    "Either extractkit computes this model wrongly, which is worth a report, or the model is not "
    "the same each time that it is loaded and called"
)
_LOADED_ONCE = (
    "What loads the model (a factory, a layer's constructor) must work more than once in a "
    "process: let it leave no global state behind, and its files in place"
)
_SMALL = 16 << 20
"""Bytes of weights below which a copy of the model waits for the next collection of garbage. To
collect it at once takes longer than a small job, since every object in the process is visited."""


@dataclass(frozen=True)
class Difference:
    """An output that differs from the model's own, or an own call that fails.

    Attributes:
        check: the comparison that found it.
        address: address of the output; None if the own call fails, so nothing can be compared.
        found: the difference, or how the call fails.
        advice: the likely cause, and what to change.
    """

    check: SelfCheck
    address: str | None
    found: str
    advice: str = _OTHER_VALUES

    def __str__(self) -> str:
        weights = "" if self.check.checkpoint is None else f" at checkpoint {self.check.checkpoint}"
        if self.address is None:
            return f"the model's outputs cannot be compared with its own{weights}: {self.found}"
        return f"{self.address!r} is not the model's own output{weights}: {self.found}"


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
        records: one record for each set of weights checked.
        differences: every output that differs from the model's own.
        notes: messages for the user on comparisons that could not be made.
    """

    records: tuple[SelfCheck, ...]
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


def self_check(
    prepared: Prepared, stream: Stream, shards: Sequence[Shard], position: int | None = None
) -> Checked:
    """Compare the outputs of the first batch with the model's own.

    For a model with checkpoints, the first, second and last one are compared, or the one at
    `position`.

    Args:
        stream: the stream of the job.
        shards: the shards of the job. The first batch that can be computed is compared.

    Raises:
        SampleError: the model fails on a sample, as it would in the job itself.
        JobError: the model fails in another way.
    """
    positions = _positions(prepared) if position is None else [position]
    why = _not_applicable(prepared)
    if why is not None:
        return Checked(
            tuple(SelfCheck(_label(prepared, at), not_applicable=why) for at in positions)
        )
    comparison = _Comparison(prepared, stream, shards)
    with _generators_unchanged(prepared):
        found = [comparison.at(position) for position in positions]
    return Checked(
        tuple(record for one in found for record in one.records),
        tuple(difference for one in found for difference in one.differences),
        tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )


def refuse_differences(checked: Checked, committed: int) -> None:
    """Raise if an output differs from the model's own.

    Args:
        committed: number of shards that an earlier process has stored, without this check.

    Raises:
        JobError: names the first such output, its difference and the advice.
    """
    if not checked.differences:
        return
    first = checked.differences[0]
    more = len(checked.differences) - 1
    stored = "Nothing is stored"
    if committed:
        are = "is" if committed == 1 else "are"
        stored = f"{counted(committed, 'shard')} {are} committed already and may hold wrong values"
    others = f" ({counted(more, 'other difference')} besides)" if more else ""
    compared = ""
    if first.address is not None:
        compared = (
            f" It was compared for {counted(first.check.samples, 'sample')} with "
            f"{first.check.loaded_by}, to {first.check.tolerance}."
        )
    raise JobError(
        f"runtime.self_check: {first}{others}.{compared} {stored}. {first.advice}. To extract all "
        f"the same: runtime.self_check=false"
    )


def outputs_apart(
    record: TensorRecord, value: Array, own: Array, batch: Batch, *, coarse: bool = False
) -> Deviation:
    """Compare two outputs of a batch, without padding where its extent is known.

    Args:
        coarse: see `compare_arrays`.
    """
    if own.dtype.kind == "V":  # bfloat16, which a program returns as float32
        own = own.astype(value.dtype)
    layout = Layout.of(record)
    if layout is None or layout.axis is None or layout.split or value.shape != own.shape:
        return compare_arrays(value, own, coarse=coarse)
    by_sample = [np.moveaxis(array, layout.axis, 0) for array in (value, own)]
    pairs = []
    lengths = layout.of_free_axes(batch.lengths)
    for row in range(len(by_sample[0])):
        unpadded = tuple(
            slice(int(lengths[axis][row])) if axis in lengths else slice(None)
            for axis in range(1, len(layout.dims))
        )
        # A slice of one sample, because a single text would not be an array.
        pairs.append(
            tuple(array[(slice(row, row + 1), *unpadded)].reshape(-1) for array in by_sample)
        )
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return compare_arrays(first, second, coarse=coarse)


class _NotComparableError(Exception):
    """Raised if there is nothing to compare: no own call, or no outputs beside the job's."""


class _NotLoadedAgainError(Exception):
    """Raised if a model that was loaded once cannot be loaded again."""


class _OwnCallFailsError(Exception):
    """Raised if the model's own call fails on samples that extractkit computes."""


@dataclass(frozen=True, eq=False)
class _Comparison:
    prepared: Prepared
    stream: Stream
    shards: Sequence[Shard]

    def at(self, position: int | None) -> Checked:
        """Compare the outputs for one set of weights."""
        axis = self.prepared.opened.axis
        if axis is not None and position is not None:
            axis.use(position)
        record = SelfCheck(_label(self.prepared, position))
        try:
            return self._compared(position, record)
        except _NotComparableError as error:
            note = f"the job could not check itself: {error}"
            return Checked((replace(record, not_applicable=str(error)),), notes=(note,))

    def _compared(self, position: int | None, record: SelfCheck) -> Checked:
        # Computed before the second copy of the model takes memory.
        batch, values = self._computed()
        record = replace(
            record,
            samples=len(batch),
            tolerance=TOLERATED_16 if self._coarse else TOLERATED,
        )
        try:
            own_call = self._own_call(position)
            record = replace(record, loaded_by=own_call.loaded_by)
            own = self._own_outputs(own_call, batch)
            carried = self._carried(own_call, batch)
        except OtherOutputsError as error:
            return Checked((record,), (Difference(record, self._addresses[0], str(error)),))
        except _NotLoadedAgainError as error:
            return Checked((record,), (Difference(record, None, str(error), _LOADED_ONCE),))
        except _OwnCallFailsError as error:
            return Checked((record,), (Difference(record, None, str(error)),))
        del own_call
        catalog = self.prepared.opened.model.catalog
        if not 0 < catalog.weights_bytes < _SMALL:  # 0: weights may be constants of a graph
            gc.collect()  # a Keras model is a reference cycle, and its memory is needed now
        apart = [
            (
                address,
                outputs_apart(catalog[address], found[address], value, one, coarse=self._coarse),
            )
            for one, found, own_values in ((batch, values, own), *carried)
            for address, value in own_values.items()
        ]
        record = replace(
            record,
            samples=len(batch) + sum(len(one) for one, _, _ in carried),
            outputs=tuple(own),
            largest_difference=_finite(max(one.error for _, one in apart)),
            relative_difference=_finite(max(one.relative for _, one in apart)),
        )
        wrong = {address: str(one) for address, one in apart if one.beyond}
        return Checked((record,), tuple(Difference(record, *item) for item in wrong.items()))

    def _carried(
        self, own_call: OwnCall, first: Batch
    ) -> list[tuple[Batch, dict[str, Array], dict[str, Array]]]:
        """Return the second batch with computed and own outputs, or nothing without a state.

        It starts from the state that the first batch left.
        """
        program, own_after = self._carrying, own_call.outputs_after
        if program is None or own_after is None:
            return []
        batches = (batch for batch, _ in self.stream.batches(self.shards))
        second = next(islice(batches, 1, None), None)
        if second is None:
            return []
        _, state = program.call(*first.arguments, program.initial)
        values, _ = program.call(*second.arguments, state)
        found = dict(zip(self._addresses, values[-len(self._addresses) :], strict=True))
        before = (first.features, first.lengths)
        after = OwnCall(own_call.loaded_by, partial(own_after, before))
        return [(second, found, self._own_outputs(after, second))]

    def _own_call(self, position: int | None) -> OwnCall:
        """Load the model again. The copy takes memory until the call is released."""
        model = self.prepared.opened.model
        assert isinstance(model, HasOwnCall)
        try:
            return model.own_call(position)
        except NoOwnCallError as error:
            raise _NotComparableError(str(error)) from error
        except Exception as error:  # any error of a library that loaded the model once
            if out_of_memory(error):
                raise _NotComparableError("the memory is too small for the model twice") from error
            raise _NotLoadedAgainError(
                f"it cannot be loaded a second time: {_described(error)}"
            ) from error

    def _own_outputs(self, own_call: OwnCall, batch: Batch) -> dict[str, Array]:
        try:
            outputs = dict(own_call.outputs(batch.features, batch.lengths))
        except OtherOutputsError:
            raise
        except NoOwnCallError as error:
            raise _NotComparableError(str(error)) from error
        except Exception as error:  # any error of a user's layer
            if out_of_memory(error):
                raise _NotComparableError(
                    "the memory is too small for the model's own call"
                ) from error
            raise _OwnCallFailsError(
                f"its own call ({own_call.loaded_by}) fails on {counted(len(batch), 'sample')} "
                f"that extractkit computes: {_described(error)}"
            ) from error
        if not outputs:
            raise _NotComparableError("the model's own call takes other inputs")
        return outputs

    # ---- what the job computes

    @cached_property
    def _addresses(self) -> tuple[str, ...]:
        return tuple(record.address for record in self.prepared.opened.model.catalog.outputs)

    @cached_property
    def _beside(self) -> Program:
        """Computes the outputs together with everything extracted, which must not change them."""
        if self._carrying is not None:
            return self._carrying.from_initial
        if self._extracted is not None and self.stream.program is not None:
            return self.stream.program
        opened, compilation = self.prepared.opened, self.prepared.opened.compilation
        if compilation.compile == OPENVINO:
            # Compiling takes longer than the call, and the values of both have been compared.
            compilation = replace(compilation, compile=GRAPH)
        return opened.model.program(self._fetches, compilation)

    @property
    def _outputs_at(self) -> Sequence[int]:
        """The positions of the outputs among the results of that program."""
        if self._carrying is None and self._extracted is not None:
            return self._extracted
        return range(-len(self._addresses), 0)

    @cached_property
    def _extracted(self) -> Sequence[int] | None:
        """The positions of the outputs among what the job's own program returns.

        None if it lacks one, arranges or transforms it, or if OpenVINO has compiled it.
        """
        if self.prepared.opened.compilation.compile == OPENVINO:
            return None
        known = {
            fetch.address: at
            for at, fetch in enumerate(fetches(self.prepared.varying))
            if fetch.request == Value(fetch.address) and fetch.as_computed
        }
        if not known.keys() >= set(self._addresses):
            return None
        return [known[address] for address in self._addresses]

    @cached_property
    def _carrying(self) -> CarryingProgram | None:
        """The same program with the state carried; None if no state is carried."""
        if self.prepared.carrying is None:
            return None
        opened = self.prepared.opened
        assert isinstance(opened.model, CarriesState)
        return opened.model.carrying_program(self._fetches, opened.compilation)

    @property
    def _fetches(self) -> list[Fetch]:
        return [
            *fetches(self.prepared.varying),
            *(Fetch(Value(address)) for address in self._addresses),
        ]

    def _computed(self) -> tuple[Batch, dict[str, Array]]:
        """Compute the first batch whose outputs can be computed, without samples that fail."""
        opened = self.prepared.opened
        for batch, extracted in self.stream.batches(self.shards):
            try:
                outcome = run_isolated(self._beside, batch, opened.model.signature)
            except (JobError, MemoryError) as error:
                extracted()  # if the extraction fails as well, the job fails
                failure = _described(error)
                raise _NotComparableError(f"the outputs cannot be computed: {failure}") from error
            others = extracted() if outcome.failed else None
            if outcome.batch is not None:
                own = [outcome.values[at] for at in self._outputs_at]
                return outcome.batch, dict(zip(self._addresses, own, strict=True))
            if others is not None and others.rows:
                reason = next(iter(outcome.failed.values()))
                raise _NotComparableError(f"the outputs cannot be computed: {reason}")
        raise _NotComparableError("no sample can be computed")

    @property
    def _coarse(self) -> bool:
        return self.prepared.opened.coarse


def _positions(prepared: Prepared) -> list[int | None]:
    """Return the first, second and last set of weights."""
    if prepared.opened.axis is None:
        return [None]
    last = prepared.opened.sets_of_weights - 1
    return [*sorted({0, min(1, last), last})]


def _label(prepared: Prepared, position: int | None) -> str | None:
    axis = prepared.opened.axis
    return None if axis is None or position is None else axis.checkpoints[position].label


def _not_applicable(prepared: Prepared) -> str | None:
    model = prepared.opened.model
    if not isinstance(model, HasOwnCall):
        return f"model {model.name!r} has no call of its own"
    if prepared.program is None:
        return "no extracted tensor depends on the samples"
    if not model.catalog.outputs:
        return "the model has no output that depends on the samples"
    return None


@contextmanager
def _generators_unchanged(prepared: Prepared) -> Iterator[None]:
    """Restore random generators afterwards, because loading a model draws and seeds.

    Those of the model's library cannot be read, so they are seeded with the job's seed again.
    """
    runtime = prepared.job.runtime
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        with kernels_kept():
            prepared.opened.model.configure(runtime.seed, runtime.deterministic, runtime.device)
        random.setstate(python)
        np.random.set_state(numpy)


def _described(error: Exception) -> str:
    return str(error) if isinstance(error, ExtractkitError) else error_summary(error)


def _finite(difference: float) -> float:
    return min(float(difference), sys.float_info.max)
