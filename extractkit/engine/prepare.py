"""Preparation of a job: load everything, measure all axes, compile the program and try it once."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
import numpy.typing as npt

from extractkit.core.job import BATCH_SIZE, GRAPH, XLA, Job
from extractkit.core.plan import PlannedTensor, SampleLengths
from extractkit.core.shards import Shard
from extractkit.core.values import State
from extractkit.engine.batch_effects import SpotCheck
from extractkit.engine.batches import (
    BatchRules,
    collate,
    converted,
    elements,
    encode,
    encoded_bytes,
    in_blocks,
    put,
    read_batch,
)
from extractkit.engine.carrying import Carried
from extractkit.engine.compilers import check_installed, compiled
from extractkit.engine.failing_samples import first_explained
from extractkit.engine.loading import Opened, open_job
from extractkit.engine.model_cache import program_of
from extractkit.engine.samples import Record, Survey, check_slices
from extractkit.engine.sharing import Shared, Sharing, measure_sharing
from extractkit.engine.sizes import SizeFaults, needed_addresses
from extractkit.engine.stream import Stream, fetches
from extractkit.errors import JobError, SampleError
from extractkit.inputs import Source
from extractkit.models import CarriesState, CarryingProgram, DecidesTogether, Program
from extractkit.models.process import free_memory, peak_memory, resident_memory
from extractkit.runs.manifest import SHARING

BATCH = "batch_size"
"""The setting in a manifest that holds the batch size, which `auto` does not name."""

MEASURED_SAMPLES = 256
"""The fewest samples of a job for which `runtime.batch_size=auto` measures anything."""

LARGEST_BATCH = 1024
"""The most samples that `runtime.batch_size=auto` puts into a batch."""

_AS_FAST = 0.95
"""Share of the best rate at which the smallest batch is taken: it has the least padding."""

_LOOKED_AT = 64
"""Number of samples among which the longest is looked for, if not all have been read."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Trial:
    """Measurements on the first sample, to estimate lengths that only the model can compute."""

    lengths: SampleLengths
    bytes: int

    def scaled(self, lengths: SampleLengths) -> npt.NDArray[np.int64]:
        """Estimate the bytes of each sample, in proportion to its lengths: int64 (samples,)."""
        ratio = np.ones(lengths.samples)
        for axis, own in lengths.axes.items():
            ratio *= own / max(1, int(self.lengths.axes[axis][0])) if self.bytes else 1
        return np.ceil(ratio * self.bytes).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A job that can compute any of its shards.

    Attributes:
        job: the job, with the batch size that was measured in place of `auto`.
        opened: model, samples and tensors, with all axes known.
        program: computes the tensors that depend on the samples; None if there are none.
        trial: measurements on the first sample.
        shared: which samples may share a batch.
        timings: seconds spent in each stage so far.
        carrying: computes the same tensors and carries the model's state from batch to batch; None
            if each call starts from the initial state.
        by_tensorflow: computes the same tensors without OpenVINO; `program` if that is not used.
        declined: see `Compiled`.
    """

    job: Job
    opened: Opened
    program: Program | None
    trial: Trial
    shared: Shared
    timings: Mapping[str, float]
    carrying: CarryingProgram | None = None
    by_tensorflow: Program | None = None
    declined: str | None = None

    @property
    def tensors(self) -> tuple[PlannedTensor, ...]:
        """Everything that the run stores, in the catalog's order."""
        return self.opened.tensors

    @property
    def varying(self) -> tuple[PlannedTensor, ...]:
        """The tensors that depend on the samples."""
        return self.opened.varying

    def ordered(self, shards: Sequence[Shard], found: Survey) -> list[Shard]:
        """Return the same shards in the order in which they are computed fastest."""
        if self.opened.axis is None:
            return list(shards)
        size = encoded_bytes(self.opened.model.signature, found.lengths)
        return list(in_blocks(shards, size))

    @property
    def _spot_check(self) -> SpotCheck | None:
        """The spot check; None if it is off, or samples do not share batches."""
        shared = self.shared.sharing in (Sharing.PADDED, Sharing.EQUAL)
        if not self.job.runtime.self_check or not shared or self.job.runtime.batch_size == 1:
            return None
        opened = self.opened
        return SpotCheck(opened.model.signature, self.varying, opened.coarse)

    def stream(
        self,
        found: Survey,
        on_batch: Callable[[int], None] = lambda samples: None,
        *,
        state_before: Callable[[Shard], State] | None = None,
        from_stored: bool = False,
    ) -> Stream:
        """Return the stream that computes shards, given the survey of the samples.

        Args:
            state_before: reads the stored state that a shard starts from. Needed if state is
                carried.
            from_stored: see `Carried`.
        """
        model, runtime = self.opened.model, self.job.runtime
        sharing = self.shared.sharing
        batch_size = runtime.batch_size
        assert batch_size is not None
        batch_size = 1 if sharing is Sharing.ALONE else batch_size
        rules = BatchRules(batch_size, runtime.batch_tokens, sharing is Sharing.PADDED)
        carried = None
        if self.carrying is not None:
            assert state_before is not None
            rules = BatchRules(self.carrying.samples, None, padded=False, in_order=True)
            carried = Carried(self.carrying, state_before, from_stored)
        return Stream(
            model,
            self.opened.source,
            self.program,
            self.varying,
            found.lengths,
            rules,
            constants=self.opened.constants,
            axis=self.opened.axis,
            missing=found.missing,
            bad_samples=runtime.bad_samples,
            non_finite=runtime.non_finite,
            on_batch=on_batch,
            carried=carried,
            any_size=partial(_any_size, self.opened, self.by_tensorflow),
            spot_check=self._spot_check,
        )


