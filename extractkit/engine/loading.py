"""Loading of a job: the model, the samples bound to it, and the planned tensors."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from extractkit.core.catalog import Catalog, TensorRecord
from extractkit.core.job import GRAPH, XLA, Job
from extractkit.core.plan import PlannedTensor, SampleLengths, divided, groups_of, plan_tensors
from extractkit.core.requests import ALONE, Bound
from extractkit.core.selectors import Selector
from extractkit.core.shards import Shard, plan_shards
from extractkit.engine.carrying import check_count, check_lengths, check_runtime
from extractkit.engine.catalog_files import CatalogFile, Heard, listening
from extractkit.engine.conformity import check_plugins
from extractkit.engine.failing_samples import Result, try_out
from extractkit.engine.gradients import (
    check_baselines,
    label_spec,
    offered,
    with_baseline_samples,
    with_measured_targets,
)
from extractkit.engine.measure import Measured, lacks_value, measure_axes
from extractkit.engine.model_cache import forget, model_of
from extractkit.engine.samples import Record, Surveyor, check_memory
from extractkit.errors import ConfigError, InputError, SampleError, SelectionError
from extractkit.inputs import Inputs, Scanning, Source
from extractkit.inputs.in_memory import NoSamples
from extractkit.inputs.labels import check_labels
from extractkit.models import (
    CarriesState,
    CheckpointAxis,
    Compilation,
    Model,
    checkpoint_axis_of,
    lacking,
)
from extractkit.models.axes import of_single_calls
from extractkit.models.process import without_collections
from extractkit.runs.directory import check_space

_HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Listing:
    """The tensors of a model, and those that each selector matches, extractable or not."""

    catalog: Catalog
    matches: Mapping[str, tuple[TensorRecord, ...]]


@dataclass(frozen=True)
class Opened:
    """A job with everything loaded that its plan needs.

    Attributes:
        model: the loaded model.
        source: the samples; empty, without opening anything, if no tensor depends on them.
        settings: settings that may change the last bits of values.
        selectors: the selectors by name, for the model's catalog.
        tensors: the tensors to store. Axes that only running the model shows are still unknown.
        matches: number of tensors that each selector stores.
        unextractable: tensors that selectors match but that cannot be extracted.
        bad_samples: the policy for samples that cannot be used: "fail", or "skip" them.
        axis: the checkpoints, if there are several; the model has the weights of the first.
        alone: whether each call of the model takes one sample in any case.
        why_alone: the reason, unless the job itself asks for it.
        samples_carried: number of samples per call if the model carries its state from call to
            call; None if each call starts from the initial state.
        surveyor: has seen every sample; None if that was not asked for, or needs another pass.
        scanned: seconds spent reading the samples.
    """

    model: Model
    source: Source
    compilation: Compilation
    settings: Mapping[str, object]
    selectors: Mapping[str, Selector]
    tensors: tuple[PlannedTensor, ...]
    matches: Mapping[str, int]
    unextractable: tuple[TensorRecord, ...]
    bad_samples: str = "fail"
    axis: CheckpointAxis | None = None
    alone: bool = False
    why_alone: str | None = None
    samples_carried: int | None = None
    surveyor: Surveyor | None = None
    scanned: float = 0.0

    @property
    def sets_of_weights(self) -> int:
        """Number of sets of weights for which everything is computed; 1 for each of a training."""
        return 1 if self.axis is None else max(1, len(self.axis.checkpoints))

    @cached_property
    def coarse(self) -> bool:
        """Whether 16-bit numbers take part, whose kernels differ by far more than usual."""
        devices = str(self.settings.get("devices", ""))
        records = self.model.catalog.records
        half = any(one.spec.dtype in _HALF and one.depends_on_inputs for one in records)
        # GPUs multiply matrices in TF32, which has the 10 bits of a float16.
        return half or "GPU" in devices

    @cached_property
    def constants(self) -> tuple[PlannedTensor, ...]:
        """The tensors that do not depend on the samples."""
        return divided(self.tensors)[0]

    @cached_property
    def varying(self) -> tuple[PlannedTensor, ...]:
        """The tensors that depend on the samples."""
        return divided(self.tensors)[1]

    def shards(
        self, lengths: SampleLengths, per_sample: npt.NDArray[np.int64], shard_size: int | None
    ) -> tuple[Shard, ...]:
        """Divide the samples into shards, of whole batches if state is carried.

        Args:
            per_sample: Stored bytes of each sample, int64 (samples,).
            shard_size: as in `plan_shards`.

        Raises:
            InputError: Samples of unequal lengths would share a batch that carries state.
        """
        if self.samples_carried is not None:
            check_lengths(lengths, self.samples_carried)
        return plan_shards(per_sample, shard_size, self.samples_carried or 1)

    def stored_bytes(self, lengths: SampleLengths, shards: int) -> dict[str, int | None]:
        """Return the predicted bytes of each tensor by key, over all checkpoints.

        A statistic of several tensors has bytes of its own, under the key of its group.
        A tensor whose lengths only the model can compute has None.

        Args:
            shards: number of shards of samples.
        """
        found: dict[str, int | None] = {}
        for tensor in self.tensors:
            size = tensor.stored_bytes(lengths, shards)
            found[tensor.key] = None if size is None else size * self.sets_of_weights
        for group in groups_of(self.tensors):
            found[group.group.key] = group.partial_bytes * shards * self.sets_of_weights
        return found

    def disk_bytes(self, stored: Mapping[str, int | None], sinks: int) -> int:
        """Return how many bytes these sizes take on disk: partial results are written once."""
        times = {one.key: sinks for one in self.tensors if not one.statistics}
        return sum((size or 0) * times.get(key, 1) for key, size in stored.items())

    def check_space(self, directory: Path, sinks: int, parts: int = 1) -> None:
        """Check that the values fit on a disk, as far as that is known before samples are read.

        Args:
            directory: the run directory.
            sinks: the number of formats that the values are stored in.
            parts: the number of parts that the job is divided into.

        Raises:
            DiskSpaceError: they do not fit.
        """
        if self.model.signature.free_axes or self.bad_samples != "fail":
            return
        stored = [one for one in self.varying if not one.statistics and not one.per_call]
        sizes = [one.bytes_per_sample(SampleLengths(1, {})) for one in stored]
        each = sum(int(size[0]) for size in sizes if size is not None)
        check_space(directory, each * len(self.source) * self.sets_of_weights * sinks // parts)

    def tried(
        self, attempt: Callable[[Source], Result], tensors: Sequence[PlannedTensor] = ()
    ) -> Result:
        """Return the result of an attempt on the first samples; see `try_out`.

        Raises:
            SelectionError: the model fails on a baseline of gradients.
        """
        try:
            return try_out(self.model, self.source, self.bad_samples, attempt, tensors)
        except SampleError:
            check_baselines(self.model, self.source, self.tensors, self.compilation)
            raise

    def measured(self) -> "Opened":
        """Return the same with all axes known, running the model if necessary.

        Raises:
            SelectionError: no tensor that a selector matches has a value per sample, the axes of
                none match, or a plugin does not do what it predicts.
        """

        def measure(samples: Source) -> Measured:
            how = (self.compilation, self.alone)
            tensors, why = with_measured_targets(self.model, samples, self.tensors, *how)
            alone = self.alone or why is not None
            found = measure_axes(
                *(self.model, samples, tensors, self.compilation),
                alone=alone,
                selectors=self.selectors,
            )
            return replace(found, alone=why or found.alone)

        found = self.tried(measure)
        check_plugins(found.tensors)
        for group in groups_of(found.tensors):
            group.check()
        return replace(
            self,
            tensors=found.tensors,
            matches={name: count - found.lost.get(name, 0) for name, count in self.matches.items()},
            unextractable=(*self.unextractable, *found.unextractable),
            alone=self.alone or found.alone is not None,
            why_alone=self.why_alone or found.alone,
        )


def list_tensors(job: Job) -> Listing:
    """Match the selectors with the model's tensors, without opening inputs.

    The model is loaded, unless its catalog is known from an earlier time.

    Raises:
        UserError: the model cannot be loaded, or a selector matches nothing.
    """
    # Only the model itself knows which of its gradients it can compute.
    gradients = any(one.gradient is not None for one in job.selectors)
    kept = None if gradients else CatalogFile.of(job.model)
    model, found, heard = None, None if kept is None else kept.read(), Heard()
    with without_collections():
        if found is None:
            with listening() as heard:
                model, _ = _loaded(job)
                found = model.catalog
        catalog = found.listed_by(job.listing)
        bound = offered(model, catalog, job.selectors, alone=True)
        listing = Listing(catalog, _matches(catalog, job.selectors, bound))
        if kept is not None and model is not None:
            kept.write(model, heard)
        return listing


def open_job(
    job: Job,
    record: Record | None = None,
    stage: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Load the model, bind the inputs and select tensors.

    Args:
        record: receives the samples' rows, if inputs can be surveyed while they are bound. None: no
            survey is needed.
        stage: called with the name of each stage that begins.

    Raises:
        UserError: one of these steps fails, or there is no selector.
    """
    if not job.selectors:
        raise ConfigError(
            f"selectors is empty: nothing would be extracted. Choose some: selectors=outputs, or "
            f"'+selectors.mine.path=…'. List what there is: {job.listing}"
        )
    runtime = job.runtime
    stage("loading the model")
    with without_collections():
        model, axis = _loaded(job)
        # Before the catalog, because tracing may draw seeds.
        settings = model.configure(runtime.seed, runtime.deterministic, runtime.device)
        carried = model.samples_carried() if isinstance(model, CarriesState) else None
        if carried is not None:
            check_runtime(runtime, carried)
        # Selecting needs no samples, so a misspelt selector is reported before a large file is
        # read.
        chosen = _chosen(model, job)
    tensors = chosen.tensors
    source: Source = NoSamples()
    surveyor = None
    began = time.perf_counter()
    if divided(tensors)[1]:
        stage("reading the samples")
        inputs = cast(Inputs, job.inputs.build())
        signature = replace(model.signature, label=label_spec(tensors))
        if signature.label is not None:
            check_labels(inputs, signature.label, f"inputs._target_={job.inputs.target}")
        if record is not None and isinstance(inputs, Scanning):
            surveyor = Surveyor(model, record, runtime.bad_samples)
            source = inputs.scan(signature, surveyor.see)
            # A source that has not shown all of its samples takes a pass of its own.
            surveyor = surveyor if surveyor.seen == len(source) else None
        else:
            source = inputs.bind(signature)
        _check_renamed(source, job.inputs.target)
        if not len(source):
            raise InputError("inputs holds no sample. Give at least one")
        check_memory(len(source))
        tensors = with_baseline_samples(model, source, tensors)
        if carried is not None:
            check_count(len(source), carried)
    matched = _matches(chosen.catalog, job.selectors, chosen.bound)
    unextractable = {
        (r.address, r.reason): r
        for records in matched.values()
        for r in records
        if not r.extractable
    }
    return Opened(
        model=model,
        source=source,
        # OpenVINO compiles later what is measured with TensorFlow.
        compilation=Compilation(XLA if runtime.compile == XLA else GRAPH, runtime.device),
        settings=settings,
        selectors={one.name: one.within(chosen.catalog) for one in job.selectors},
        tensors=tensors,
        matches={
            name: sum(record.extractable for record in records) for name, records in matched.items()
        },
        unextractable=tuple(unextractable.values()),
        bad_samples=runtime.bad_samples,
        axis=axis,
        alone=chosen.alone,
        why_alone=chosen.why_alone,
        samples_carried=carried,
        surveyor=surveyor,
        scanned=time.perf_counter() - began,
    )