def prepare(
    job: Job,
    settings: Mapping[str, object] | None = None,
    stage: Callable[[str], None] = lambda _: None,
    record: Record | None = None,
) -> Prepared:
    """Load, bind, select, measure and compile.

    The trial compiles the program, so that a model that cannot run fails before anything is stored.

    Args:
        settings: the settings of the run that the job belongs to, which record which samples share
            a batch, and how many, so that every process decides the same way. None: measure it.
        stage, record: see `open_job`.

    Raises:
        UserError: a mistake in the job.
        JobError: the model fails on the first sample.
    """
    check_installed(job.runtime, settings)
    began = time.perf_counter()
    opened = open_job(job, record, stage)
    stage("measuring how tensors follow the samples' sizes")
    opened = opened.measured()
    loaded = time.perf_counter()
    varying = opened.varying
    if not varying:
        timings = {"load": loaded - began - opened.scanned}
        nothing = Trial(SampleLengths(1, {}), 0)
        runtime = replace(job.runtime, batch_size=job.runtime.batch_size or BATCH_SIZE)
        job = replace(job, runtime=runtime)
        return Prepared(job, opened, None, nothing, Shared(Sharing.PADDED), timings)
    if opened.surveyor is not None:
        # Before the model is compiled, since a mistake in a slice or a sample is known by now.
        check_slices(opened.surveyor.result(), varying, job.runtime.bad_samples)
    stage("compiling, and running the first sample")
    program = program_of(opened.model, fetches(varying), opened.compilation)
    trial = _tried(opened, varying, program)
    stage("measuring whether samples may share a batch")
    shared = sharing_of(opened, program, settings)
    chosen = compiled(opened, job.runtime, program, shared.sharing, settings)
    opened, by_tensorflow, program = chosen.opened, program, chosen.program
    if job.runtime.batch_size is None:
        stage("measuring how many samples a batch should hold")
        size = _batch_size(opened, program, shared.sharing, job.runtime.batch_tokens, settings)
        job = replace(job, runtime=replace(job.runtime, batch_size=size))
    carrying = None
    if opened.samples_carried is not None:
        assert isinstance(opened.model, CarriesState)
        carrying = opened.model.carrying_program(fetches(varying), opened.compilation)
    timings = {
        "load": loaded - began - opened.scanned,
        "survey": opened.scanned,
        "compile": time.perf_counter() - loaded,
    }
    return Prepared(
        *(job, opened, program, trial, shared, timings, carrying),
        by_tensorflow=by_tensorflow,
        declined=chosen.declined,
    )


def sharing_of(
    opened: Opened,
    program: Program | None = None,
    settings: Mapping[str, object] | None = None,
) -> Shared:
    """Return which samples may share a batch in a job whose axes are known.

    Args:
        program: computes the tensors that depend on the samples; None: made if needed.
        settings: see `prepare`.

    Raises:
        SampleError: the model fails on the first sample.
    """
    varying = opened.varying
    recorded = (settings or {}).get(SHARING)
    if recorded in list(Sharing):
        return Shared(Sharing(str(recorded)))
    if (carried := opened.samples_carried) is not None:
        taken = "one sample" if carried == 1 else f"{carried} samples"
        why = f"the model's state is carried in the order of the samples, {taken} per call"
        return Shared(Sharing.IN_ORDER, why)
    if opened.alone or len(opened.source) < 2:
        return Shared(Sharing.ALONE, opened.why_alone)
    if (decided := _decided_together(opened)) is not None:
        return Shared(Sharing.ALONE, f"the values of a whole batch decide {decided}")
    program = _any_size(opened, program)
    measured = partial(
        measure_sharing, opened.model, program=program, tensors=varying, coarse=opened.coarse
    )

    def attempt(samples: Source) -> Shared:
        if len(samples) < 2:
            return Shared(Sharing.ALONE)
        if (axis := opened.axis) is None:
            return measured(samples)
        # Early checkpoints, with zero weights for example, can hide what later ones show.
        axis.use(len(axis.checkpoints) - 1)
        try:
            return measured(samples)
        finally:
            axis.use(0)

    return opened.tried(attempt, varying)


def _decided_together(opened: Opened) -> str | None:
    """Return what the samples of a batch decide together, as a clause; None if nothing."""
    if not isinstance(opened.model, DecidesTogether):
        return None
    return opened.model.decision(needed_addresses(opened.varying))


def _batch_size(
    opened: Opened,
    program: Program,
    sharing: Sharing,
    tokens: int | None,
    settings: Mapping[str, object] | None = None,
) -> int:
    """Return the batch size that a run recorded, or that has the best rate with the memory at hand.

    The longest sample is run, repeated. Nothing is measured of a job of few samples, or with XLA,
    which would compile anew for each size.
    """
    recorded = (settings or {}).get(BATCH)
    if isinstance(recorded, int):
        return recorded
    few = len(opened.source) < MEASURED_SAMPLES
    shared = sharing in (Sharing.PADDED, Sharing.EQUAL)
    if few or not shared or opened.compilation.compile == XLA:
        return BATCH_SIZE

    def attempt(samples: Source) -> int:
        (longest,) = encode(opened.model, samples.read(at := _longest(opened, samples), at + 1))
        most = min(LARGEST_BATCH, len(samples) // 8)
        if tokens is not None:
            most = max(1, min(most, tokens // max(1, prod(longest.sizes.values()))))
        before = resident_memory()

        def tried(size: int) -> tuple[float, int]:
            batch = converted(opened.model, collate(opened.model.signature, [longest] * size))
            seconds = []
            for _ in range(3):  # the first call prepares kernels
                began = time.perf_counter()
                program(*batch.arguments)
                seconds.append(time.perf_counter() - began)
            return min(seconds), peak_memory() - before

        # The other half is for values that wait to be written.
        return fastest_batch(tried, free_memory() // 2, most)

    try:
        size = opened.tried(attempt, opened.varying)
    except OSError:  # a system that does not report its memory
        return BATCH_SIZE
    _log.info("runtime.batch_size=auto: %d", size)
    return size


def fastest_batch(tried: Callable[[int], tuple[float, int]], memory: int, most: int) -> int:
    """Return the number of samples in a batch with nearly the best rate.

    Doubles it until two successive larger batches are not faster, or one would need more memory.

    Args:
        tried: Runs a batch of so many samples. Returns its seconds, and the bytes that the process
            has needed for batches so far.
        memory: The bytes that a batch may need.
        most: The most samples.

    Raises:
        JobError, MemoryError: The model fails on a single sample.
    """
    rates: dict[int, float] = {}
    size, needed = 1, 0
    while size <= most and 2 * needed <= memory:
        try:
            seconds, needed = tried(size)
        except (JobError, MemoryError):
            if not rates:
                raise
            # The memory of a device, for example. Half of what it holds is left to other batches.
            rates = {one: rate for one, rate in rates.items() if one <= max(1, size // 4)}
            break
        if needed > memory and rates:
            break
        rates[size] = size / seconds
        *before, one, two = [0.0, 0.0, *rates.values()]
        if before and max(one, two) * _AS_FAST <= max(before):
            break
        size *= 2
    return min(one for one, rate in rates.items() if rate >= _AS_FAST * max(rates.values()))


def _longest(opened: Opened, samples: Source) -> int:
    """Return the longest sample that is known before all are read."""
    known = opened.surveyor.result().lengths if opened.surveyor is not None else None
    if known is not None and known.samples == len(samples) and known.axes:
        return int(np.prod(list(known.axes.values()), axis=0).argmax())
    first = encode(opened.model, samples.read(0, min(_LOOKED_AT, len(samples))))
    return max(range(len(first)), key=lambda at: elements(first[at]))


def _any_size(opened: Opened, program: Program | None) -> Program:
    """Return the program of the tensors that depend on the samples, to be run at many sizes.

    XLA would compile anew for each of them.
    """
    if program is not None and opened.compilation.compile != XLA:
        return program
    varying = opened.varying
    compilation = replace(opened.compilation, compile=GRAPH)
    return opened.model.program(fetches(varying), compilation)


def _tried(opened: Opened, varying: Sequence[PlannedTensor], program: Program) -> Trial:
    def attempt(samples: Source) -> Trial:
        first = read_batch(opened.model, samples, [0])
        lengths = SampleLengths(
            1, {axis: size.astype(np.int64) for axis, size in first.lengths.items()}
        )
        for tensor in varying:
            tensor.check_lengths(lengths)
        try:
            values = program(first.features, first.lengths)
        except SampleError as error:
            addresses = needed_addresses(varying)
            fault = SizeFaults(opened.model, addresses, program).of(first)
            raise SampleError(first_explained(str(error), fault)) from error
        rooms = [tensor.assembly(lengths) for tensor in varying]
        put(varying, rooms, [0], values, padded=bool(first.padded(opened.model.signature).any()))
        unforeseen = (v.nbytes for t, v in zip(varying, values, strict=True) if not t.predictable)
        return Trial(lengths, sum(unforeseen))

    return opened.tried(attempt, varying)