def _check_renamed(source: object, target: str) -> None:
    """Refuse a source of an earlier protocol.

    Raises:
        ConfigError: it has `fingerprint` in place of `digest`.
    """
    if not isinstance(source, Source) and hasattr(source, "fingerprint"):
        raise ConfigError(
            f"inputs._target_={target}: its source has `fingerprint`, which is now `digest`. "
            f"Rename it"
        )


@dataclass(frozen=True)
class _Chosen:
    """The tensors that selectors choose, for batches or for single samples."""

    catalog: Catalog
    bound: Mapping[str, Bound]
    tensors: tuple[PlannedTensor, ...]
    alone: bool = False
    why_alone: str | None = None

    @classmethod
    def of(cls, model: Model, catalog: Catalog, job: Job, *, alone: bool = False) -> "_Chosen":
        """Plan what the selectors ask of a model.

        Args:
            alone: whether each call takes one sample.
        """
        # Without a gradient of its own, a sample cannot be omitted for it.
        totals = job.runtime.non_finite != "skip"
        bound = offered(model, catalog, job.selectors, alone=alone, totals=totals)
        return cls(catalog, bound, plan_tensors(catalog, job.selectors, bound), alone)


def _chosen(model: Model, job: Job) -> _Chosen:
    """Plan the tensors, for calls on single samples if the job asks for them or nothing else works.

    Raises:
        SelectionError: a selector matches nothing, or asks for axes that its tensors do not have.
    """
    catalog = model.catalog.listed_by(job.listing)
    if model.signature.batch == 1:
        return _Chosen.of(model, catalog, job, alone=True)
    single = of_single_calls(catalog)
    if job.runtime.batch_size == 1:
        return _Chosen.of(model, single, job, alone=True)
    try:
        return _Chosen.of(model, catalog, job)
    except SelectionError as error:
        try:
            chosen = _Chosen.of(model, single, job, alone=True)
        except SelectionError:
            raise error from None
        # Selectors may ask for the value and for gradients of one tensor.
        bound = offered(model, catalog, job.selectors, totals=False)
        reasons = {
            (name, record.address): record.reason
            for name, records in _matches(catalog, job.selectors, bound).items()
            for record in records
            if record.reason is not None
        }
        found = (
            f"{lacks_value(one)}: {reasons[name, one.address].removesuffix(ALONE)}"
            for one in chosen.tensors
            for name in one.selectors
            if (name, one.address) in reasons
        )
        if (why := next(found, None)) is None:
            raise
    return replace(chosen, why_alone=why)


def _loaded(job: Job) -> tuple[Model, CheckpointAxis | None]:
    """Return the model, with the first checkpoint if there are several."""
    model = _model(job)
    axis = checkpoint_axis_of(model)
    if axis is not None:
        forget()  # its weights change in place
        axis.choose(job.runtime.bad_checkpoints)
    return model, axis


def _model(job: Job) -> Model:
    model = model_of(job.model, job.runtime)
    if members := lacking(model):
        raise ConfigError(
            f"model._target_={job.model.target!r} returns a {type(model).__name__}, which is not a "
            f"model: it lacks {', '.join(members)}. Give a callable that returns an adapter: see "
            f"extractkit/models/__init__.py"
        )
    return cast(Model, model)


def _matches(
    catalog: Catalog, selectors: Iterable[Selector], bound: Mapping[str, Bound]
) -> dict[str, tuple[TensorRecord, ...]]:
    return {one.name: one.matching(catalog, bound.get(one.name)) for one in selectors}
